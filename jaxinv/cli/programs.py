"""The cache of compiled programs between runs of the command line.

Short commands spend most of their time compiling. JAX can store compiled programs in a
folder. The command line enables this by default, in ``jaxinv`` in the user's cache
folder:

* Linux: ``$XDG_CACHE_HOME`` or ``~/.cache``;
* macOS: ``~/Library/Caches``;
* Windows: ``%LOCALAPPDATA%``.

JAX's own variable ``JAX_COMPILATION_CACHE_DIR`` selects another folder. The folder may
be deleted at any time. Importing :mod:`jaxinv` does not change JAX's settings.
"""

import os
import sys
import tempfile
from pathlib import Path

import jax

OFF = "off"

# In the default folder the most recently used programs are kept. Folders that the user
# names may hold programs of others, or entries that JAX wrote without a limit: there
# JAX's default applies, which is no limit.
_MAX_BYTES, _NO_LIMIT = 2 * 2**30, -1


def default_folder() -> Path:
    """Return the default folder of compiled programs."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "~/AppData/Local")
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(base)) / "jaxinv"


def keep_programs(folder: str | None = None) -> Path | None:
    """Enable or disable JAX's persistent cache of compiled programs.

    Args:
        folder: The folder; ``"off"`` disables the cache. None for the folder of JAX's
            own variable, or :func:`default_folder` without it.

    Returns:
        The folder, or None if the cache is disabled, or if the folder is not writable
        and was not given.

    Raises:
        ValueError: If the given folder is not writable.
    """
    named = folder or os.environ.get("JAX_COMPILATION_CACHE_DIR")
    place = None if named == OFF else Path(named or default_folder()).absolute()
    if place is not None and not _writable(place):
        if folder is not None:
            raise ValueError(f"cannot write compiled programs to {folder}")
        place = None
    jax.config.update(
        "jax_compilation_cache_dir", None if place is None else str(place)
    )
    if place is not None:
        own = place == default_folder().absolute()
        settings = {
            # Small programs are also stored: reading takes a tenth of compiling.
            "jax_persistent_cache_min_compile_time_secs": 0.0,
            "jax_compilation_cache_max_size": _MAX_BYTES if own else _NO_LIMIT,
        }
        for name, value in settings.items():
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
