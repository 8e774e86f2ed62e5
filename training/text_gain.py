"""Weaken the text's influence on a trained UNet, without training.

Guidance multiplies the difference between the prediction with a prompt and the one
without. The sharper a model becomes in training, the larger the derivative of this
difference, until steps of the sampler fold at guidance 7.5 (``backgrounds.py`` says
when). Here the output of every cross-attention is multiplied by a gain below 1, around
its mean for the empty prompt: the prediction without a prompt hardly changes, the
difference shrinks by about the gain, and guidance ``w`` acts as about ``gain * w`` did.
"""

from __future__ import annotations

import torch


@torch.no_grad()
def weaken_text(
    model: torch.nn.Module,
    gain: float,
    latents: torch.Tensor,
    empty: torch.Tensor,
    alphas_cumprod: torch.Tensor,
    seed: int = 0,
) -> None:
    """Scale every cross-attention around its mean for the empty prompt, in place.

    Args:
        model: A ``TextToNoise``.
        gain: Factor of the text-dependent part.
        latents: Scaled training latents, shape (n, 4, 16, 16), for the mean.
        empty: Token ids of the empty prompt, shape (length,).
        alphas_cumprod: The schedule, shape (timesteps,).
        seed: Seed of the noise.
    """
    layers = [m for name, m in model.unet.named_modules() if name.endswith("attn2")]
    sums = [0.0] * len(layers)

    def add_to(index: int):
        def hook(module, inputs, output):
            sums[index] = sums[index] + output.mean((0, 1))

        return hook

    hooks = [layer.register_forward_hook(add_to(k)) for k, layer in enumerate(layers)]
    generator = torch.Generator().manual_seed(seed)
    times = range(50, len(alphas_cumprod), 100)
    for time in times:
        noise = torch.randn(latents.shape, generator=generator)
        alpha = alphas_cumprod[time]
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        at = torch.full((len(latents),), time)
        model(noisy, at, empty.expand(len(latents), -1))
    for hook in hooks:
        hook.remove()
    for layer, total in zip(layers, sums, strict=True):
        last = layer.to_out[0]
        last.weight.mul_(gain)
        last.bias.mul_(gain).add_((1 - gain) * total / len(times))
