"""Networks trained to localise from image labels, for wsss-probe."""
