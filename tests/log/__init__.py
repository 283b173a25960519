"""The log: one contract for all adapters, and what each of them promises beyond it."""
