"""A network's own output, at every entry: what f gives, and what float32 keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_cases import relative_error
from jax.tree_util import Partial

import jaxinv as ji
from jaxinv.apps import editing
from jaxinv.diffusion.denoiser import network_of
from jaxinv.diffusion.grid import make_grid
from jaxinv.samplers.units import in_f, in_tau, matched

SHAPE = (3, 4)
SCHEDULES = {
    "v_prediction": ji.scaled_linear(prediction_type="v_prediction"),
    "sample": ji.scaled_linear(prediction_type="sample"),
    "cosine v": ji.cosine(200, prediction_type="v_prediction"),
    "flow sample": ji.flow_matching(prediction_type="sample"),
    "rectified_flow": ji.flow_matching(prediction_type="rectified_flow"),
    "ve sample": ji.variance_exploding(0.05, 20.0, prediction_type="sample"),
    "edm": ji.edm(0.01, 20.0),
    "edm_negative": ji.edm(0.01, 20.0, prediction_type="edm_negative"),
}
SAMPLERS = {
    "ddim": ji.ddim,
    "dpmpp_2m": ji.dpmpp_2m,
    "dpmpp_3m": ji.dpmpp_3m,
    "deis": ji.deis,
    "unipc": ji.unipc,
    "heun": ji.heun,
    "lms": ji.lms,
    "singlestep": ji.dpm_solver_singlestep,
    "o_belm": ji.o_belm,
    "edict": ji.edict,
}


def network(gain, x, t):
    """A smooth network, whatever its output is taken for."""
    return gain * jnp.tanh(x + 0.02 * jnp.cos(t))


def hidden(denoise):
    """The same denoiser, of which nothing but f is known."""
    return lambda x, t: denoise(x, t)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def entries(sampler, source, target, noise):
    """What every function that takes a sampler and a denoiser returns."""
    states = ji.sample_trajectory(sampler, source, noise)
    x0 = states[0]
    yield "sample", ji.sample(sampler, source, noise)
    yield "trajectory", states
    yield "certify", 1 + ji.certify(sampler, source, states)
    found = ji.invert(sampler, source, x0)
    # A prediction of the data leaves a flow many noises near the data.
    if sampler.output.kind != "sample" or sampler.ode.unit[-1] < 1:
        yield "invert", found.noise
        yield "edit", editing.edit(sampler, source, target, x0).latent
    yield "naive", ji.invert(sampler, source, x0, strategy="naive").noise
    batch = jnp.stack([noise, 0.5 * noise])
    yield "sample_batch", ji.sample_batch(sampler, source, batch)
    yield "jit", jax.jit(lambda x: ji.sample(sampler, source, x))(noise)
    yield "gradient", jax.grad(lambda x: jnp.sum(ji.sample(sampler, source, x)))(noise)


@pytest.mark.parametrize("seed", range(8))
def test_every_entry_gives_what_it_gives_for_f(seed, float64):
    rng = np.random.default_rng(seed)
    schedule = SCHEDULES[str(rng.choice(list(SCHEDULES)))]
    make = SAMPLERS[str(rng.choice(list(SAMPLERS)))]
    spacing = str(rng.choice(["log_snr", "karras"]))
    sampler = make(make_grid(schedule, int(rng.integers(6, 12)), spacing))
    source, target = (
        ji.as_denoiser(Partial(network, jnp.asarray(gain)), schedule)
        for gain in (0.2, 0.25)
    )
    assert sampler.output is not None
    own, weighed = matched(sampler, source)[0], in_f(sampler)
    assert own.output == sampler.output != weighed.output
    noise = normal(*SHAPE, seed=seed)
    pairs = zip(
        entries(sampler, source, target, noise),
        entries(sampler, hidden(source), hidden(target), noise),
        strict=True,
    )
    for (name, ours), (_, of_f) in pairs:
        assert relative_error(ours, of_f) < 1e-7, (name, sampler, schedule)


def test_conditions_and_streams_take_the_networks_own_output(float64):
    schedule = SCHEDULES["v_prediction"]
    sampler = ji.ddim(make_grid(schedule, 8))

    def conditional(x, t, shift):
        return network(0.2, x, t) + 0.01 * shift

    denoise = ji.as_denoiser(conditional, schedule)
    x0, shifts = normal(3, *SHAPE), jnp.asarray([0.0, 1.0, -2.0])
    found = ji.invert_batch(sampler, denoise, x0, conditions=shifts)
    pairs = zip(x0, shifts, strict=True)
    streamed = dict(ji.invert_stream(sampler, denoise, pairs, conditional=True))
    for k, noise in enumerate(found.noise):
        assert relative_error(streamed[k].noise, noise) < 1e-10
    for x, shift, noise in zip(x0, shifts, found.noise, strict=True):
        one = ji.conditioned(denoise, shift)
        assert relative_error(ji.invert(sampler, one, x).noise, noise) < 1e-10
        guided = ji.guided(denoise, shift, 0 * shift, 1.0)
        assert relative_error(ji.invert(sampler, guided, x).noise, noise) < 1e-10


def test_two_denoisers_of_one_edit_may_differ_in_what_they_predict(float64):
    schedule = SCHEDULES["v_prediction"]
    sampler, x0 = ji.ddim(make_grid(schedule, 8)), normal(*SHAPE)
    source = ji.as_denoiser(Partial(network, jnp.asarray(0.2)), schedule)
    mixed = editing.edit(sampler, source, hidden(source), x0).latent
    np.testing.assert_allclose(mixed, x0, atol=1e-9)


@pytest.mark.parametrize("name", SAMPLERS)
def test_coefficients_in_tau_do_not_depend_on_what_the_network_predicts(name):
    tables = [
        in_tau(SAMPLERS[name](make_grid(SCHEDULES[kind], 10)))
        for kind in ("v_prediction", "sample")
    ]
    tables.append(in_tau(SAMPLERS[name](make_grid(ji.scaled_linear(), 10))))
    for table in tables[:2]:
        np.testing.assert_allclose(table.a, tables[2].a, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(table.b, tables[2].b, rtol=1e-8, atol=1e-8)


# Polynomials in tau, and coupled states, are not made for such a step.
IN_LOG_SNR = [
    name for name in SAMPLERS if name not in ("lms", "o_belm", "edict", "heun")
]


@pytest.mark.parametrize("name", IN_LOG_SNR)
def test_coefficients_are_of_order_one_even_from_almost_pure_noise(name):
    # In tau they are not: the first step of cosine betas goes from 2e4 to 13.
    schedule = ji.cosine(prediction_type="v_prediction")
    table = SAMPLERS[name](make_grid(schedule, 20, "linspace"))
    # Order 3 extrapolates far; in tau the largest is 2e4.
    assert np.max(np.abs(table.a)) < 30
    assert np.max(np.abs(table.b)) < 30
    assert np.max(np.abs(in_tau(table).b)) > 1e4


def test_guidance_of_a_clipped_model_is_not_clipped_and_networks_are_named_once():
    schedule = ji.scaled_linear()

    def conditional(x, t, c):
        return c * x

    clipped = ji.clipped(conditional, schedule, 1.0)
    assert network_of(ji.conditioned(clipped, 3.0))[1].clip == 1.0
    assert network_of(ji.guided(clipped, 0.0, 30.0, 7.5))[1] is None
    denoise = ji.as_denoiser(conditional, SCHEDULES["v_prediction"])
    with pytest.raises(ValueError, match="is a denoiser already, of"):
        ji.as_denoiser(denoise, SCHEDULES["v_prediction"])


def test_a_table_whose_digits_cannot_be_checked_is_refused():
    table = ji.ddim(make_grid(SCHEDULES["v_prediction"], 5))
    source = ji.as_denoiser(
        Partial(network, jnp.asarray(0.2)), SCHEDULES["v_prediction"]
    )
    noise = jnp.ones(SHAPE)
    own = jax.jit(lambda table: ji.sample(table, source, noise))(table)
    np.testing.assert_allclose(own, ji.sample(table, source, noise), rtol=1e-5)
    with pytest.raises(ValueError, match="whether f has their digits is not known"):
        jax.jit(lambda table: ji.sample(table, hidden(source), noise))(table)
