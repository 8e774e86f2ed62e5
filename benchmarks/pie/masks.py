"""Masks of PIE-Bench: runs of ones in a picture that is read row by row.

A mask is a list ``[start, length, start, length, ...]``: from pixel number ``start``,
counted row by row from the top left, ``length`` pixels are 1. 1 is the region that an
edit should change. The published evaluator sets the outermost rows and columns to 1,
"to avoid annotation errors in boundary", and so does :func:`decode`.

References:
    Ju et al. 2023, "PnP Inversion", arXiv:2310.01506, and its repository,
    ``evaluation/evaluate.py``, ``mask_decode``.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool


def encode(mask: Bool[np.ndarray, "h w"]) -> list[int]:
    """Return the runs of ones of a mask.

    Args:
        mask: True where an edit should change the picture.

    Example:
        >>> import numpy as np
        >>> encode(np.array([[False, True, True], [True, False, True]]))
        [1, 3, 5, 1]
    """
    flat = np.concatenate([[False], np.ravel(mask), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    starts, ends = edges[::2], edges[1::2]
    return np.stack([starts, ends - starts], 1).ravel().tolist()


def decode(
    runs: Sequence[int], size: tuple[int, int], border: bool = True
) -> Bool[np.ndarray, "h w"]:
    """Return a mask from its runs.

    Args:
        runs: Starts and lengths, in turn.
        size: (height, width) of the picture.
        border: Whether the outermost pixels are set, as the published evaluator does.

    Raises:
        ValueError: If a run is no pair of whole numbers, or leaves the picture. (The
            published evaluator cuts off runs that leave the picture.)
    """
    height, width = size
    whole = all(isinstance(v, int) and not isinstance(v, bool) for v in runs)
    if len(runs) % 2 or not whole:
        raise ValueError("the mask must be pairs of whole numbers: start, length")
    mask = np.zeros(height * width, bool)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        if start < 0 or length < 0 or start + length > mask.size:
            raise ValueError(
                f"the mask's run of {length} pixels from pixel {start} leaves the "
                f"picture of {width}x{height} = {mask.size} pixels"
            )
        mask[start : start + length] = True
    mask = mask.reshape(size)
    if border:
        mask[[0, -1]] = mask[:, [0, -1]] = True
    return mask
