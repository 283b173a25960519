"""Everything runs for as long as one likes, and parts of it are killed."""
