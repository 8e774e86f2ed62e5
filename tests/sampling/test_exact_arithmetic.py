"""Numbers that lose nothing: the same bits back, and gradients that store nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import jaxinv as ji
from jaxinv.sampling.lossless_numbers import COMPENSATED, Bits, two_sum

# That the same bits come back is a claim about the programs that users run.
pytestmark = pytest.mark.users_compiler

VP = ji.scaled_linear()
EXACT = ("compensated", "bits")
TABLES = {
    "o_belm": ji.o_belm,
    "o_belm, 4 states": lambda grid: ji.o_belm(grid, 4),
    "bdia": ji.bdia,
    "edict": ji.edict,
}
WEIGHTS = np.float32(np.random.default_rng(0).standard_normal((16, 16)) / 4)


def network(weights, x, t):
    """A nonlinear model, strong enough for rounding errors to spread."""
    return 0.7 * x + 0.5 * jnp.tanh(x @ weights) * (1 + t / 1000)


def data(*shape, seed=0, dtype=np.float32):
    x = np.random.default_rng(seed).standard_normal((*shape, 16))
    return jnp.asarray(x.astype(dtype))


@pytest.fixture(params=[pytest.param(make, id=name) for name, make in TABLES.items()])
def table(request):
    return request.param(ji.time_grid(VP, 20))


def in_floats(table, model, noise):
    """The sample in ordinary arithmetic."""
    return ji.sample(table, model, noise)


def test_the_error_of_a_sum_is_found_exactly():
    a, b = data(4), data(4, seed=1) * 1e-3
    total, error = jax.jit(two_sum)(a, b)
    exact = np.asarray(a, np.float64) + np.asarray(b, np.float64)
    np.testing.assert_array_equal(np.float64(total) + np.float64(error), exact)
    assert np.any(error != 0)


@pytest.mark.parametrize("held", [COMPENSATED, Bits(50)], ids=["compensated", "bits"])
def test_adding_and_taking_away_returns_the_same_numbers(held):
    increments = data(30, seed=1)
    start = held.encode(data())

    @jax.jit
    def there_and_back(words):
        for x in increments:
            words = held.add(words, x)
        between = words
        for x in increments[::-1]:
            words = held.add(words, -x)
        return between, words

    between, back = there_and_back(start)
    np.testing.assert_array_equal(held.decode(back, jnp.float32), data())
    expected = np.sum(np.asarray(increments, np.float64), axis=0) + np.asarray(data())
    found = held.decode(between, jnp.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_integers_count_units_as_integers_of_python_do():
    values = data(50) * np.float32(10) ** data(50, seed=1).round()
    high, low = Bits(45).encode(values)
    found = [
        int(h) * 2**32 + int(w) for h, w in zip(high.ravel(), low.ravel(), strict=True)
    ]
    expected = [round(float(v) * 2**45) for v in values.ravel()]
    # In float32 the product is exact, and integral above 2^24: no half to be rounded.
    large = [abs(e) >= 2**24 for e in expected]
    assert sum(large) > 100
    assert all(f == e for f, e, use in zip(found, expected, large, strict=True) if use)


def test_values_that_do_not_fit_are_not_taken_for_others():
    held = Bits(50)
    big = held.encode(jnp.array([1.0, 1e5], jnp.float32))
    assert not bool(held.holds(big))
    assert not bool(held.holds(held.encode(jnp.array([jnp.nan], jnp.float32))))
    assert bool(held.holds(held.encode(jnp.array([-1000.0], jnp.float32))))


@pytest.mark.parametrize("arithmetic", EXACT)
@pytest.mark.parametrize("steps", [20, 1000])
def test_a_round_trip_from_data_returns_the_identical_bits(arithmetic, steps):
    table, model = ji.o_belm(ji.time_grid(VP, steps)), Partial(network, WEIGHTS)
    x0 = data(2)
    result = ji.invert(table, model, x0, arithmetic=arithmetic)
    back = ji.sample(table, model, result.state, arithmetic=arithmetic)
    assert bool(result.state_converged)
    assert float(result.state_reconstruction) == 0
    np.testing.assert_array_equal(back, x0)


@pytest.mark.parametrize("arithmetic", EXACT)
def test_a_round_trip_from_noise_returns_the_identical_bits(table, arithmetic):
    model = Partial(network, WEIGHTS)
    end = ji.sample(table, model, data(2), return_state=True, arithmetic=arithmetic)
    again = ji.invert(table, model, end, arithmetic=arithmetic).state
    back = ji.sample(table, model, again, return_state=True, arithmetic=arithmetic)
    np.testing.assert_array_equal(back.values, end.values)
    assert all(np.array_equal(a, b) for a, b in zip(back.words, end.words, strict=True))


@pytest.mark.parametrize("arithmetic", EXACT)
def test_exact_arithmetic_samples_what_floats_sample(table, arithmetic):
    model, noise = Partial(network, WEIGHTS), data(2)
    exact = ji.sample(table, model, noise, arithmetic=arithmetic)
    assert float(ji.nmse_db(exact, in_floats(table, model, noise))) < -90


def test_exact_arithmetic_in_float64(table, float64):
    model, x0 = Partial(network, np.float64(WEIGHTS)), data(2, dtype=float64)
    result = ji.invert(table, model, x0, arithmetic="bits")
    back = ji.sample(table, model, result.state, arithmetic="bits")
    # Doubles have more digits than the integers have places near zero.
    np.testing.assert_allclose(back, x0, rtol=0, atol=1e-14)


@pytest.mark.parametrize("arithmetic", EXACT)
def test_gradients_that_store_no_states_are_those_of_autodiff(table, arithmetic):
    def loss(weights, noise, arithmetic):
        model = Partial(network, weights)
        if arithmetic == "float":
            return jnp.sum(jnp.sin(in_floats(table, model, noise)))
        return jnp.sum(jnp.sin(ji.sample(table, model, noise, arithmetic=arithmetic)))

    both = jax.grad(loss, (0, 1))
    expected = both(jnp.asarray(WEIGHTS), data(2), "float")
    found = both(jnp.asarray(WEIGHTS), data(2), arithmetic)
    for a, b in zip(found, expected, strict=True):
        assert float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)) < 1e-4


def test_a_model_that_closes_over_its_weights_can_be_differentiated():
    table = ji.o_belm(ji.time_grid(VP, 6))

    def loss(weights, arithmetic):
        def model(x, t):
            return network(weights, x, t)

        return jnp.sum(ji.sample(table, model, data(2), arithmetic=arithmetic) ** 2)

    expected = jax.grad(loss)(jnp.asarray(WEIGHTS), "float")
    found = jax.jit(jax.grad(loss), static_argnums=1)(
        jnp.asarray(WEIGHTS), "compensated"
    )
    assert float(jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected)) < 1e-4


def test_the_memory_of_a_gradient_does_not_grow_with_the_steps():
    def memory(steps, arithmetic):
        table = ji.o_belm(ji.time_grid(VP, steps))

        def loss(weights, noise):
            model = Partial(network, weights)
            return jnp.sum(ji.sample(table, model, noise, arithmetic=arithmetic))

        compiled = jax.jit(jax.grad(loss)).lower(WEIGHTS, data(100)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(100, "compensated") < 1.1 * memory(10, "compensated")
    assert memory(100, "float") > 5 * memory(10, "float")


@pytest.mark.parametrize("arithmetic", EXACT)
def test_a_batch_is_its_samples(arithmetic):
    table, model = ji.o_belm(ji.time_grid(VP, 10)), Partial(network, WEIGHTS)
    x0s = data(3, 2)
    results = jax.vmap(lambda x: ji.invert(table, model, x, arithmetic=arithmetic))(x0s)
    back = jax.vmap(lambda s: ji.sample(table, model, s, arithmetic=arithmetic))(
        results.state
    )
    np.testing.assert_array_equal(back, x0s)


@pytest.mark.parametrize("arithmetic", EXACT)
def test_a_value_that_is_lost_is_reported_and_spoils_no_other(arithmetic):
    table = ji.o_belm(ji.time_grid(VP, 6))
    x0s = data(3, 2)

    def one(x, bad):
        def model(x, t):
            return jnp.where(bad, jnp.nan, network(WEIGHTS, x, t))

        return ji.invert(table, model, x, arithmetic=arithmetic)

    results = jax.vmap(one)(x0s, jnp.array([False, True, False]))
    assert results.state_converged.tolist() == [True, False, True]
    assert np.all(np.isnan(results.state.values[1]))
    assert np.all(np.isfinite(results.noise[::2]))


@pytest.mark.parametrize(
    ("sampler", "arithmetic", "match"),
    [
        (ji.ddim, "bits", "bidirectional samplers"),
        (ji.o_belm, "decimal", "compensated"),
        (lambda grid: ji.bdia(grid, 0.01), "bits", "integers of"),
    ],
    ids=["ddim", "unknown", "too many bits"],
)
def test_what_has_no_exact_arithmetic_is_refused(sampler, arithmetic, match):
    table = sampler(ji.time_grid(VP, 50))
    with pytest.raises(ValueError, match=match):
        ji.sample(table, Partial(network, WEIGHTS), data(), arithmetic=arithmetic)
    with pytest.raises(ValueError, match=match):
        ji.invert(table, Partial(network, WEIGHTS), data(), arithmetic=arithmetic)


def test_a_table_whose_coefficients_are_not_known_yet_is_refused(table):
    model = Partial(network, WEIGHTS)
    with pytest.raises(ValueError, match=r"outside of jax\.jit"):
        jax.jit(lambda s: ji.sample(s, model, data(), arithmetic="bits"))(table)


@pytest.mark.parametrize("arithmetic", EXACT)
def test_a_state_that_was_changed_is_the_changed_one(table, arithmetic):
    model = Partial(network, WEIGHTS)
    state = ji.invert(table, model, data(2), arithmetic=arithmetic).state
    changed = dataclasses.replace(state, values=1.5 * state.values)
    plain = dataclasses.replace(changed, words=None, arithmetic="float")
    found = ji.sample(table, model, changed, arithmetic=arithmetic)
    np.testing.assert_array_equal(
        found, ji.sample(table, model, plain, arithmetic=arithmetic)
    )
    assert not np.allclose(found, data(2))


@pytest.mark.parametrize("arithmetic", EXACT)
def test_between_two_exact_states_both_ends_are_exact(table, arithmetic):
    model = Partial(network, WEIGHTS)
    ends = [data(2, seed=seed) for seed in (0, 1)]
    states = [ji.invert(table, model, x, arithmetic=arithmetic).state for x in ends]

    def at(t):
        between = ji.interpolate(*states, t)
        return ji.sample(table, model, between, arithmetic=arithmetic)

    np.testing.assert_array_equal(at(0.0), ends[0])
    np.testing.assert_array_equal(at(1.0), ends[1])
    # In between it is what floats make of the same mixture.
    plain = [dataclasses.replace(s, words=None, arithmetic="float") for s in states]
    expected = ji.sample(
        table, model, ji.interpolate(*plain, 0.5), arithmetic=arithmetic
    )
    np.testing.assert_array_equal(at(0.5), expected)
