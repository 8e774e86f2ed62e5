"""What exact inversion costs in time and memory."""
