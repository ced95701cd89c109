"""Maps that share a weight or a pooled value, and whether they are alike."""
