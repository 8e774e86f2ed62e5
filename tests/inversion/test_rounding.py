"""Networks that compute in 16 bits are inverted to their rounding, and no further."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinv as ji
from jaxinv.inversion.verification import MARGIN
from jaxinv.solvers import Anderson, FixedPoint
from jaxinv.solvers.rounding import ROUNDINGS, beside, rounding_of

SIZE, STEPS = 48, 3
SEEDS = range(3)


def network(weights, x, t):
    """A residual network that computes in the dtype of its weights."""
    del t
    h = x.astype(weights[0].dtype)
    for w in weights:
        h = h + jnp.tanh(h @ w)
    return h.astype(x.dtype)


def drawn(seed, dtype):
    """Returns a random network and a noise."""
    rng = np.random.default_rng(seed)
    gain = rng.uniform(0.2, 0.6) / SIZE**0.5
    weights = gain * rng.standard_normal((3, SIZE, SIZE))
    noise = rng.standard_normal(SIZE, np.float32)
    model = jax.tree_util.Partial(network, list(jnp.asarray(weights, dtype)))
    return model, jnp.asarray(noise)


@functools.cache
def samplers():
    tau, ones = np.linspace(0, 1, STEPS + 1), np.ones(STEPS + 1)
    grid = ji.TimeGrid(tau, ones, 1000 * tau, family="flow")
    fine = ji.with_midpoints(ji.flow_matching(), grid)
    return {"euler": ji.euler(grid), "rf_solver": ji.rf_solver(fine)}


@pytest.mark.parametrize("name", ["euler", "rf_solver"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_network_of_16_bits_is_inverted_to_its_rounding(seed, name):
    model, noise = drawn(seed, jnp.bfloat16)
    sampler = samplers()[name]
    x0 = ji.sample(sampler, model, noise)
    found = ji.invert(sampler, model, x0)
    assert 1e-5 < float(found.rounding) < 1e-2
    assert bool(found.solved)
    assert float(found.residual) <= ROUNDINGS * float(found.rounding)
    # One stage, which does not use up its evaluations: 150 for each row.
    assert int(found.stages) == 1
    assert int(found.num_evals) < 50 * sampler.num_rows
    assert float(ji.nmse_db(found.noise, noise)) < -40


@pytest.mark.parametrize("seed", SEEDS)
def test_a_verdict_keeps_its_meaning_and_holds_in_another_program(seed):
    """Whatever the tolerance; the other program is the same network in float32."""
    model, noise = drawn(seed, jnp.bfloat16)
    sampler = samplers()["euler"]
    x0 = ji.sample(sampler, model, noise)
    wide = jax.tree.map(lambda w: w.astype(jnp.float32), model)
    verdicts = []
    for rtol in (1e-4, 4e-3, 6e-2):
        found = ji.invert(sampler, model, x0, reconstruction_rtol=rtol)
        verdicts.append(bool(found.converged))
        assert verdicts[-1] == (float(found.reconstruction) <= MARGIN * rtol)
        if verdicts[-1]:
            # Two noises of one datum, for the other program up to the tolerance.
            ends = [ji.sample(sampler, wide, each) for each in (found.noise, noise)]
            error = jnp.linalg.norm(ends[0] - ends[1]) / jnp.linalg.norm(ends[1])
            assert float(error) < rtol
    assert verdicts[0] is False
    assert verdicts[-1] is True


def test_networks_of_32_bits_have_no_rounding_to_measure():
    sampler = samplers()["euler"]
    for seed in SEEDS:
        model, noise = drawn(seed, jnp.float32)
        found = ji.invert(sampler, model, ji.sample(sampler, model, noise))
        assert float(found.rounding) == 0
        assert bool(found.converged)


@pytest.mark.parametrize("solver", [Anderson(), FixedPoint()])
def test_an_equation_without_solution_is_not_taken_for_rounding(solver):
    """Smooth functions, however steep, whose residual stays above the tolerance."""

    @jax.jit
    def solve(z, gap, steep):
        def residual(z):
            # No root: the first component is at least gap.
            return jnp.concatenate(
                [jnp.sqrt(gap**2 + (steep * z[:1]) ** 2), jnp.tanh(steep * z[1:])]
            )

        one = jnp.ones(())
        return solver(residual, z, slope=2 * one, reference=one)

    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        z = jnp.asarray(0.01 * rng.standard_normal(SIZE), jnp.float32)
        found = solve(z, 10 ** rng.uniform(-5, -1), rng.uniform(0.5, 3))
        assert not bool(found.converged)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_measured_rounding_is_that_of_the_function(seed):
    """Of values that are rounded to 16 bits, and of smooth values that are not."""
    rng = np.random.default_rng(seed)
    z = jnp.asarray(rng.standard_normal(4096), jnp.float32)
    steep = float(rng.uniform(1, 20))
    error = jnp.float32(1e-3)

    def measured(f):
        sides = [f(beside(z, error, sign)) for sign in (0, 1, -1)]
        return float(rounding_of(*sides))

    def smooth(z):
        return jnp.tanh(steep * z)

    def rounded(z):
        return smooth(z).astype(jnp.bfloat16).astype(jnp.float32)

    wanted = float(jnp.linalg.norm(rounded(z) - smooth(z)))
    curved = measured(smooth)
    assert curved < 0.1 * float(jnp.linalg.norm(z)) * float(error)
    if steep < 5:
        assert 0.5 * wanted < measured(rounded) < 2 * wanted
