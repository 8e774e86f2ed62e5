"""Networks that compute in 16 bits: how exactly they are inverted."""
