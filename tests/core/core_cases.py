"""The one list of samplers, of solvers and of schedules that the tests run over.

A new sampler, solver or schedule gets all of the shared claims (order, parity, round
trip, vmap, counting) by one line here.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import optax
import pytest

import jaxinv as ji


class SamplerCase(NamedTuple):
    """A sampler: how to make it on a schedule, and what it claims."""

    build: Callable[[ji.NoiseSchedule, int], ji.LinearMultistep]
    order: int


def _on_grid(constructor, spacing="log_snr"):
    return lambda schedule, n: constructor(ji.time_grid(schedule, n, spacing))


SCHEDULES = {
    "vp": ji.scaled_linear(),
    "flow": ji.flow_matching(),
    "ve": ji.variance_exploding(0.02, 20.0),
}

# Euler's method makes the same table as DDIM (test_table.py): one of them is enough.
SAMPLERS = {"ddim": SamplerCase(_on_grid(ji.ddim), order=1)}

# Samplers on the grids of diffusers, where noise levels are not evenly spread.
TIMESTEP_SAMPLERS = {
    "ddim-leading": SamplerCase(_on_grid(ji.ddim, "leading"), order=1),
    "ddim-trailing": SamplerCase(_on_grid(ji.ddim, "trailing"), order=1),
    "ddim-linspace": SamplerCase(_on_grid(ji.ddim, "linspace"), order=1),
    "ddim_diffusers-linspace": SamplerCase(
        lambda schedule, n: ji.ddim_diffusers(schedule, n, "linspace"), order=1
    ),
}

# The settings of each solver with which it reaches a tolerance of 1e-6 on a problem
# whose Jacobian has singular values in [0.5, 1.5].
SOLVERS = {
    "anderson": ji.Anderson(rtol=1e-6),
    "fixed_point": ji.FixedPoint(rtol=1e-6),
    "forward_step": ji.ForwardStep(rtol=1e-6, sum_of_squares=0.0),
    "gradient": ji.Gradient(optax.sgd(0.3), max_iterations=500, rtol=1e-6),
    "newton_krylov": ji.NewtonKrylov(rtol=1e-6),
}

EXACT_SOLVERS = ("anderson", "fixed_point")


def each(cases):
    """Parametrise over a dictionary of cases, with its keys as the tests' names."""
    return [pytest.param(value, id=key) for key, value in cases.items()]


def relative_error(x, reference):
    """``|x - reference| / |reference|``."""
    return float(jnp.linalg.norm(x - reference) / jnp.linalg.norm(reference))
