"""Relevance maps against masks: do they lie where the thing is, and better than a blob? With masks."""
