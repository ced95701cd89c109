"""Concepts that are measured in an image, without any network: texture, shape, stain and colour."""
