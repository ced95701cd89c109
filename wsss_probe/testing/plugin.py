"""Fixtures and assertion rewriting for suites; loads in everybody's pytest, so it imports no torch."""
