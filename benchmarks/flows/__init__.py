"""Rival inversions of flow models, measured beside exact inversion."""
