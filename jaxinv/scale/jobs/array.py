"""The noises of a job: one Zarr array, whose row i belongs to row i of the manifest.

TensorStore writes a chunk to a temporary file next to it (``.__lock``), flushes and
renames it: readers see the old chunk or the new one. A killed process leaves its
temporary file, of which the next write might overwrite only a part. Such files are
therefore removed first. Chunks hold whole rows, and no two processes of a job share
one.

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
        path: The folder of the array, made by :func:`create_array`.

    Raises:
        OSError: If the array cannot be opened.
    """

    def __init__(self, path: Path):
        self._path = path
        self._array = _open(path)

    def write(self, rows: Sequence[int], values: Float[np.ndarray, "n *shape"]) -> None:
        """Write rows, each chunk at once; on return they are on disk.

        Args:
            rows: Indices of the rows, without duplicates.
            values: The values of the rows.

        Raises:
            OSError: If not all rows could be written.
        """
        try:
            self._array[np.asarray(rows)].write(values).result()
        except (ValueError, RuntimeError, OSError) as error:
            raise _explained(f"cannot write to {self._path}", error) from error


def create_array(
    path: Path, rows: int, shape: tuple[int, ...], chunk_rows: int
) -> None:
    """Create an array of NaN unless it exists.

    Args:
        path: The folder of the array.
        rows: Number of rows of the manifest.
        shape: Shape of one row.
        chunk_rows: Number of rows in one file.

    Raises:
        OSError: If the array cannot be written, or a different one exists.
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
    """Open a job's array for reading: index it, and call ``.read().result()``.

    Args:
        path: The ``noise.zarr`` of a job.

    Returns:
        A TensorStore.

    Raises:
        OSError: If the array cannot be opened.
    """
    return _open(Path(path), read=True)


def remove_temporaries(path: Path, rows: range, chunk_rows: int) -> None:
    """Remove temporary files left by killed writers of some rows' chunks.

    Args:
        path: The array's folder.
        rows: Rows that only this process writes.
        chunk_rows: Number of rows in one file.
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
    """Convert an error of TensorStore to one of the operating system if possible."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code:
        return OSError(int(code[1]), f"{what}: {os.strerror(int(code[1]))}")
    return OSError(f"{what}: {error}")
