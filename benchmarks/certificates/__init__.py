"""A search for false certificates."""
