"""What ``jaxinv batch`` survives."""
