"""Adapters of the log: one module per kind, opened by URL with ``doortab.log.open.open_log``."""
