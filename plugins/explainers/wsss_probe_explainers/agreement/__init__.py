"""How alike the maps of different explainers are, and which of them show nothing at all."""
