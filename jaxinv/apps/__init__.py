"""Applications of inversion: watermarks and editing."""
