"""What a channel is and does on its own: census, thresholds, dissection, ablation, motion."""
