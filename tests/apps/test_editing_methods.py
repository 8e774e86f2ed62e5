"""Editing methods share what their papers share, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinv as ji
from jaxinv.apps import editing
from jaxinv.apps.editing import METHODS, pair_denoiser, sample_pair
from jaxinv.apps.editing.pair import Moment, step_at

SOURCE, TARGET = "a red cat", "a red dog"
GUIDANCE = 3.0
SAMPLERS = [ji.ddim, ji.dpmpp_2m, ji.heun, ji.o_belm, ji.edict]


def inverted(sampler, latent):
    """An inversion, without the cost of one: only its state and latent are read."""
    state = latent
    if sampler.bidirectional:
        values = jnp.stack([latent] * sampler.history)
        state = ji.SamplerState(values, sampler.name, sampler.num_steps, "noise")
    result = dict.fromkeys(ji.InversionResult._fields)
    return ji.InversionResult(**result | {"noise": latent, "state": state})


@pytest.fixture(scope="module")
def latent(tiny):
    return jax.random.normal(jax.random.key(0), tiny.latent_shape)


def sampler_of(tiny, make=ji.ddim, steps=3):
    return make(ji.time_grid(tiny.schedule, steps))


def close(a, b, atol=1e-4):
    np.testing.assert_allclose(a, b, atol=atol)


def differs(a, b):
    return float(jnp.max(jnp.abs(a - b))) > 1e-3


@pytest.mark.parametrize(
    ("make", "guidance"),
    [(ji.ddim, 1.0), (ji.dpmpp_2m, GUIDANCE), (ji.o_belm, GUIDANCE)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_pair_that_shares_nothing_is_two_samples(tiny, latent, make, guidance):
    sampler = sampler_of(tiny, make)
    start = inverted(sampler, latent).state
    options = {"negative_prompt": "blue", "guidance_scale": guidance}
    denoise = pair_denoiser(tiny, sampler, SOURCE, TARGET, **options)
    for found, prompt in zip(
        sample_pair(sampler, denoise, start), (SOURCE, TARGET), strict=True
    ):
        close(found, ji.sample(sampler, tiny.denoiser(prompt, **options), start))


def test_a_stochastic_sampler_adds_the_same_noises_to_both(tiny, latent):
    sampler = sampler_of(tiny, ji.ancestral)
    sampler = sampler.with_noises(
        jax.random.normal(jax.random.key(1), (3, *latent.shape))
    )
    pair = sample_pair(sampler, pair_denoiser(tiny, sampler, SOURCE, TARGET), latent)
    close(pair[1], ji.sample(sampler, tiny.denoiser(TARGET), latent))


@pytest.mark.parametrize("make", SAMPLERS, ids=lambda m: m.__name__)
def test_times_of_a_sampler_belong_to_its_steps(tiny, make):
    sampler = sampler_of(tiny, make, 5)
    ends = np.asarray(sampler.ends or range(sampler.num_rows + 1))[1:]
    levels = jnp.asarray(np.asarray(sampler.model_time)[ends], jnp.float32)
    assert [int(step_at(levels, t)) for t in levels[::-1]] == list(range(5))
    every = np.asarray(sampler.model_time)[:0:-1].astype(np.float32)
    steps = [int(step_at(levels, t)) for t in every]
    assert steps == sorted(steps)
    assert set(steps) == set(range(5))
    assert Moment(jnp.asarray(3), False).during(2, 4)
    assert not Moment(jnp.asarray(4), False).during(2, 4)


def test_an_unknown_option_is_refused(tiny, latent):
    sampler = sampler_of(tiny)
    for name, each in METHODS.items():
        with pytest.raises(ValueError, match=f"unknown option of {name} 'depth'"):
            each(tiny, sampler, inverted(sampler, latent), SOURCE, TARGET, depth=1)


def test_prompt_swap_is_an_edit_without_mask(tiny, latent):
    sampler = sampler_of(tiny)
    denoise = [tiny.denoiser(p, guidance_scale=GUIDANCE) for p in (SOURCE, TARGET)]
    wanted = editing.edit(sampler, *denoise, latent)
    found = METHODS["prompt_swap"](
        tiny, sampler, wanted.inversion, SOURCE, TARGET, guidance_scale=GUIDANCE
    )
    close(found, wanted.latent)
