"""Editing by inversion."""
