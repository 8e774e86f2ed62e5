"""What the depth of a transformer costs before it runs."""
