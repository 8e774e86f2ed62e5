"""Decoder inversion: how near, how fast, in how much memory."""
