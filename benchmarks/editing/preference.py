"""A judge made of the model itself: which of two prompts fits a latent better."""

from typing import Any

import jax
import jax.numpy as jnp

#: Noisings of one judgement.
DRAWS = 16


@jax.jit(static_argnames="draws")
def preference(
    pipe: Any, latent: Any, source: Any, target: Any, key: Any, draws: int = DRAWS
) -> Any:
    """Return by what share the target prompt predicts better than the source prompt.

    The latent is noised at random levels, and either prompt's prediction, without
    guidance, is compared with the truth: the noise, or a flow's velocity.

    Args:
        pipe: The model, of a VP schedule or a flow.
        latent: What is judged.
        source: Encoding of one prompt.
        target: Encoding of the other.
        key: Of levels and noises.
        draws: Their number.

    Returns:
        The difference of the mean squared errors over that of the source.
    """
    schedule = pipe.schedule
    flow = schedule.family == "flow"
    taus, times, scales = (
        jnp.asarray(values, latent.dtype)
        for values in (
            schedule.taus,
            schedule.model_times,
            schedule.scale(schedule.taus),
        )
    )
    count = len(times)

    def losses(key: Any) -> Any:
        of_level, of_noise = jax.random.split(key)
        k = jax.random.randint(of_level, (), int(0.3 * count), int(0.8 * count))
        noise = jax.random.normal(of_noise, latent.shape)
        signal = 1 - taus[k] if flow else 1.0
        truth = noise - latent if flow else noise
        x = scales[k] * (signal * latent + taus[k] * noise)
        return jnp.stack(
            [
                jnp.mean((pipe.denoiser(text)(x, times[k]) - truth) ** 2)
                for text in (source, target)
            ]
        )

    of_source, of_target = jax.lax.map(losses, jax.random.split(key, draws)).mean(0)
    return (of_source - of_target) / of_source
