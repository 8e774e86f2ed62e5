"""Random diffusers configurations against diffusers' own samplers."""
