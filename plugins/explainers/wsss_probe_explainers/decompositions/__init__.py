"""Maps by decomposition: what most of a layer's activation has in common, over its positions."""
