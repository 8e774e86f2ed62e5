"""``python -m jaxinv``: the command line."""

from jaxinv.cli import main

if __name__ == "__main__":
    main()
