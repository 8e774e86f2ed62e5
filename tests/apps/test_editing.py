"""Editing keeps what it should keep, and changes what it should change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import jaxinv as ji
from jaxinv.apps import editing, masks
from jaxinv.diffusion.schedule import vp_schedule

SCHEDULE = ji.scaled_linear()
STEPS = 20
SAMPLERS = [ji.ddim, ji.dpmpp_2m, ji.dpmpp_3m, ji.heun, ji.o_belm, ji.bdia, ji.edict]


def predict(mean, x, t):
    """Noise prediction for Gaussian data of this mean and standard deviation 1/2."""
    tau = jnp.interp(t, SCHEDULE.model_times, SCHEDULE.taus)
    y = x * jnp.sqrt(1 + tau**2)
    return (y - mean) * tau / (0.25 + tau**2)


SOURCE, TARGET = Partial(predict, jnp.float32(0.5)), Partial(predict, jnp.float32(-1.0))
LATENT = 0.5 + 0.4 * jax.random.normal(jax.random.key(0), (6, 5, 2))
LEFT = np.zeros((6, 5, 1), np.float32)
LEFT[:, :2] = 1


def sampler_of(make):
    return make(ji.time_grid(SCHEDULE, STEPS))


def difference(a, b):
    return float(jnp.max(jnp.abs(a - b)))


@pytest.mark.parametrize("make", SAMPLERS, ids=lambda m: m.__name__)
def test_the_same_prompt_twice_edits_nothing(make):
    found = editing.edit(sampler_of(make), SOURCE, SOURCE, LATENT)
    assert difference(found.latent, LATENT) < 1e-4


@pytest.mark.parametrize("make", SAMPLERS, ids=lambda m: m.__name__)
def test_without_a_mask_it_is_sampling_with_the_target(make):
    sampler = sampler_of(make)
    found = editing.edit(sampler, SOURCE, TARGET, LATENT)
    wanted = ji.sample(sampler, TARGET, ji.invert(sampler, SOURCE, LATENT).state)
    assert difference(found.latent, wanted) < 1e-4
    # Data of another mean, with the same deviations from it; EDICT's few steps are off.
    assert abs(float(jnp.mean(found.latent)) + 1.0) < (
        0.5 if make is ji.edict else 0.15
    )


@pytest.mark.parametrize("make", SAMPLERS, ids=lambda m: m.__name__)
def test_outside_of_the_mask_the_latent_comes_back(make):
    found = editing.edit(sampler_of(make), SOURCE, TARGET, LATENT, mask=LEFT).latent
    assert difference(found[:, 2:], LATENT[:, 2:]) < 1e-6
    assert abs(float(jnp.mean(found[:, :2])) + 1.0) < (0.5 if make is ji.edict else 0.3)


@pytest.mark.parametrize("make", SAMPLERS, ids=lambda m: m.__name__)
def test_frozen_steps_follow_the_source(make):
    sampler = sampler_of(make)
    effect = [
        difference(
            editing.edit(sampler, SOURCE, TARGET, LATENT, freeze=freeze).latent, LATENT
        )
        for freeze in (0, STEPS // 2, STEPS - 2, STEPS)
    ]
    assert effect[0] > effect[1] > effect[2] > effect[3]
    assert effect[3] < 1e-4


def test_a_batch_is_its_samples_and_a_program_of_its_own():
    sampler = sampler_of(ji.o_belm)
    latents = jnp.stack([LATENT, -LATENT])

    def run(latent):
        return editing.edit(sampler, SOURCE, TARGET, latent, mask=LEFT).latent

    together = jax.jit(jax.vmap(run))(latents)
    for k in range(2):
        np.testing.assert_allclose(together[k], run(latents[k]), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"mask": np.ones((5, 5, 1))}, "mask of shape"),
        ({"mask": np.ones((2, 6, 5, 1))}, "mask of shape"),
        ({"mask": 2 * np.ones((6, 5, 1))}, r"\[0, 1\]"),
        ({"mask": np.full((6, 5, 1), np.nan)}, "mask"),
        ({"freeze": -1}, "freeze"),
        ({"freeze": STEPS + 1}, "freeze"),
    ],
)
def test_bad_input_is_refused(options, match):
    with pytest.raises(ValueError, match=match):
        editing.edit(sampler_of(ji.ddim), SOURCE, TARGET, LATENT, **options)


# --- masks --------------------------------------------------------------------------


def test_a_mask_is_found_where_the_prompts_disagree():
    def partly(x, t):  # disagrees with the source in the left two columns
        return jnp.where(LEFT > 0, TARGET(x, t), SOURCE(x, t))

    key = jax.random.key(3)
    found = masks.prediction_mask(SCHEDULE, SOURCE, partly, LATENT, key)
    np.testing.assert_array_equal(found, LEFT)


def test_a_pixel_that_changes_changes_its_block():
    pixels = np.zeros((8, 12), bool)
    pixels[5, 7] = True
    found = masks.latent_mask(pixels, 4)
    assert found.shape == (2, 3, 1)
    assert found.sum() == found[1, 1, 0] == 1


@pytest.mark.parametrize(
    ("mask", "match"),
    [
        (np.zeros((8, 10)), "multiples of 4"),
        (np.zeros((8, 8, 3)), "shape"),
        (np.full((8, 8), 2.0), r"\[0, 1\]"),
        (np.full((8, 8), np.nan), r"\[0, 1\]"),
    ],
)
def test_a_bad_mask_is_refused(mask, match):
    with pytest.raises(ValueError, match=match):
        masks.latent_mask(mask, 4)


@pytest.mark.parametrize(
    "options", [{"strength": 0.0}, {"threshold": 1.0}, {"samples": 0}]
)
def test_bad_options_of_a_found_mask_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        masks.prediction_mask(
            SCHEDULE, SOURCE, TARGET, LATENT, jax.random.key(0), **options
        )


def test_a_mask_is_found_from_pure_noise():
    alphas = np.linspace(0.999, 0, 20)
    schedule = vp_schedule(alphas, prediction_type="v_prediction")

    def model(gain):
        return ji.as_denoiser(lambda x, t: gain * x, schedule)

    found = masks.prediction_mask(
        schedule, model(0.0), model(LEFT), LATENT, jax.random.key(0), strength=0.99
    )
    np.testing.assert_array_equal(found[LEFT == 0], 0)
    assert found.sum() > 0
