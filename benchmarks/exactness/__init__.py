"""How exactly samplers are inverted."""
