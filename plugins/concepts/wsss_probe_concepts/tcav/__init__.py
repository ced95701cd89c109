"""Classification concept vectors of concepts that are there or not: vectors, their relevance and nulls."""
