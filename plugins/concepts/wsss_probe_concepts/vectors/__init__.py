"""Regression concept vectors of every layer: held out, beside their controls, over depth."""
