"""Guidance scales as diffusers' pipelines read them, at every place that takes one."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from typer.testing import CliRunner

import jaxinv as ji
from jaxinv.cli import app
from jaxinv.models import UNet2DConditionModel, UNetCondition
from jaxinv.pipeline.conditions import Condition, PromptedModel
from jaxinv.scale import jobs

PROMPT, NEGATIVE, TIME = "red cat", "blue", 321.0
DRAWN = np.random.default_rng(0)
# At most 1, with the numbers at the edges; above 1; and some of both in one batch.
NONE = [*DRAWN.uniform(-5, 1, 4), 0.0, 1.0]
SOME = [*DRAWN.uniform(1.05, 9, 5), 1.0001]
MIXED = list(DRAWN.permutation([*NONE[:3], *SOME[:3]]))


@pytest.fixture(scope="module")
def branches(tiny):
    """A latent, and what the network says of it with either prompt."""
    z = jax.random.normal(jax.random.key(1), tiny.latent_shape)
    vectors = [tiny.encode_prompt(text) for text in (PROMPT, NEGATIVE)]
    return z, *(np.asarray(call(tiny.network, z, TIME, each)) for each in vectors)


@jax.jit
def call(model, *args):
    """One program of a model, not one of each of its operations."""
    return model(*args)


@jax.jit
def call_each(model, z, time, conditions):
    return jax.vmap(model, (None, None, 0))(z, time, conditions)


def each_number(pipe, z, scales):
    return [call(pipe.denoiser(PROMPT, NEGATIVE, float(s)), z, TIME) for s in scales]


def each_array(pipe, z, scales):
    each = [pipe.denoiser(PROMPT, NEGATIVE, jnp.asarray(s)) for s in scales]
    return [call(denoise, z, TIME) for denoise in each]


def under_jit(pipe, z, scales):
    run = jax.jit(lambda s: pipe.denoiser(PROMPT, NEGATIVE, s)(z, TIME))
    return [run(s) for s in scales]


def under_vmap(pipe, z, scales):
    run = jax.vmap(lambda s: call(pipe.denoiser(PROMPT, NEGATIVE, s), z, TIME))
    return run(jnp.asarray(scales))


def conditions(pipe, z, scales):
    model = pipe.conditional_denoiser()
    given = [pipe.condition(PROMPT, NEGATIVE, s) for s in scales]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *given)
    return call_each(model, z, TIME, stacked)


def hidden_conditions(pipe, z, scales):
    model = pipe.conditional_denoiser()
    condition = jax.vmap(lambda s: pipe.condition(PROMPT, NEGATIVE, s))
    return call_each(model, z, TIME, condition(jnp.asarray(scales)))


def bare_conditions(pipe, z, scales):
    """As jobs make them: vectors and a number, put together by hand."""
    texts = [pipe.encode_prompt(text) for text in (PROMPT, NEGATIVE)]
    model = PromptedModel(pipe.network, True)
    each = [Condition(*texts, np.float32(s)) for s in scales]
    return [call(model, z, TIME, condition) for condition in each]


PLACES = [
    each_number, each_array, under_jit, under_vmap, conditions, hidden_conditions,
    bare_conditions,
]  # fmt: skip


@pytest.mark.parametrize("scales", [NONE, SOME, MIXED], ids=["none", "some", "mixed"])
@pytest.mark.parametrize("place", PLACES)
def test_at_most_one_is_the_prompt_alone_and_above_it_is_the_formula(
    place, scales, tiny, branches
):
    z, with_prompt, without = branches
    unit = np.abs(with_prompt - without).max()
    for scale, found in zip(scales, place(tiny, z, scales), strict=True):
        used = max(scale, 1)
        wanted = without + np.float32(used) * (with_prompt - without)
        np.testing.assert_allclose(found, wanted, atol=2e-5 * used * unit)


@pytest.mark.parametrize("place", PLACES)
def test_a_negative_prompt_that_is_not_finite_has_no_effect_without_guidance(
    place, tiny, branches, monkeypatch
):
    z, with_prompt, _ = branches
    true = type(tiny).encode_prompt

    def spoilt(pipe, text, **options):
        return true(pipe, text, **options) * (jnp.nan if text == NEGATIVE else 1)

    monkeypatch.setattr(type(tiny), "encode_prompt", spoilt)
    for found in place(tiny, z, NONE[:2]):
        np.testing.assert_allclose(found, with_prompt, atol=1e-5)


@pytest.mark.parametrize("place", PLACES[:-1])
def test_a_scale_that_is_an_input_reaches_the_network(place, tiny, branches):
    # LCM: no second branch, and scales of at most 1 have a meaning, too.
    network = UNet2DConditionModel(
        dataclasses.replace(tiny.network.config, time_cond_proj_dim=6),
        rngs=nnx.Rngs(0),
    )
    pipe, (z, *_) = dataclasses.replace(tiny, network=network), branches
    text, scales = pipe.encode_prompt(PROMPT), (0.5, 1.0, 8.0)
    for scale, found in zip(scales, place(pipe, z, scales), strict=True):
        condition = UNetCondition(text, guidance=jnp.float32(scale))
        wanted = call(network, z, TIME, condition)
        np.testing.assert_allclose(found, wanted, atol=2e-5)
    other = call(network, z, TIME, condition._replace(guidance=jnp.float32(0)))
    assert np.abs(wanted - other).max() > 1e-3


def test_without_guidance_the_network_is_evaluated_once(tiny):
    def products(scale):
        z = jax.ShapeDtypeStruct(tiny.latent_shape, jnp.float32)
        denoise = tiny.denoiser(PROMPT, NEGATIVE, scale)
        return jax.jit(denoise).lower(z, TIME).cost_analysis()["flops"]

    assert products(0.0) == products(1.0) < 0.6 * products(1.5)


def test_the_bare_formula_is_unconditional_at_zero(tiny, branches):
    z, _, without = branches
    vectors = [tiny.encode_prompt(text) for text in (PROMPT, NEGATIVE)]
    found = call(ji.guided(tiny.network, *vectors, 0.0), z, TIME)
    np.testing.assert_allclose(found, without, atol=1e-5)


def test_one_scale_for_one_sample(tiny):
    with pytest.raises(ValueError, match="must be one number, got an array of shape"):
        tiny.denoiser(PROMPT, NEGATIVE, jnp.ones(3))
    with pytest.raises(ValueError, match="vectors of one shape"):
        tiny.condition(jnp.ones((16, 16)), jnp.ones((1, 16)), 3.0)


@pytest.mark.parametrize("guided", [False, True])
def test_rows_of_a_job_without_guidance_have_the_prompts_noise(guided, tiny):
    sampler = ji.ddim(ji.time_grid(tiny.schedule, 18))
    pixels = np.kron(
        np.random.default_rng(0).integers(0, 255, (4, 4, 3), dtype=np.uint8),
        np.ones((8, 8, 1), np.uint8),
    )
    scales = [1.0, *NONE[:3]] + [SOME[0]] * guided
    requests = [
        jobs.Request(k, pixels, PROMPT, NEGATIVE, s) for k, s in enumerate(scales)
    ]
    options = {"strategy": "naive", "decoder": "encoder"}
    engine = jobs.continuous(tiny, sampler, guided=guided, lanes=2, **options)
    noises = {answer.index: answer.noise for answer in engine(requests)}
    for index in range(1, 4):
        np.testing.assert_allclose(noises[index], noises[0], atol=1e-4)
    if guided:
        assert np.abs(noises[4] - noises[0]).max() > 1e-2


def test_the_command_line_reads_at_most_one_as_no_guidance(diffusers_folder, tmp_path):
    def sampled(prompt, scale):
        out = tmp_path / f"{prompt}{scale}.png"
        arguments = ["sample", "--model", diffusers_folder, "--steps", 2, "--json"]
        arguments += ["--prompt", prompt, "--guidance", scale, "--out", out]
        result = CliRunner().invoke(app, [str(each) for each in arguments])
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["guidance"] == scale
        return out.read_bytes()

    wanted = sampled("red", 1.0)
    for scale in NONE[:2]:
        assert sampled("red", float(scale)) == wanted
    assert sampled("z z z", 0.0) != wanted
