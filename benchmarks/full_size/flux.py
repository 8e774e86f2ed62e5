"""The programs of FLUX.1 at its full size: what an exact inversion needs.

All are made of shapes. The guidance scale is an input of the network, so that a step
needs one call of it. Inversions are those of Euler's steps on the shifted grid.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from benchmarks.full_size.measure import Program, shape
from jaxinv.diffusion.denoiser import conditioned
from jaxinv.mesh import make_mesh, parameter_rule
from jaxinv.models import (
    FluxCondition,
    FluxTransformer2DConfig,
    abstract_component,
    with_options,
)
from jaxinv.models.layers.remat import Remat
from jaxinv.models.parameters import parameters, with_parameters

#: What the report says about its figures.
NOTE = """One image of 1024x1024 pixels, 512 text tokens, guidance as an input: one
call per step. States are float32. *Parameters*, and arguments and results (within
0.04 GiB), are exact for every device; the rest are temporaries of the program for a
CPU, with attention by XLA, which stores the products of queries and keys. In
bfloat16 a CPU keeps a float32 copy of all parameters (22.17 GiB and 48.6 GiB of
temporaries for one call), which other devices do not: for them take half of the
parameters, and at most the rest shown here. 80 GB are 74.5 GiB."""

#: Tokens of T5's prompts, the steps of the inversions, and the shift of their grid.
TOKENS, STEPS, SHIFT = 512, 28, 3.0
#: Levels of the trajectory that are evaluated in one call; None for all.
CHUNKS = (1, 4, None)
MODELS = {
    "flux_dev": FluxTransformer2DConfig.dev(),
    # Two blocks of each kind, for tests.
    "flux_tiny": FluxTransformer2DConfig(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=6, pooled_projection_dim=5,
        guidance_embeds=True, axes_dims_rope=(2, 2, 4),
    ),
}  # fmt: skip
POLICIES: tuple[Remat, ...] = ("none", "dots", "blocks")


def programs(
    config: FluxTransformer2DConfig, dtype: Any, *, size: int = 128, steps: int = STEPS
) -> Iterator[Program]:
    """Return the programs of a model in one data type.

    Args:
        config: The model.
        dtype: Of the computation and of the parameters. States are float32.
        size: Height and width of the latent.
        steps: Steps of the inversions.
    """
    network = abstract_component(config, dtype=dtype, param_dtype=dtype)
    channels, _ = config.latent_channels
    latent = shape(size, size, channels)
    condition = FluxCondition(
        shape(TOKENS, config.joint_attention_dim),
        shape(config.pooled_projection_dim),
        shape() if config.guidance_embeds else None,
    )
    given = latent, condition
    yield Program("one call", call, (network, *given))
    solvers: dict[str, Any] = {"Anderson": "anderson", "Newton": "newton_krylov"}
    for title, solver in solvers.items():
        inverse = inversion(steps, strategy="stepwise", solver=solver)
        yield Program(f"stepwise, {title}, {steps} steps", inverse, (network, *given))
    for chunk in CHUNKS:
        levels = "all levels at a time" if chunk is None else f"{chunk} at a time"
        inverse = inversion(steps, strategy=ji.Trajectory(chunk=chunk))
        name = f"trajectory, {steps} steps, {levels}"
        yield Program(name, inverse, (network, *given))
    for remat in POLICIES:
        other = with_options(network, remat=remat)
        yield Program(f"call and gradient, remat={remat!r}", gradient, (other, *given))
    if len(jax.devices()) > 1:
        half = divided(network)
        yield Program("one call, on each of 2 devices", call, (half, *given))
        inverse = inversion(steps, strategy="stepwise")
        name = f"stepwise, Anderson, {steps} steps, on each of 2 devices"
        yield Program(name, inverse, (half, *given))


def call(network: Any, z: Any, condition: Any) -> Any:
    """Call the network once."""
    return conditioned(network, condition)(z, 500.0)


def gradient(network: Any, z: Any, condition: Any) -> Any:
    """Return a number that depends on the output, and its derivative by the latent."""
    return jax.value_and_grad(lambda z: jnp.sum(call(network, z, condition) ** 2))(z)


def inversion(steps: int, **options: Any) -> Any:
    """Return the program of an inversion."""
    t = np.linspace(0, 1, steps + 1)
    tau = SHIFT * t / (1 + (SHIFT - 1) * t)
    grid = ji.TimeGrid(tau, np.ones_like(tau), 1000 * tau, family="flow")
    sampler = ji.euler(grid)

    def function(network: Any, z: Any, condition: Any) -> Any:
        return ji.invert(sampler, conditioned(network, condition), z, **options)

    return function


def divided(network: Any) -> Any:
    """Return a network whose parameters are divided over two devices."""
    rule = parameter_rule(make_mesh(2, devices=jax.devices()[:2]))
    placed = {
        path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rule(path, x.shape))
        for path, x in parameters(network).items()
    }
    return with_parameters(network, placed)
