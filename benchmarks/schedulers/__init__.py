"""Which schedulers of published models are exactly diffusers' here."""
