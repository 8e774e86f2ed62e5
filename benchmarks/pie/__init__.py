"""PIE-Bench: editing methods on top of inversions."""
