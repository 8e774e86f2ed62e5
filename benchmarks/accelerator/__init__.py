"""Stable Diffusion's size on whatever device there is, beside PyTorch."""
