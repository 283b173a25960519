"""Adapters of the log: one module per kind, opened by URL."""
