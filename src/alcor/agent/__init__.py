"""agent: one host."""
