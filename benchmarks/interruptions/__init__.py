"""What ends ``jaxinv batch``, and what the next start makes of it."""
