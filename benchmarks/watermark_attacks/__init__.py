"""Which watermark survives which attack, and whether exact inversion helps."""
