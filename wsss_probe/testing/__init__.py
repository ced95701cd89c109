"""Conformance suites, tiny models and planted-truth data for plugin authors."""
