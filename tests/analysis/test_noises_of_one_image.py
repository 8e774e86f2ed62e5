"""The number of noises that lead to the same data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinv as ji

FLOW = ji.flow_matching(prediction_type="rectified_flow")


def one_step(ends_at):
    """The sampler and denoiser of one Euler step from z to ``ends_at(z)``."""
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
    sampler = ji.sampler_from_diffusers(config, 1, sigmas=[1.0])
    return sampler, ji.as_denoiser(lambda z, t: ends_at(z) - z, FLOW)


@pytest.mark.parametrize("seed", range(6))
def test_all_real_roots_of_a_random_cubic_are_found(seed, float64):
    # z^3 + b z^2 + c z has one or three noises for a number; numpy says which.
    rng = np.random.default_rng(seed)
    b, c = rng.uniform(-1, 1), rng.uniform(-4, 1)
    sampler, denoise = one_step(lambda z: z**3 + b * z**2 + c * z)
    x0 = rng.uniform(-1, 1)
    roots = np.roots([1, b, c, -x0])
    real = np.sort(roots[np.abs(roots.imag) < 1e-9].real)
    found = ji.preimages(
        sampler, denoise, jnp.array([x0]), jax.random.key(seed), 64, distance=1e-4
    )
    kinds = np.unique(np.asarray(found.same_as))
    kinds = kinds[kinds >= 0]
    assert int(found.found) == len(kinds) == len(real)
    np.testing.assert_allclose(np.sort(found.noises[kinds, 0]), real, atol=1e-6)
    wrong = np.asarray(found.noises[:, 0])[~np.asarray(found.converged)]
    assert len(wrong) < 32


def test_an_injective_map_has_one_and_a_start_is_as_good_as_another():
    sampler, denoise = one_step(lambda z: jnp.sinh(0.5 * z))
    x0 = jax.random.normal(jax.random.key(1), (4, 4, 2))
    found = ji.preimages(sampler, denoise, x0, jax.random.key(0), 5)
    assert int(found.found) == 1
    assert bool(found.converged.all())
    assert set(np.asarray(found.same_as)) == {0}
    np.testing.assert_allclose(found.noises[3], 2 * jnp.arcsinh(x0), atol=1e-4)
    assert int(found.num_evals) >= 5


def test_what_has_no_preimage_is_not_counted():
    sampler, denoise = one_step(lambda z: z**2)
    found = ji.preimages(sampler, denoise, jnp.array([-1.0]), jax.random.key(0), 4)
    assert int(found.found) == 0
    assert not found.converged.any()
    assert set(np.asarray(found.same_as)) == {-1}


def test_several_steps_are_searched_as_one(float64):
    grid = ji.time_grid(ji.scaled_linear(), 20)
    denoise = ji.clipped(lambda x, t: 0.9 * x, ji.scaled_linear())
    noise = 0.1 * jax.random.normal(jax.random.key(0), (4, 4, 1))
    x0 = ji.sample(ji.ddim(grid), denoise, noise)
    found = ji.preimages(ji.ddim(grid), denoise, x0, jax.random.key(2), 3)
    assert int(found.found) >= 1
    first = int(found.same_as.max())
    assert float(ji.nmse_db(found.noises[first], noise)) < -80


def test_bidirectional_samplers_are_refused():
    grid = ji.time_grid(ji.scaled_linear(), 10)
    with pytest.raises(ValueError, match="one state for each data by construction"):
        ji.preimages(ji.o_belm(grid), lambda x, t: x, jnp.ones(3), jax.random.key(0))
