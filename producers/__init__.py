"""Everything that says something happened: the gate, the desk, the client."""
