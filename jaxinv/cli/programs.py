"""Compiled programs are kept between runs of the command line.

Most of a short command's time is compiling. JAX can keep compiled programs in a folder.
The command line has it do so by default, in ``jaxinv`` in the user's cache folder:

* Linux: ``$XDG_CACHE_HOME`` or ``~/.cache``;
* macOS: ``~/Library/Caches``;
* Windows: ``%LOCALAPPDATA%``.

JAX's own variable ``JAX_COMPILATION_CACHE_DIR`` names another folder. It may be deleted
at any time. Importing :mod:`jaxinv` changes none of JAX's settings.
"""

import os
import sys
import tempfile
from pathlib import Path

import jax

OFF = "off"

# What was used last is kept.
_MAX_BYTES = 2 * 2**30
# Small programs, too: reading one takes a tenth of the time of compiling it.
_SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_compilation_cache_max_size": _MAX_BYTES,
}


def default_folder() -> Path:
    """Return the folder where programs are kept if nobody names another."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "~/AppData/Local")
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(base)) / "jaxinv"


def keep_programs(folder: str | None = None) -> Path | None:
    """Switch JAX's persistent cache of compiled programs on, or off.

    Args:
        folder: Where to keep them; ``"off"`` for nowhere. None for the folder that
            JAX's own variable names, and :func:`default_folder` if it names none.

    Returns:
        The folder; None if programs are not to be kept, or it cannot be written.
    """
    named = folder or os.environ.get("JAX_COMPILATION_CACHE_DIR")
    place = None if named == OFF else Path(named or default_folder())
    if place is not None and not _writable(place):
        place = None
    jax.config.update(
        "jax_compilation_cache_dir", None if place is None else str(place)
    )
    if place is not None:
        for name, value in _SETTINGS.items():
            if name.upper() not in os.environ:
                jax.config.update(name, value)
    return place


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
