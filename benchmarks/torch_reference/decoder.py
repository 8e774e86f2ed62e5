r"""Decoder inversion in PyTorch, from the papers.

*Gradient*: Adam on ``sum |D(z) - x|^2`` from ``z = E(x)``, learning rate 0.1, warmed up
from zero over a tenth of the iterations and then along a cosine to zero.

*Gradient-free*: the forward step method ``z <- z - rho (E(D(z)) - E(x))``, and Adam
with the same difference in place of a gradient: learning rate 0.01 times ``(i + 1) /
w`` in the ``w = m // 10`` iterations of the warm-up, ``m = min(n, 100)``, a cosine over
the rest, held from the last iteration below ``0.8 m`` on. The rates are those of the
papers' codes, which the papers do not write down. Two things are not as in that code:
it draws the encoder's latents at random from the posterior, where this takes the mode,
and it encodes decodings that were not clipped.

References:
    Hong et al. 2024, "On Exact Inversion of DPM-Solvers", arXiv:2311.18387, appendix.
    Hong et al. 2024, "Gradient-free Decoder Inversion in Latent Diffusion Models",
    arXiv:2409.18442, Section 4.
"""

import math
from collections.abc import Callable
from pathlib import Path

import diffusers
import torch
from torch import Tensor

Network = Callable[[Tensor], Tensor]


class TorchAutoencoder:
    """An AutoencoderKL as a pipeline uses it, on images in [0, 1].

    Attributes:
        vae: diffusers' module, float32.
    """

    def __init__(self, folder: str | Path) -> None:
        vae = diffusers.AutoencoderKL.from_pretrained(
            Path(folder) / "vae", torch_dtype=torch.float32
        )
        self.vae = vae.eval().requires_grad_(False)
        self.shift = vae.config.shift_factor or 0.0
        self.scale = vae.config.scaling_factor

    def encode(self, image: Tensor) -> Tensor:
        """Images (b, 3, h, w) to latents."""
        mean = self.vae.encode(2 * image - 1).latent_dist.mode()
        return (mean - self.shift) * self.scale

    def decode(self, latent: Tensor) -> Tensor:
        """Latents to images, not clipped."""
        return (self.vae.decode(latent / self.scale + self.shift).sample + 1) / 2


def gradient(
    encode: Network,
    decode: Network,
    image: Tensor,
    iterations: int = 100,
    learning_rate: float = 0.1,
) -> Tensor:
    """Return the latent after gradient descent.

    Args:
        encode: Images to latents.
        decode: Latents to images.
        image: Shape (b, 3, h, w), within [0, 1].
        iterations: How many.
        learning_rate: The largest.

    Returns:
        The last iterate.
    """
    with torch.no_grad():
        z = encode(image)
    z = z.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([z], lr=learning_rate)
    for k in range(iterations):
        _set_rate(optimizer, learning_rate * warm_cosine(k, iterations))
        optimizer.zero_grad()
        torch.sum((decode(z) - image) ** 2).backward()
        optimizer.step()
    return z.detach()


@torch.no_grad()
def forward_step(
    encode: Network,
    decode: Network,
    image: Tensor,
    iterations: int = 100,
    step_size: float = 1.0,
) -> Tensor:
    """Return the latent after so many forward steps."""
    target = encode(image)
    z = target.clone()
    for _ in range(iterations):
        z = z - step_size * (encode(decode(z).clamp(0, 1)) - target)
    return z


@torch.no_grad()
def gradient_free_adam(
    encode: Network,
    decode: Network,
    image: Tensor,
    iterations: int = 100,
    learning_rate: float = 0.01,
) -> Tensor:
    """Return the latent after gradient-free Adam."""
    target = encode(image)
    z = target.clone()
    optimizer = torch.optim.Adam([z], lr=learning_rate)
    for k in range(iterations):
        _set_rate(optimizer, learning_rate * held_cosine(k, iterations))
        z.grad = encode(decode(z).clamp(0, 1)) - target
        optimizer.step()
    return z


def warm_cosine(k: int, iterations: int) -> float:
    """Share of the largest learning rate in iteration k of the gradient method."""
    warm_up = iterations // 10
    if k < warm_up:
        return k / warm_up
    return _cosine(k - warm_up, iterations - warm_up)


def held_cosine(k: int, iterations: int) -> float:
    """Share of the largest learning rate in iteration k of gradient-free Adam."""
    length = min(iterations, 100)
    warm_up = length // 10
    k = min(k, math.ceil(4 * length / 5) - 1)
    if k < warm_up:
        return (k + 1) / warm_up
    return _cosine(k - warm_up, length - warm_up)


def _cosine(k: int, length: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * k / length))


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
