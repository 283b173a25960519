"""Everything asked afterwards: the store, reports, alerts."""
