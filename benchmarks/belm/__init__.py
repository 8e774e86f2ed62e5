"""Bidirectional samplers: order, exactness, quality."""
