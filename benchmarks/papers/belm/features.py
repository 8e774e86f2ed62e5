"""Features of pictures and the Frechet distance of two sets of them.

*Thumbnails* need no network: the means of red, green and blue over a 4 x 4 raster, 48
numbers in 8 bits, on the first principal components of the real pictures. They see
colors and layout, not objects. *Inception* features come
from local weights: the TorchScript file ``inception-2015-12-05.pt`` that NVIDIA
publishes with StyleGAN2-ADA and that clean-fid uses too (uint8 pictures of any size in,
2048 features out); their distance, by torchmetrics, is the FID.
"""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.belm.frechet import frechet

RASTER = 4
NUMBERS = 3 * RASTER**2
COMPONENTS = 12
INCEPTION_FILE = "inception-2015-12-05.pt"
RESAMPLES = 200


def thumbnail(image: np.ndarray) -> str:
    """Return the thumbnail of an 8-bit image (h, w, 3), as text."""
    height, width = (size // RASTER for size in image.shape[:2])
    blocks = image[: height * RASTER, : width * RASTER].reshape(
        RASTER, height, RASTER, width, 3
    )
    return _text(np.round(blocks.mean((1, 3), np.float64)).astype(np.uint8))


def thumbnails(texts: list[str]) -> np.ndarray:
    """Return thumbnails as features, (n, 48), in [0, 1]."""
    return _array(texts, np.dtype(np.uint8)) / 255


def inception_network(path: Path) -> Callable[[np.ndarray], str]:
    """Return a function of an 8-bit image that returns its features, as text.

    Args:
        path: The file :data:`INCEPTION_FILE`, or its folder.

    Raises:
        ValueError: If it is not there, or no TorchScript file.
    """
    import torch

    file = path / INCEPTION_FILE if path.is_dir() else path
    try:
        network = torch.jit.load(str(file), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"{file} cannot be read; expected the TorchScript file {INCEPTION_FILE}"
        ) from error

    def features(image: np.ndarray) -> str:
        batch = torch.from_numpy(image.transpose(2, 0, 1)[None].copy())
        with torch.no_grad():
            found = network(batch, return_features=True)
        return _text(found[0].numpy().astype(np.float16))

    return features


def fid(own: list[str], real: list[str]) -> float:
    """Return the FID of features as text, by torchmetrics."""
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance

    sets = [_array(texts, np.dtype(np.float16)) for texts in (real, own)]
    identity = torch.nn.Identity()
    identity.num_features = sets[0].shape[1]  # type: ignore[assignment]
    metric = FrechetInceptionDistance(identity).set_dtype(torch.float64)
    for values, is_real in zip(sets, (True, False), strict=True):
        metric.update(torch.from_numpy(values.astype(np.float64)), real=is_real)
    return float(metric.compute())


def distance(own: np.ndarray, real: np.ndarray) -> tuple[float, np.ndarray] | None:
    """Return a Frechet distance and those of bootstrap resamples of both sets.

    Both sets are projected onto the first principal components of the real one. None
    for no more pictures than components, whose covariance has no full rank. Sets of one
    size have the same resamples: differences of their distances are paired.
    """
    if min(len(own), len(real)) <= COMPONENTS:
        return None
    _, _, axes = np.linalg.svd(real - real.mean(0), full_matrices=False)
    own, real = own @ axes[:COMPONENTS].T, real @ axes[:COMPONENTS].T
    rng = np.random.default_rng(0)
    again = [
        frechet(own[_draw(rng, own)], real[_draw(rng, real)]) for _ in range(RESAMPLES)
    ]
    return frechet(own, real), np.array(again)


def _draw(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    return rng.integers(0, len(values), len(values))


def _text(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()


def _array(texts: list[str], dtype: np.dtype[Any]) -> np.ndarray:
    return np.stack([np.frombuffer(base64.b64decode(text), dtype) for text in texts])
