"""Tree-Ring's test as in the paper: the key is fixed, and the latent is white noise.

It was this library's own, and is what detection is compared with.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import ncx2


def paper_p_values(keys: Any, noises: Any) -> np.ndarray:
    """Return the p-values of the published test.

    Args:
        keys: Tree-Ring keys, stacked.
        noises: One for each key, shape (n, h, w, c).

    Returns:
        ``P(|c' - k|^2 <= |c - k|^2)`` for white noise c' of the variance of this noise
        outside of the disc (in the disc, as published, it depends on what is tested),
        in coordinates that are independent. With a disc of zeros and nothing outside,
        whatever is nearer than expected is found.

    References:
        Wen et al. 2023, arXiv:2305.20030, Eq. 5.
    """
    found, plane = _measured(keys, noises)
    found, values = (np.asarray(part, np.float64) for part in (found, keys.values))
    pixels, size = plane[0].size, found.shape[1]
    power = np.sum(np.asarray(plane, np.float64) ** 2, (1, 2))
    rest = np.maximum(power - np.sum(found**2, 1), 1e-12)
    variance = rest / (pixels - size)
    distance = np.sum((found - values) ** 2, 1) / variance
    strength = np.sum(values**2, 1) / variance
    # SciPy's series ends nowhere for larger ones, whose law is all but one number.
    far = strength > 1e5
    p = ncx2.cdf(np.where(far, 0, distance), size, np.clip(strength, 1e-12, 1e5))
    return np.where(far, distance < size + strength, p)


@jax.jit
def _measured(keys: Any, noises: Any) -> Any:
    def one(key: Any, noise: Any) -> Any:
        return key.coordinates(noise), noise[..., key.channel].astype(jnp.float32)

    return jax.vmap(one)(keys, noises)
