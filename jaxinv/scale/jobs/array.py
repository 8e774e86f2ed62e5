"""The noises of a job: one Zarr array, row i of it for row i of the manifest.

TensorStore writes a chunk into a temporary file beside it (``.__lock``), flushes that
and renames it: whoever looks sees the old chunk or the new one. A killed process leaves
its temporary file, and the next write would go over what is in there, so that its rest
could stay: those files are removed first. Chunks hold whole rows, and no two processes
of a job share one.

Rows without a result are NaN. Any reader of Zarr version 3 reads the array.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

_AXES = ("state", "height", "width", "channel")
_TEMPORARY = ".__lock"


class NoiseArray:
    """An open array of a job.

    Args:
        path: Its folder; :func:`create_array` made it.

    Raises:
        OSError: If there is none that can be read.
    """

    def __init__(self, path: Path):
        self._path = path
        self._array = _open(path)

    def write(self, rows: Sequence[int], values: Float[np.ndarray, "n *shape"]) -> None:
        """Writes rows, each chunk at once; on return they are on the disk.

        Args:
            rows: Which ones, each once.
            values: Their values.

        Raises:
            OSError: If they cannot be written. Some of them may have been.
        """
        try:
            self._array[np.asarray(rows)].write(values).result()
        except (ValueError, RuntimeError, OSError) as error:
            raise _explained(f"cannot write to {self._path}", error) from error


def create_array(
    path: Path, rows: int, shape: tuple[int, ...], chunk_rows: int
) -> None:
    """Makes an array, all NaN, if there is none yet.

    Args:
        path: Its folder.
        rows: Of the manifest.
        shape: Of one row.
        chunk_rows: Rows in one file.

    Raises:
        OSError: If it cannot be written, or there is another one.
    """
    path.joinpath(f"zarr.json{_TEMPORARY}").unlink(missing_ok=True)
    chunks = {"chunk_shape": [chunk_rows, *shape]}
    metadata = {
        "shape": [rows, *shape],
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": chunks},
        "fill_value": "NaN",
        "dimension_names": ["row", *_AXES[-len(shape) :]],
    }
    _open(path, metadata=metadata, create=True)


def read_array(path: str | os.PathLike[str]) -> Any:
    """Opens a job's array for reading: index it, and call ``.read().result()``.

    Args:
        path: The ``noise.zarr`` of a job.

    Returns:
        A TensorStore.

    Raises:
        OSError: If there is none that can be read.
    """
    return _open(Path(path), read=True)


def remove_temporaries(path: Path, rows: range, chunk_rows: int) -> None:
    """Removes what writers that were killed have left of some rows' chunks.

    Args:
        path: The array's folder.
        rows: Rows that nobody else writes.
        chunk_rows: Rows in one file.
    """
    for chunk in range(rows.start // chunk_rows, -(-rows.stop // chunk_rows)):
        for parent, _, names in os.walk(path / "c" / str(chunk)):
            for name in names:
                if name.endswith(_TEMPORARY):
                    os.unlink(os.path.join(parent, name))


def _open(path: Path, metadata: dict[str, Any] | None = None, **options: Any) -> Any:
    import tensorstore

    store = {"driver": "file", "path": f"{path.resolve()}/"}
    spec = {"driver": "zarr3", "kvstore": store}
    if metadata is not None:
        spec["metadata"] = metadata
    try:
        return tensorstore.open(spec, open=True, **options).result()
    except (ValueError, RuntimeError, OSError) as error:
        raise _explained(f"cannot open {path}", error) from error


def _explained(what: str, error: Exception) -> OSError:
    """TensorStore's error as the operating system's, where it is one."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code:
        return OSError(int(code[1]), f"{what}: {os.strerror(int(code[1]))}")
    return OSError(f"{what}: {error}")
