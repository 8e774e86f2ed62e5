"""``python -m jaxinv.cli``."""

from jaxinv.cli import main

main()
