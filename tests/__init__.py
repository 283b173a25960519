"""The specification: what the product promises, one sentence each."""
