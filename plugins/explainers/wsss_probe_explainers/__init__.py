"""Relevance maps for wsss-probe: CAM, Grad-CAM, Grad-CAM++, Layer-CAM."""
