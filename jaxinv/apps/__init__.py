"""What inversion is for: watermarks and editing."""
