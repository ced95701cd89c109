"""Class activation maps by gradient: products, smoothing, contrasts, fusion, and other programs' formulas."""
