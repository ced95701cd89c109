"""Relevance of concepts for classes: sensitivity along concept vectors, its scores and their nulls."""
