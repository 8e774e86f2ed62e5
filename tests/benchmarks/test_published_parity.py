"""Algorithms 1 and 2 of the library are those of the PyTorch reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import benchmarks.torch_reference as ref
import jaxinv as ji
from jaxinv.diffusion.grid import make_grid
from jaxinv.inversion.algorithm_1 import Algorithm1, algorithm_1
from jaxinv.inversion.algorithm_2 import Algorithm2, algorithm_2
from jaxinv.sampling.sample import in_dtype

SCHEDULE = ji.scaled_linear()
RNG = np.random.default_rng(0)
NOISE = RNG.standard_normal((2, 4, 4, 4), np.float32)


class TorchModel:
    """A stand-in for the network that counts the evaluations of each sample."""

    def __init__(self, samples):
        self.evaluations = torch.zeros(samples, dtype=torch.int64)

    def __call__(self, x, t, rows=None):
        rows = torch.arange(len(self.evaluations)) if rows is None else rows
        self.evaluations[rows] += 1
        return torch.sin(x + 0.3 * torch.roll(x, 1, 2)) * (0.4 + t / 2_000)


def jax_model(x, t):
    return jnp.sin(x + 0.3 * jnp.roll(x, 1, 0)) * (0.4 + t / 2_000)


def distance(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


@pytest.mark.filterwarnings("ignore:the step from tau")
@pytest.mark.parametrize(
    ("make", "order", "steps", "spacing"),
    [
        (ji.dpmpp_2m, 2, 8, "log_snr"),
        (ji.dpmpp_2m, 2, 16, "leading"),
        (ji.dpmpp_3m, 3, 8, "leading"),
        (ji.dpmpp_3m, 3, 16, "log_snr"),
    ],
)
def test_states_and_evaluations_are_those_of_the_reference(make, order, steps, spacing):
    grid = ji.time_grid(SCHEDULE, steps, spacing)
    table = in_dtype(make(grid), jnp.float32)
    x0s = jnp.stack([ji.sample(table, jax_model, noise) for noise in NOISE])
    eps = TorchModel(len(x0s))
    wanted = ref.algorithm_2(
        grid, SCHEDULE, eps, ref.to_channels_first(x0s), order=order
    )
    settings = Algorithm2(SCHEDULE)
    invert = jax.jit(jax.vmap(lambda x: algorithm_2(table, jax_model, x, settings)))
    found = invert(x0s)
    # Both stop where the residual's norm is below 0.03: iterates of two programs agree
    # to rounding, and a solve that takes one more moves its state by less than that.
    states = ref.to_channels_last(wanted.states[1:])
    assert distance(np.moveaxis(found.states, 0, 1), states) < 1e-3
    np.testing.assert_array_equal(found.converged, wanted.converged)
    np.testing.assert_allclose(found.residuals, wanted.step_residuals, atol=1e-4)
    np.testing.assert_allclose(found.num_evals, wanted.step_evaluations, atol=1)
    np.testing.assert_allclose(found.num_evals.sum(1), wanted.evaluations, rtol=0.01)


@pytest.mark.parametrize("seed", range(4))
def test_algorithm_1_is_that_of_the_reference_call_for_call(seed):
    rng = np.random.default_rng(seed)
    spacing = ["log_snr", "karras", "leading", "trailing"][seed]
    grid = make_grid(SCHEDULE, int(rng.integers(8, 30)), spacing)
    table = in_dtype(ji.ddim(grid), jnp.float32)
    # Noise as data, and data that the sampler made.
    x0s = rng.standard_normal((2, 4, 4, 4), np.float32)
    x0s[1] = ji.sample(table, jax_model, x0s[1])
    eps = TorchModel(len(x0s))
    wanted = ref.algorithm_1(grid, eps, ref.to_channels_first(x0s))
    invert = jax.jit(jax.vmap(lambda x: algorithm_1(table, jax_model, x, Algorithm1())))
    found = invert(x0s)
    # Iterates of two programs agree to rounding; a solve may take one more where the
    # sum of squares is at the bound, which moves its state by less than 0.03.
    states = ref.to_channels_last(wanted.states[1:])
    assert distance(np.moveaxis(found.states, 0, 1), states) < 1e-4
    np.testing.assert_array_equal(found.converged, wanted.converged)
    np.testing.assert_allclose(found.residuals, wanted.step_residuals, atol=1e-5)
    np.testing.assert_allclose(found.num_evals, wanted.step_evaluations, atol=1)
    np.testing.assert_allclose(found.num_evals.sum(1), wanted.evaluations, rtol=0.005)
