"""What exactness of the inversion buys in editing."""
