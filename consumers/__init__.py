"""Everything that reacts: the worker, dedupe, counters, the enforcer."""
