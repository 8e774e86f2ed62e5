"""``python -m weights_convert SRC DST``: diffusers pipeline to Orbax checkpoint."""

import argparse
import sys

from weights_convert.errors import WeightsError
from weights_convert.pipeline import convert


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Command-line arguments; those of the process if None.

    Returns:
        The exit status: 0, or 1 with a message on the standard error.
    """
    parser = argparse.ArgumentParser(
        prog="python -m weights_convert",
        description="Convert a diffusers pipeline to an Orbax checkpoint for JAX.",
    )
    parser.add_argument("src", help="pipeline folder, or name on the Hugging Face hub")
    parser.add_argument("dst", help="folder to write")
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        help="data type to store (default: as in SRC)",
    )
    parser.add_argument("--force", action="store_true", help="replace DST if it exists")
    args = parser.parse_args(arguments)
    try:
        folder = convert(args.src, args.dst, dtype=args.dtype, force=args.force)
    except FileExistsError as error:
        print(f"error: {error} (--force replaces it)", file=sys.stderr)
        return 1
    except (WeightsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
