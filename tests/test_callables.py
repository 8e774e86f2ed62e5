"""Every kind of callable is a denoiser, and its parameters are arguments."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_cases import relative_error
from flax import nnx
from jax.tree_util import Partial

import jaxinv as ji

WIDTH = 6
TABLE = ji.ddim(ji.time_grid(ji.scaled_linear(), 6))
TRACES = []


def parameters(seed=0):
    """Weights of a two-layer network, small enough for its steps to contract."""
    rng = np.random.default_rng(seed)
    shapes = {
        "w1": (WIDTH, WIDTH),
        "b1": (WIDTH,),
        "w2": (WIDTH, WIDTH),
        "b2": (WIDTH,),
    }
    return {
        key: jnp.asarray(0.2 * rng.standard_normal(shape), jnp.float32)
        for key, shape in shapes.items()
    }


def network(params, x, t):
    TRACES.append("partial")
    hidden = jnp.tanh(x @ params["w1"] + params["b1"])
    return hidden @ params["w2"] + params["b2"] + 0.001 * t


class EquinoxNetwork(eqx.Module):
    """An Equinox module; the activation of its MLP is a leaf that is no array."""

    mlp: eqx.nn.MLP

    def __call__(self, x, t):
        TRACES.append("equinox")
        return self.mlp(x) + 0.001 * t


class FlaxNetwork(nnx.Module):
    """A Flax NNX module."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.second = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x, t):
        TRACES.append("flax")
        return self.second(jnp.tanh(self.first(x))) + 0.001 * t


def as_partial(params):
    return Partial(network, params)


def as_equinox(params):
    mlp = eqx.nn.MLP(WIDTH, WIDTH, WIDTH, 1, activation=jnp.tanh, key=jax.random.key(0))
    weights = (params["w1"].T, params["b1"], params["w2"].T, params["b2"])
    mlp = eqx.tree_at(
        lambda m: [leaf for layer in m.layers for leaf in (layer.weight, layer.bias)],
        mlp,
        list(weights),
    )
    return EquinoxNetwork(mlp)


def as_flax(params):
    module = FlaxNetwork()
    module.first.kernel[...] = params["w1"]
    module.first.bias[...] = params["b1"]
    module.second.kernel[...] = params["w2"]
    module.second.bias[...] = params["b2"]
    return module


KINDS = {"partial": as_partial, "equinox": as_equinox, "flax": as_flax}


def noise():
    return jax.random.normal(jax.random.key(0), (WIDTH,))


@functools.cache
def plain(seed):
    """The same network as a plain function, its parameters constants."""
    params = parameters(seed)
    return lambda x, t: network(params, x, t)


def invert(denoise, x0):
    """The solver does not matter here; this one compiles quickly."""
    return ji.invert(TABLE, denoise, x0, strategy="stepwise", solver="fixed_point")


@pytest.mark.parametrize("kind", KINDS)
def test_sampling_gives_what_a_plain_function_gives(kind):
    params = parameters()
    ours = ji.sample(TABLE, KINDS[kind](params), noise())
    assert relative_error(ours, ji.sample(TABLE, plain(0), noise())) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_inversion_gives_what_a_plain_function_gives(kind):
    params = parameters()
    ours = invert(KINDS[kind](params), noise())
    theirs = invert(plain(0), noise())
    assert bool(ours.converged)
    # Both are within the tolerance of 1e-6 per step of the one answer.
    assert relative_error(ours.noise, theirs.noise) < 2 * 6 * 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_new_parameters_change_the_result_without_a_new_trace(kind):
    before = invert(KINDS[kind](parameters(0)), noise())
    TRACES.clear()
    after = invert(KINDS[kind](parameters(1)), noise())
    assert TRACES == []
    expected = invert(plain(1), noise())
    assert relative_error(after.noise, before.noise) > 1e-2
    assert relative_error(after.noise, expected.noise) < 2 * 6 * 1e-6


def test_a_flax_module_changed_in_place_is_seen():
    module = as_flax(parameters())
    before = ji.sample(TABLE, module, noise())
    module.second.bias[...] = module.second.bias[...] + 1.0
    assert relative_error(ji.sample(TABLE, module, noise()), before) > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_a_denoiser_may_be_an_argument_of_the_users_jit_and_vmap(kind):
    denoise = KINDS[kind](parameters())
    batch = jnp.stack([noise(), 2 * noise()])
    if kind == "equinox":
        # Its activation is no array: Equinox users filter, as they always do.
        batched = eqx.filter_jit(lambda d, x: jax.vmap(lambda one: invert(d, one))(x))
    else:
        batched = jax.jit(lambda d, x: jax.vmap(lambda one: invert(d, one))(x))
    result = batched(denoise, batch)
    alone = invert(denoise, batch[1])
    assert relative_error(result.noise[1], alone.noise) < 1e-5


def test_a_bf16_network_works_inside_of_a_float32_state():
    params = parameters()
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)

    def in_bf16(params, x, t):
        return network(params, x.astype(jnp.bfloat16), t.astype(jnp.bfloat16))

    denoise = Partial(in_bf16, half)
    x0 = ji.sample(TABLE, denoise, noise())
    result = invert(denoise, x0)
    assert x0.dtype == result.noise.dtype == result.residual.dtype == jnp.float32
    # The network is the float32 one to the three digits that bf16 has, and f is
    # multiplied by no more than the noise level of the start.
    reference = ji.sample(TABLE, plain(0), noise())
    eps = float(jnp.finfo(jnp.bfloat16).eps)
    assert relative_error(x0, reference) < 15 * eps
    # What was found is what the residual says: steps of the sampler up to rounding.
    again = ji.sample(TABLE, denoise, result.noise)
    assert relative_error(again, x0) < 10 * max(float(result.residual), 1e-6)


def through_closure(table, shift, x):
    """Sum of a sample whose denoiser closes over ``shift``, traced or not."""

    def denoise(x, t):
        return jnp.tanh(shift * x) + 0.001 * t

    once = ji.sample(table, denoise, x)
    # The second program calls the same function with the same shapes.
    again = ji.sample_trajectory(table, denoise, x)[0]
    return jnp.sum(once + again)


def written_out(table, shift, x):
    """The same by a Python loop, without the library."""
    y = x / table.scale[-1]
    for i in reversed(range(table.num_steps)):
        seen, t = table.scale[i + 1] * y, table.model_time[i + 1]
        y = table.a[i, 0] * y + table.b[i, 0] * (jnp.tanh(shift * seen) + 0.001 * t)
    return 2 * jnp.sum(table.scale[0] * y)


def as_it_is(f, shift, x):
    return f(shift, x)


TRANSFORMS = {
    "eager": as_it_is,
    "jit": lambda f, s, x: jax.jit(f)(s, x),
    "grad": lambda f, s, x: jax.grad(f)(s, x),
    "vmap": lambda f, s, x: jax.vmap(f, (0, None))(jnp.stack([s, 2 * s]), x),
    "vmap of grad": lambda f, s, x: jax.vmap(jax.grad(f))(
        jnp.stack([s, 2 * s]), jnp.stack([x, -x])
    ),
    "grad in jit": lambda f, s, x: jax.jit(jax.grad(f))(s, x),
}


@pytest.mark.parametrize("seed", range(3))
def test_a_closure_over_traced_values_may_be_called_under_any_transformation(
    seed, float64
):
    rng = np.random.default_rng(seed)
    # JAX keeps the constants that a program closes over by the array's identity: those
    # of TABLE may be in float32, from a test before.
    table = ji.ddim(ji.time_grid(ji.scaled_linear(), 6))
    ours_of = functools.partial(through_closure, table)
    expected_of = functools.partial(written_out, table)
    x = noise().astype(float64)
    for name in rng.choice(list(TRANSFORMS), 6):
        shift = jnp.asarray(rng.uniform(0.1, 0.5))
        ours = TRANSFORMS[name](ours_of, shift, x)
        expected = TRANSFORMS[name](expected_of, shift, x)
        assert relative_error(ours, expected) < 1e-12, name


def test_one_closure_may_be_used_inside_and_outside_of_a_transformation():
    scale = jnp.float32(0.3)

    def denoise(x, t):
        return jnp.tanh(scale * x) + 0.001 * t

    def total(x):
        return jnp.sum(ji.sample(TABLE, denoise, x))

    first = total(noise())
    inside = jax.jit(jax.vmap(total))(jnp.stack([noise()] * 2))
    slope = jax.grad(total)(noise())
    assert relative_error(inside, jnp.stack([first] * 2)) < 1e-6
    assert bool(jnp.all(jnp.isfinite(slope)))
    assert total(noise()) == first
