"""How exactly the embedded model inverts, and what it has memorised."""
