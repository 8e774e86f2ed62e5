"""O-BELM, BDIA and EDICT equal references written in PyTorch from their papers."""

import dataclasses
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import benchmarks.torch_reference as ref
import jaxinv as ji
from jaxinv.diffusion.grid import make_grid
from jaxinv.sampling.state import state_of

FOLDER = Path(ji.__file__).parent / "zoo" / "emoji64"
PROMPT = "red heart on a light blue background"
GUIDANCE = 3.0
# Two float32 programs of the same formulas; one evaluation differs by a few 1e-6.
TOLERANCE = 1e-4
NOISE = np.random.default_rng(0).standard_normal((16, 16, 4), np.float32)

# The sampler, and its reference in both directions.
CASES = {
    "o_belm": (ji.o_belm, ref.sample_o_belm, ref.invert_o_belm, ()),
    "bdia": (ji.bdia, ref.sample_bdia, ref.invert_bdia, (0.96,)),
    "bdia_half": (ji.bdia, ref.sample_bdia, ref.invert_bdia, (0.5,)),
    "edict": (ji.edict, ref.sample_edict, ref.invert_edict, (0.93,)),
}
NETWORK_CASES = [name for name in CASES if "_h" not in name]


@pytest.fixture(scope="module")
def eps():
    return ref.TorchModel.load(FOLDER).guided([PROMPT], GUIDANCE)


@pytest.fixture(scope="module")
def denoise(emoji64):
    return emoji64.denoiser(PROMPT, "", GUIDANCE)


def distance(found, wanted):
    """Relative to the norm of every state: the largest over the trajectory."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    axes = tuple(range(1, wanted.ndim))
    return np.max(
        np.linalg.norm((found - wanted).reshape(len(wanted), -1), axis=1)
        / np.sqrt(np.sum(wanted**2, axes))
    )


def evaluated(states, name, p=None):
    """The states that are evaluated: of EDICT's pairs y, and x before it was mixed."""
    if name != "edict":
        return states
    found = [states[0, 1]]
    for (x, y), (_, above) in itertools.pairwise(states):
        inner_y = (y - (1 - p) * x) / p
        found += [(x - (1 - p) * inner_y) / p, above]
    return torch.stack(found)


def reference_start(ends, name, p=None):
    """What the reference inverts, of the two states at the data end."""
    y, inner = ends
    if name != "edict":
        return y, inner
    return (p**2 * inner + (1 - p) * y) / (1 - p + p**2), y


def nameless(sampler):
    """One program serves all tables of one shape, but for their names and orders."""
    return dataclasses.replace(sampler, name="nameless", order=1)


@pytest.mark.parametrize("name", NETWORK_CASES)
def test_sampling_with_the_network_equals_the_reference(emoji64, denoise, eps, name):
    make, sample, _, options = CASES[name]
    grid = make_grid(emoji64.schedule, 7)
    sampler = nameless(make(grid, *options))
    wanted = sample(grid, eps, ref.to_channels_first(NOISE[None]), *options)
    wanted = evaluated(wanted, name, *options)
    found = ji.sample_trajectory(sampler, denoise, NOISE)
    assert distance(found, ref.to_channels_last(wanted)[:, 0]) < TOLERANCE


@pytest.mark.parametrize("name", NETWORK_CASES)
def test_inverting_with_the_network_equals_the_reference(emoji64, denoise, eps, name):
    # The data end of a grid of 40 steps: inverting O-BELM multiplies rounding by
    # (h[N] / h[1])^2, which is 7 here and 1e4 on a whole grid of 7 steps.
    make, sample, invert, options = CASES[name]
    whole = make_grid(emoji64.schedule, 40)
    grid = ji.TimeGrid(whole.tau[:8], whole.scale[:8], whole.model_time[:8])
    sampler = nameless(make(grid, *options))
    down = sample(grid, eps, ref.to_channels_first(NOISE[None]), *options)
    ends = evaluated(down, name, *options)[:2]
    start = reference_start(ends, name, *options)
    wanted = evaluated(invert(grid, eps, *start, *options), name, *options)
    state = state_of(sampler, ref.to_channels_last(ends[:, 0]), "data")
    found = ji.invert(sampler, denoise, state, return_trajectory=True).trajectory
    assert distance(found, ref.to_channels_last(wanted)[:, 0]) < TOLERANCE


def smooth_torch(x, t, rows=None):
    """A stand-in for the network, in the precision of its argument."""
    return torch.sin(x + 0.3 * torch.roll(x, 1, 2)) * (0.4 + t / 2_000)


def smooth_jax(x, t):
    return jnp.sin(x + 0.3 * jnp.roll(x, 1, 0)) * (0.4 + t / 2_000)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("spacing", ["log_snr", "leading"])
def test_both_directions_equal_the_reference_in_double_precision(name, spacing):
    make, sample, invert, options = CASES[name]
    with jax.enable_x64(True):
        grid = make_grid(ji.scaled_linear(), 8, spacing)
        sampler = make(grid, *options)
        noise = NOISE[:4, :4].astype(np.float64)
        down = ji.sample_trajectory(sampler, smooth_jax, noise)
        state = ji.sample(sampler, smooth_jax, noise, return_state=True)
        result = ji.invert(sampler, smooth_jax, state, return_trajectory=True)

    def channels_first(x):
        return torch.from_numpy(np.moveaxis(np.array(x), -1, 0)[None].copy())

    wanted = sample(grid, smooth_torch, channels_first(noise), *options)
    wanted = ref.to_channels_last(evaluated(wanted, name, *options))[:, 0]
    assert distance(down, wanted) < 1e-10
    ends = (channels_first(x) for x in state.values)
    ends = reference_start(ends, name, *options)
    wanted = invert(grid, smooth_torch, *ends, *options)
    wanted = ref.to_channels_last(evaluated(wanted, name, *options))[:, 0]
    # Of 2^-53, by the growth of 1 / gamma per step, or of (h[N] / h[1])^2.
    assert distance(result.trajectory, wanted) < 1e-8
