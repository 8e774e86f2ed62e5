"""Guidance: both branches in one call, the two-call formula, matching conditions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinv as ji

COND = {"text": np.full((3, 2), 0.7, np.float32), "size": np.float32(2.0)}
UNCOND = {"text": np.full((3, 2), -0.1, np.float32), "size": np.float32(1.0)}


def model(x, t, cond):
    return jnp.tanh(x * jnp.sum(cond["text"]) + 0.01 * t) * cond["size"]


@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5])
def test_guidance_is_the_two_call_formula(scale, dtype):
    x = jax.random.normal(jax.random.key(0), (4, 4), dtype)
    t = jnp.asarray(300.0, dtype)
    uncond, cond = model(x, t, UNCOND), model(x, t, COND)
    expected = uncond + scale * (cond - uncond)
    # Extrapolation magnifies a rounding of either branch by the scale.
    tolerance = 20 * (1 + scale) * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(
        ji.guided(model, COND, UNCOND, scale)(x, t), expected, atol=tolerance
    )


def test_both_branches_are_one_call_of_the_model():
    calls = []

    def counting(x, t, cond):
        calls.append(1)
        return model(x, t, cond)

    ji.guided(counting, COND, UNCOND, 5.0)(jnp.ones((4, 4)), jnp.float32(1.0))
    assert len(calls) == 1


def test_conditioned_is_guidance_of_scale_one():
    x, t = jax.random.normal(jax.random.key(0), (4, 4)), jnp.float32(10.0)
    np.testing.assert_allclose(
        ji.conditioned(model, COND)(x, t),
        ji.guided(model, COND, UNCOND, 1.0)(x, t),
        atol=40 * np.finfo(np.float32).eps,
    )


def test_guidance_commutes_with_the_conversion_of_predictions(float64):
    schedule = ji.scaled_linear()
    x = jax.random.normal(jax.random.key(0), (4, 4), float64)
    t = jnp.asarray(321.5, float64)
    before = ji.from_v(ji.guided(model, COND, UNCOND, 5.0), schedule)(x, t)
    uncond, cond = (
        ji.from_v(ji.conditioned(model, c), schedule)(x, t) for c in (UNCOND, COND)
    )
    np.testing.assert_allclose(before, uncond + 5.0 * (cond - uncond), atol=1e-13)


@pytest.mark.parametrize(
    "uncond",
    [
        {"text": np.zeros((4, 2), np.float32), "size": np.float32(1.0)},
        {"text": np.zeros((3, 2), np.float32)},
    ],
    ids=["shape", "structure"],
)
def test_conditions_that_do_not_match_are_refused(uncond):
    with pytest.raises(ValueError, match="must agree in structure and shapes"):
        ji.guided(model, COND, uncond, 5.0)


def test_a_negative_condition_changes_the_prediction():
    x, t = jnp.ones((2, 2)), jnp.float32(10.0)
    negative = jax.tree.map(lambda leaf: leaf * 2, UNCOND)
    plain = ji.guided(model, COND, UNCOND, 5.0)(x, t)
    assert float(jnp.max(jnp.abs(plain - ji.guided(model, COND, negative, 5.0)(x, t))))


@pytest.mark.parametrize("scale", [5, 5.0, np.float64(5.0), jnp.float32(5.0)])
def test_the_guidance_scale_may_be_any_kind_of_number(scale):
    x, t = jnp.ones((2, 2)), jnp.float32(10.0)
    reference = ji.guided(model, COND, UNCOND, 5.0)(x, t)
    guided = ji.guided(model, COND, UNCOND, scale)(x, t)
    assert guided.dtype == jnp.float32
    np.testing.assert_array_equal(guided, reference)


@pytest.mark.parametrize("kind", ["edm", "edm_negative"])
def test_edm_networks_are_scaled_and_converted(kind, float64):
    """On Gaussian data D is ``s^2 / (s^2 + sigma^2) x``, and the ODE has a solution."""
    schedule = ji.edm(0.01, 20.0, sigma_data=0.5, prediction_type=kind)
    data, sign, spread = 0.5, 1 if kind == "edm" else -1, 0.3

    def network(seen, t):
        sigma = jnp.exp(4 * t)
        x = seen * jnp.sqrt(sigma**2 + data**2)
        c_skip = data**2 / (sigma**2 + data**2)
        c_out = sign * sigma * data / jnp.sqrt(sigma**2 + data**2)
        return (spread**2 / (spread**2 + sigma**2) - c_skip) * x / c_out

    denoise = ji.as_denoiser(network, schedule)
    noise = jax.random.normal(jax.random.key(0), (3, 4), float64)
    for sigma in (0.02, 1.0, 15.0):
        t = jnp.asarray(np.log(sigma) / 4, float64)
        expected = sigma * noise / (spread**2 + sigma**2)
        np.testing.assert_allclose(denoise(noise, t), expected, rtol=1e-12)
    ends = np.sqrt(spread**2 + np.array([0.01, 20.0]) ** 2)
    sampler = ji.dpmpp_2m(ji.time_grid(schedule, 400))
    sample = ji.sample(sampler, denoise, noise)
    np.testing.assert_allclose(sample, 20.0 * noise * ends[0] / ends[1], rtol=2e-3)
    result = ji.invert(sampler, denoise, sample)
    np.testing.assert_allclose(result.noise, noise, rtol=1e-9)


def test_sigma_data_and_edm_predictions_belong_together():
    with pytest.raises(ValueError, match="belong together"):
        ji.variance_exploding(prediction_type="edm")
    with pytest.raises(ValueError, match="does not fit"):
        ji.as_denoiser(model, ji.scaled_linear(), "edm")
    with pytest.raises(ValueError, match="EDM's networks predict F"):
        ji.from_x0(model, ji.edm())
