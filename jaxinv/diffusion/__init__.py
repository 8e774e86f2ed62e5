"""The diffusion process: noise schedules, time grids and denoisers."""
