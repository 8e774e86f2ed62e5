"""The certificate of the whole way: no verdict is good where sampling disagrees."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from core_cases import SAMPLERS, SCHEDULES, relative_error
from gaussian_mixture import SHAPE, gaussian_mixture
from jax.tree_util import Partial

import jaxinv as ji
from benchmarks.certificates.__main__ import METHODS, is_false, run_batch
from benchmarks.certificates.models import MODELS
from jaxinv.inversion import Stepwise
from jaxinv.inversion.stages import Solved
from jaxinv.inversion.verification import (
    GAIN,
    Verified,
    default_reconstruction_rtol,
    worth_repeating,
)
from jaxinv.norms import natural_unit, norm, power_of_two, tree_norm

VP = SCHEDULES["vp"]
STEPS = 8

# --- what steps amplify -------------------------------------------------------------


@jax.jit
def invert_all(table, model, x0s):
    """Inverts step by step, in a batch."""
    return jax.vmap(lambda x: ji.invert(table, model, x, strategy="stepwise"))(x0s)


@pytest.fixture(scope="module")
def between_modes():
    """Means of two modes of a sharp mixture: sampling falls to either side."""
    model, rng = gaussian_mixture(VP, variance=0.02), np.random.default_rng(0)
    pairs = np.asarray(model.centres)[rng.integers(0, 8, (64, 2))]
    x0s = pairs.mean(1) + 0.14 * rng.standard_normal((64, *SHAPE))
    table = ji.ddim(ji.time_grid(VP, 20))
    return table, model, jnp.asarray(x0s, jnp.float32)


def test_solved_steps_do_not_make_a_result_that_misses_the_data_converged(
    between_modes,
):
    table, model, x0s = between_modes
    found = invert_all(table, model, x0s)
    again = jax.vmap(lambda e: ji.sample(table, model, e))(found.noise)
    errors = np.array([relative_error(a, b) for a, b in zip(again, x0s, strict=True)])
    missed = errors > 1e-2
    assert np.sum(found.solved & missed) > 10
    assert not np.any(found.converged & missed)
    assert not np.any(found.solved & (errors < 9e-5) & ~found.converged)
    # What is reported is what sampling gives.
    np.testing.assert_allclose(found.reconstruction, errors, rtol=0.05, atol=1e-6)


def test_a_trajectory_is_refined_from_the_states_that_sampling_went_through():
    # A steep network: the first solve leaves what the way back amplifies.
    table = ji.dpmpp_2m(ji.time_grid(VP, STEPS))
    x0 = jax.random.normal(jax.random.key(3), (3, 4))
    rough = ji.Trajectory(rtol=1e-2, history=8)
    model = Partial(lambda gain, x, t: gain * jnp.sin(x + 0.001 * t), 0.9)
    once = ji.invert(table, model, x0, strategy=rough, verify=False)
    back = ji.sample(table, model, once.noise)
    assert bool(once.solved)
    assert relative_error(back, x0) > 1e-4
    found = ji.invert(table, model, x0, strategy=rough)
    assert bool(found.converged)
    assert float(found.reconstruction) < GAIN * relative_error(back, x0)
    jitted = jax.jit(lambda x: ji.invert(table, model, x, strategy=rough))(x0)
    assert bool(jitted.converged)
    assert float(jitted.reconstruction) < GAIN * relative_error(back, x0)


def test_a_way_back_that_overflows_is_not_repeated_for_ever():
    # Each row holds, and sampling from the noise leaves all numbers.
    table = ji.dpmpp_2m(ji.time_grid(VP, STEPS))
    model = Partial(lambda gain, x, t: gain * x, jnp.float32(-40.0))
    x0 = jnp.full((3, 4), 1e25, jnp.float32)
    settings = ji.Trajectory(history=8)
    for run in (ji.invert, jax.jit(ji.invert, static_argnames="strategy")):
        found = run(table, model, x0, strategy=settings)
        assert not bool(found.converged) or float(found.reconstruction) < 1e-4
    # Infinite errors do not fall: there is nothing to go on from.
    one, yes = jnp.ones(()), jnp.array(True)
    lost = Verified(
        Solved(one[None], one[None], one, one, one, yes, yes),
        one * jnp.inf,
        one * jnp.inf,
        ~yes,
        ~yes,
    )
    assert not bool(worth_repeating(None, lost))
    assert not bool(worth_repeating(lost, lost))
    assert bool(worth_repeating(lost, lost._replace(reconstruction=one)))


# --- the options --------------------------------------------------------------------


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "o_belm"])
def test_without_the_way_back_nothing_is_claimed(name, jit):
    table, model = SAMPLERS[name].build(VP, STEPS), gaussian_mixture(VP)
    x0 = ji.sample(table, model, jax.random.normal(jax.random.key(1), SHAPE))

    # Under jit, all stages of "auto" would be compiled.
    strategy = ji.Trajectory(history=4) if jit and name != "o_belm" else "auto"

    def invert(table, model, x0, **options):
        return ji.invert(table, model, x0, strategy=strategy, **options)

    run = jax.jit(invert, static_argnames="verify") if jit else invert
    found, bare = run(table, model, x0), run(table, model, x0, verify=False)
    assert bool(found.state_converged)
    assert not bool(bare.converged)
    assert not bool(bare.state_converged)
    assert np.isnan(bare.reconstruction)
    assert np.isnan(bare.state_reconstruction)
    assert bool(bare.solved) == bool(found.solved) == (name != "o_belm")
    ways = 3 * STEPS - 2 if name == "o_belm" else STEPS
    assert int(found.num_evals) - int(bare.num_evals) == ways
    assert int(found.depth) - int(bare.depth) == ways


def test_the_tolerance_decides(dtype):
    table, model = SAMPLERS["ddim"].build(VP, STEPS), gaussian_mixture(VP)
    noise = jnp.asarray(np.random.default_rng(1).standard_normal(SHAPE), dtype)
    x0 = ji.sample(table, model, noise)
    found = ji.invert(table, model, x0)
    error = float(found.reconstruction)
    assert 0 < error < default_reconstruction_rtol(dtype)
    for rtol, converged in ((5 * error, True), (3 * error, False)):
        options = {"strategy": "stepwise", "reconstruction_rtol": rtol}
        assert bool(ji.invert(table, model, x0, **options).converged) == converged


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reconstruction_rtol": 0}, "must be a positive number, got 0"),
        (
            {"reconstruction_rtol": float("nan")},
            "a finite number or None, got nan",
        ),
        (
            {"reconstruction_rtol": "1e-4"},
            "a finite number or None, got '1e-4'",
        ),
        ({"reconstruction_rtol": True}, "a finite number or None, got True"),
        ({"reconstruction_rtol": 1e-4, "verify": False}, "no meaning with verify"),
    ],
)
def test_a_tolerance_that_is_none_is_refused(options, message):
    table, x0 = ji.ddim(ji.time_grid(VP, STEPS)), jnp.ones((3, 4))
    calls = (
        lambda: ji.invert(table, Partial(jnp.multiply), x0, **options),
        lambda: ji.invert_batch(table, Partial(jnp.multiply), x0, **options),
        lambda: list(ji.invert_stream(table, Partial(jnp.multiply), x0, **options)),
    )
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call()


def test_samplers_of_one_shape_share_their_programs():
    traces = []

    def model(x, t):
        traces.append(1)
        return 0.5 * jnp.sin(x)

    grid, x0 = ji.time_grid(VP, STEPS), jnp.ones((3, 4))
    tables = [ji.dpmpp_2m(grid), ji.deis(grid, order=2), ji.unip(grid, order=2)]
    tables += [ji.ipndm(grid, order=2)]
    results = []
    for table in tables:
        results.append(ji.invert(table, model, ji.sample(table, model, x0)))
        counts = len(traces)
        assert table.name != tables[0].name or len(results) == 1
        if len(results) == 1:
            first = counts
    assert counts == first
    assert all(bool(found.converged) for found in results)
    # Names are not of the program that ran first.
    states = [
        ji.sample(table, model, x0, return_state=True)
        for table in (ji.o_belm(grid), ji.bdia(grid))
    ]
    assert [state.sampler for state in states] == ["o_belm", "bdia"]


# --- any size of data ---------------------------------------------------------------


def equivariant(unit, x, t):
    """A model that maps ``c x`` to ``c`` times its output, for ``unit = c``."""
    return unit * 0.9 * jnp.sin(x / unit + 0.001 * t)


# The default takes steps of an absolute size, and the published rule stops at one.
GRADIENT = ji.Gradient(optax.sgd(0.3), max_iterations=500)
FORWARD_STEP = ji.ForwardStep(rtol=1e-6, sum_of_squares=0.0)

EVERYWHERE = {
    "auto": (ji.ddim, {"strategy": "auto"}),
    "fixed_point": (ji.ddim, {"strategy": "stepwise", "solver": "fixed_point"}),
    "forward_step": (ji.ddim, {"strategy": "stepwise", "solver": FORWARD_STEP}),
    "gradient": (ji.ddim, {"strategy": "stepwise", "solver": GRADIENT}),
    "newton_krylov": (ji.ddim, {"strategy": "stepwise", "solver": "newton_krylov"}),
    "naive": (ji.ddim, {"strategy": "naive"}),
    "trajectory": (ji.dpmpp_2m, {"strategy": ji.Trajectory(history=8)}),
    "newton": (
        ji.dpmpp_2m,
        {"strategy": (ji.Trajectory(max_sweeps=5), ji.NewtonTrajectory(20))},
    ),
    "algorithm_2": (ji.dpmpp_2m, {"strategy": ji.Algorithm2(VP, solver=FORWARD_STEP)}),
    "explicit": (ji.o_belm, {"strategy": "explicit"}),
    "edict": (ji.edict, {}),
}


@jax.jit(static_argnames="options")
def invert_one(sampler, unit, x0, options):
    """Inverts with options as a tuple of pairs."""
    return ji.invert(sampler, Partial(equivariant, unit), x0, **dict(options))


@pytest.mark.parametrize("name", EVERYWHERE)
def test_results_do_not_depend_on_the_size_of_the_data(name):
    sampler, options = EVERYWHERE[name]
    sampler, options = sampler(ji.time_grid(VP, STEPS)), tuple(options.items())
    rng = np.random.default_rng(0)
    noise = jax.random.normal(jax.random.key(0), (3, 4))
    x0 = ji.sample(sampler, Partial(equivariant, jnp.float32(1)), noise)
    wanted = invert_one(sampler, jnp.float32(1), x0, options)
    for unit in np.float32(10.0 ** np.append(rng.uniform(-30, 30, 5), [-30, 30])):
        found = invert_one(sampler, jnp.float32(unit), x0 * unit, options)
        assert relative_error(found.noise / unit, wanted.noise) < 1e-3, unit
        assert bool(found.converged) == bool(wanted.converged), unit
        assert bool(found.solved) == bool(wanted.solved), unit
        assert bool(found.state_converged) == bool(wanted.state_converged), unit
        error, before = float(found.reconstruction), float(wanted.reconstruction)
        assert error == pytest.approx(before, rel=0.3, abs=2e-5), unit


def test_data_too_small_for_the_model_beside_it_are_not_called_converged():
    # Where rounding of the model's output is far larger than the data.
    table, model = ji.ddim(ji.time_grid(VP, STEPS)), gaussian_mixture(VP)
    for size in 10.0 ** np.array([-30, -20, -18, -12, 12, 19, 30]):
        x0 = np.float32(size * np.random.default_rng(3).standard_normal(SHAPE))
        found = ji.invert(table, model, x0, strategy="stepwise")
        again = ji.sample(table, model, found.noise)
        error = np.linalg.norm(np.float64(again) - x0) / np.linalg.norm(np.float64(x0))
        error = np.nan_to_num(error, nan=np.inf)
        assert bool(found.converged) <= (error <= 1e-4), size
        assert float(found.reconstruction) == pytest.approx(error, rel=1e-3), size


@pytest.mark.parametrize("bits", [32, 64])
def test_norms_neither_underflow_nor_overflow(bits):
    rng, widest = np.random.default_rng(bits), {32: 36, 64: 300}[bits]
    with jax.enable_x64(bits == 64):
        dtype = jnp.dtype(f"float{bits}")
        for _ in range(50):
            size = 10.0 ** rng.uniform(-widest, widest)
            x = jnp.asarray(rng.standard_normal((3, 5)) * size, dtype)
            unit = np.float64(np.asarray(jnp.max(jnp.abs(x))))
            scaled = np.asarray(x, np.longdouble) / unit
            rows = np.sqrt(np.sum(scaled**2, axis=1)) * unit
            np.testing.assert_allclose(norm(x, axis=1), rows, rtol=1e-6)
            whole = float(np.sqrt(np.sum(scaled**2)) * unit)
            assert float(norm(x)) == pytest.approx(whole, rel=1e-6)
            assert float(tree_norm([x[0], x[1:]])) == pytest.approx(whole, rel=1e-6)
            power = float(power_of_two(x)[0, 0])
            assert power <= abs(float(x[0, 0])) < 2 * power
            assert np.frexp(power)[0] == 0.5
            if 1e-2 < size < 1e2:
                assert float(natural_unit(x)) == 1.0
        special = jnp.asarray([[0.0, 0.0], [1, jnp.inf], [1, jnp.nan]], dtype)
        found = norm(special, axis=1)
        assert float(found[0]) == 0
        assert np.isinf(found[1])
        assert np.isnan(found[2])


# --- derivatives --------------------------------------------------------------------


def second_derivatives(loss):
    """Every way to ask for one."""
    return {
        "hessian": jax.hessian(loss),
        "reverse over reverse": jax.jacrev(jax.grad(loss)),
        "jit": jax.jit(jax.hessian(loss)),
        "vmap": lambda x: jax.vmap(jax.hessian(loss))(x[None]),
        "product": lambda x: jax.jvp(jax.grad(loss), (x,), (x,)),
    }


@pytest.mark.parametrize("sampler", [ji.ddim, ji.dpmpp_2m, ji.o_belm])
def test_second_derivatives_are_an_error_and_never_zeros(sampler):
    table, x = sampler(ji.time_grid(VP, 4)), jnp.ones(3)
    model = Partial(lambda w, x, t: jnp.tanh(w * x), 0.5)

    def inverse(x):
        options = {} if table.bidirectional else {"strategy": "trajectory"}
        return jnp.sum(ji.invert(table, model, x, **options).noise ** 2)

    def parameters(w):
        model = Partial(lambda w, x, t: jnp.tanh(w * x), w)
        return jnp.sum(ji.invert(table, model, x, strategy="stepwise").noise ** 2)

    losses = [inverse]
    if sampler is ji.ddim:
        losses.append(lambda w: parameters(w[0]))
    if sampler is ji.o_belm:
        losses = [lambda x: jnp.sum(ji.sample(table, model, x, arithmetic="bits") ** 2)]
    for loss in losses:
        assert np.all(np.isfinite(jax.grad(loss)(x)))
        for name, derivative in second_derivatives(loss).items():
            # JAX's own error where it comes first. It comes while tracing, too.
            with pytest.raises((ValueError, TypeError), match=r"once|custom_vjp"):
                derivative(x) if name == "hessian" else jax.eval_shape(derivative, x)


# --- a search for lies --------------------------------------------------------------

# A few tries of each kind of model, and of each way to call; `python -m
# benchmarks.certificates` makes thousands.
SHORT = [
    ("ddim, anderson", "vmap", "mixture"),
    ("ddim, anderson", "vmap", "close modes"),
    ("ddim, anderson", "vmap", "guided"),
    ("ddim, fixed_point", "vmap", "network"),
    ("ddim, fixed_point", "vmap", "steps"),
    ("ddim, fixed_point", "vmap", "constant"),
    ("O-BELM, explicit", "vmap", "mixture"),
    ("EDICT, explicit", "vmap", "close modes"),
    ("ddim, naive", "lanes", "guided"),
]


@pytest.mark.parametrize(("method", "mode", "kind"), SHORT)
def test_no_verdict_is_good_where_the_answer_is_not(method, mode, kind):
    rng = np.random.default_rng([7, len(method), MODELS.index(kind)])
    found = list(run_batch(method, mode, kind, rng, 64 if mode == "vmap" else 6))
    assert method in METHODS
    assert len(found) > 4
    assert [f for f in found if is_false(f)] == []


def test_stepwise_needs_the_one_state_that_it_solves_for():
    with pytest.raises(ValueError, match="memory of one state"):
        ji.invert(
            ji.dpmpp_2m(ji.time_grid(VP, STEPS)),
            Partial(jnp.multiply),
            jnp.ones(3),
            strategy=Stepwise(),
        )
