r"""Decoder inversion in PyTorch, from the papers.

*Gradient*: Adam on ``sum |D(z) - x|^2`` from ``z = E(x)``, learning rate 0.1, warmed up
over a tenth of the iterations and then along a cosine to zero.

*Gradient-free*: the forward step method ``z <- z - rho (E(D(z)) - E(x))``, and Adam
with the same difference in place of a gradient: learning rate 0.01, warmed up over a
tenth of ``min(n, 100)`` iterations, a cosine over the rest, held from four fifths on.

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
    """The latent after gradient descent.

    Args:
        encode: images to latents.
        decode: latents to images.
        image: shape (b, 3, h, w), within [0, 1].
        iterations: how many.
        learning_rate: the largest.

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
    """The latent after so many forward steps."""
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
    """The latent after gradient-free Adam."""
    target = encode(image)
    z = target.clone()
    optimizer = torch.optim.Adam([z], lr=learning_rate)
    length = min(iterations, 100)
    for k in range(iterations):
        rate = warm_cosine(min(k, int(0.8 * length)), length)
        _set_rate(optimizer, learning_rate * rate)
        z.grad = encode(decode(z).clamp(0, 1)) - target
        optimizer.step()
    return z


def warm_cosine(k: int, iterations: int) -> float:
    """Share of the largest learning rate in iteration k."""
    warm_up = iterations // 10
    if k < warm_up:
        return k / warm_up
    return 0.5 * (1 + math.cos(math.pi * (k - warm_up) / (iterations - warm_up)))


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
