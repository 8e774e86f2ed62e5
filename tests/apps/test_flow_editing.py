"""FlowEdit and value sharing on tiny flows; DDPM inversion for editing methods."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxinv as ji
from jaxinv.apps.editing import METHODS, edit_friendly, flow_edit, pair_denoiser
from jaxinv.apps.editing.pair import sample_pair
from jaxinv.models import (
    FluxCondition,
    FluxTransformer2DConfig,
    FluxTransformer2DModel,
    SD3Condition,
    SD3Transformer2DModel,
    SD3TransformerConfig,
)
from jaxinv.pipeline import Pipeline
from jaxinv.pipeline.families.flux import Flux
from jaxinv.pipeline.families.stable_diffusion_3 import StableDiffusion3

STEPS = 3
SHAPE = (4, 4, 4)
SIZES = {"joint_attention_dim": 6, "pooled_projection_dim": 5}
HEADS = {"attention_head_dim": 8, "num_attention_heads": 2}


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def pipeline(network, family, encoders):
    """A flow of random weights without its encoders."""
    nothing = (None,) * encoders
    given = {"vae": None, "image_size": SHAPE[:2], "name": "tiny"}
    flow = ji.flow_matching()
    return Pipeline(
        network, text_encoders=nothing, tokenizers=nothing, family=family,
        schedule=flow, **given,
    )  # fmt: skip


def sd3():
    config = SD3TransformerConfig(
        sample_size=4, in_channels=4, out_channels=4, num_layers=2,
        caption_projection_dim=16, pos_embed_max_size=4, **SIZES, **HEADS,
    )  # fmt: skip
    network = SD3Transformer2DModel(config, rngs=nnx.Rngs(0))
    return pipeline(network, StableDiffusion3(), 3), SD3Condition


def flux():
    config = FluxTransformer2DConfig(
        in_channels=16, num_layers=1, num_single_layers=1, axes_dims_rope=(2, 2, 4),
        guidance_embeds=True, **SIZES, **HEADS,
    )  # fmt: skip
    network = FluxTransformer2DModel(config, rngs=nnx.Rngs(0))
    return pipeline(network, Flux(), 2), FluxCondition


def prompted(make):
    """A pipeline with the prompts of source and target, and an empty one."""
    pipe, condition = make()
    rng = np.random.default_rng(0)
    shapes = (3, SIZES["joint_attention_dim"]), (SIZES["pooled_projection_dim"],)
    texts = [
        condition(*(jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes))
        for _ in range(3)
    ]
    return pipe, *texts


@pytest.fixture(scope="module", params=[sd3, flux], ids=lambda make: make.__name__)
def flow(request):
    return prompted(request.param)


@pytest.fixture(scope="module")
def sd3_flow():
    return prompted(sd3)


@pytest.fixture(scope="module")
def euler():
    return ji.euler(ji.time_grid(ji.flow_matching(), STEPS, "linspace"))


LATENT = normal(5, *SHAPE)


def started(latent):
    """An inversion, without the cost of one: only its state is read."""
    result = dict.fromkeys(ji.InversionResult._fields)
    return ji.InversionResult(**result | {"noise": latent, "state": latent})


def largest(a, b):
    return float(jnp.max(jnp.abs(a - b)))


# --- value sharing ------------------------------------------------------------------


def shared(flow, euler, target, **options):
    pipe, source, _, empty = flow
    return METHODS["value_sharing"](
        pipe, euler, started(LATENT), source, target,
        guidance_scale=2.0, negative_prompt=empty, **options,
    )  # fmt: skip


def test_value_sharing_between_equal_prompts_changes_nothing(flow, euler):
    pipe, source, _, empty = flow
    wanted = ji.sample(euler, pipe.denoiser(source, empty, 2.0), LATENT)
    every = ("replace_v", "replace_k", "replace_q")
    found = shared(flow, euler, source, steps=1.0, layers=1.0, strategies=every)
    assert largest(found, wanted) < 1e-5


def test_value_sharing_in_no_step_or_no_layer_is_prompt_swap(flow, euler):
    pipe, source, target, empty = flow
    wanted = METHODS["prompt_swap"](
        pipe, euler, started(LATENT), source, target,
        guidance_scale=2.0, negative_prompt=empty,
    )  # fmt: skip
    assert largest(shared(flow, euler, target, steps=0.0, layers=1.0), wanted) < 1e-5
    assert largest(shared(flow, euler, target, steps=1.0, layers=0.0), wanted) < 1e-5
    effects = [
        largest(shared(flow, euler, target, steps=s, layers=1.0), wanted)
        for s in (1 / 3, 1.0)
    ]
    assert min(effects) > 1e-3
    assert effects[0] != effects[1]


@pytest.mark.parametrize("strategy", ["replace_v", "add_q"])
def test_strategies_differ_in_what_they_share(flow, euler, strategy):
    *_, target, _ = flow
    options = {"steps": 1.0, "layers": 1.0}
    found = shared(flow, euler, target, strategies=(strategy,), **options)
    other = shared(flow, euler, target, strategies=("add_k",), **options)
    assert largest(found, other) > 1e-4


@pytest.mark.parametrize("letter", "qkv")
def test_strategies_for_the_same_features_are_refused(flow, euler, letter):
    pair = f"replace_{letter}", f"add_{letter}"
    with pytest.raises(ValueError, match="each of queries, keys and values once"):
        shared(flow, euler, flow[2], strategies=pair)


def test_value_sharing_leaves_the_source_alone(flow, euler):
    from jaxinv.apps.editing.value_sharing import sharing_of

    pipe, source, target, empty = flow
    given = {"negative_prompt": empty, "guidance_scale": 2.0}
    sharing = sharing_of(STEPS, 1.0, ("replace_v", "add_k"))
    pair = sample_pair(
        euler, pair_denoiser(pipe, euler, source, target, sharing, **given), LATENT
    )
    alone = ji.sample(euler, pipe.denoiser(source, empty, 2.0), LATENT)
    assert largest(pair[0], alone) < 1e-5


def test_value_sharing_in_a_callers_program_is_the_same(flow, euler):
    *_, target, _ = flow
    jitted = jax.jit(lambda text: shared(flow, euler, text, steps=1.0, layers=0.5))
    eager = shared(flow, euler, target, steps=1.0, layers=0.5)
    assert largest(jitted(target), eager) < 1e-5


def test_value_sharing_needs_joint_attention(tiny):
    sampler = ji.ddim(ji.time_grid(tiny.schedule, STEPS))
    with pytest.raises(ValueError, match="value_sharing needs a network of the class"):
        METHODS["value_sharing"](tiny, sampler, started(LATENT), "a", "b")


# --- FlowEdit -----------------------------------------------------------------------


def flow_edited(flow, euler, target, scales=(2.0, 2.0), **options):
    pipe, source, _, empty = flow
    options = {"start": 1.0, "negative_prompt": empty} | options
    of_source, of_target = scales
    return flow_edit(
        pipe, euler, LATENT, source, target, jax.random.key(0),
        source_guidance=of_source, target_guidance=of_target, **options,
    )  # fmt: skip


@pytest.mark.parametrize("draws", [1, 3])
def test_flow_edit_with_equal_prompts_is_the_image_bit_for_bit(flow, euler, draws):
    source = flow[1]
    found = flow_edited(flow, euler, source, num_average=draws)
    np.testing.assert_array_equal(found, LATENT)


def test_flow_edit_follows_the_target_and_its_guidance(sd3_flow, euler):
    _, source, target, _ = sd3_flow
    assert largest(flow_edited(sd3_flow, euler, target), LATENT) > 1e-3
    assert largest(flow_edited(sd3_flow, euler, source, (2.0, 5.0)), LATENT) > 1e-4


def test_flow_edit_takes_the_published_steps(sd3_flow, euler):
    pipe, source, target, empty = sd3_flow
    models = [pipe.denoiser(text, empty, 2.0) for text in (source, target)]
    tau, time = np.asarray(euler.tau), np.asarray(euler.model_time, np.float32)

    @jax.jit
    def published(models, key):
        edited = LATENT
        for i in (2, 1):  # n_max = 2 of 3 steps
            draw = jax.random.split(jax.random.fold_in(key, i), 1)[0]
            noisy = (1 - tau[i]) * LATENT + tau[i] * normal_of(draw)
            of_source = models[0](noisy, time[i])
            of_target = models[1](edited + noisy - LATENT, time[i])
            edited = edited + (tau[i - 1] - tau[i]) * (of_target - of_source)
        return edited

    found = flow_edited(sd3_flow, euler, target, start=2 / 3)
    assert largest(found, published(models, jax.random.key(0))) < 1e-5


def normal_of(key):
    return jax.random.normal(key, SHAPE)


def test_flow_edits_last_steps_sample_the_target(sd3_flow, euler):
    pipe, _, target, empty = sd3_flow
    found = flow_edited(sd3_flow, euler, target, start=1 / 3, end=1 / 3)
    tau, time = np.asarray(euler.tau), np.asarray(euler.model_time, np.float32)

    @jax.jit
    def sampled(model, key):  # no step is edited, one is sampled: from the noisy image
        noise = normal_of(jax.random.fold_in(key, 0))
        state = LATENT + tau[1] * (noise - LATENT)
        return state + (tau[0] - tau[1]) * model(state, time[1])

    model = pipe.denoiser(target, empty, 2.0)
    assert largest(found, sampled(model, jax.random.key(0))) < 1e-5


def test_flow_edit_in_a_callers_program_is_the_same(sd3_flow, euler):
    target = sd3_flow[2]
    jitted = jax.jit(lambda text: flow_edited(sd3_flow, euler, text))
    assert largest(jitted(target), flow_edited(sd3_flow, euler, target)) < 1e-5


def test_flow_edit_refuses_what_is_no_flow(sd3_flow, euler, tiny):
    ddim = ji.ddim(ji.time_grid(tiny.schedule, STEPS))
    with pytest.raises(ValueError, match="edits with flow models"):
        flow_edit(tiny, ddim, LATENT, "a", "b", jax.random.key(0))
    heun = ji.heun(ji.time_grid(ji.flow_matching(), STEPS, "linspace"))
    with pytest.raises(ValueError, match="takes Euler's steps"):
        flow_edited(sd3_flow, heun, sd3_flow[2])
    with pytest.raises(ValueError, match="end must be at most start"):
        flow_edited(sd3_flow, euler, sd3_flow[2], start=0.3, end=0.6)


# --- DDPM inversion -----------------------------------------------------------------


@pytest.fixture(scope="module")
def friendly(tiny):
    sampler = ji.ancestral(ji.time_grid(tiny.schedule, 5))
    latent = 0.5 * normal(0, *tiny.latent_shape)
    denoise = tiny.denoiser("a red cat", guidance_scale=1.5)
    found = edit_friendly(sampler, denoise, latent, jax.random.key(1), skip=0.4)
    return latent, found


def test_ddpm_inversion_retraces_the_latent_from_a_later_level(tiny, friendly):
    latent, (sampler, inversion) = friendly
    assert sampler.num_steps == 3
    assert bool(inversion.converged)
    assert inversion.trajectory.shape == (4, *latent.shape)
    found = METHODS["prompt_swap"](
        tiny, sampler, inversion, "a red cat", "a red cat", guidance_scale=1.5
    )
    assert float(ji.nmse_db(found, latent)) < -90
    other = METHODS["prompt_swap"](
        tiny, sampler, inversion, "a red cat", "blue", guidance_scale=3.0
    )
    assert float(ji.nmse_db(other, latent)) > -60


def test_ddpm_inversion_for_editing_refuses_what_it_cannot_skip(tiny, friendly):
    latent, key = friendly[0], jax.random.key(0)
    grid = ji.time_grid(tiny.schedule, 5)
    denoise = tiny.denoiser("a red cat")
    with pytest.raises(ValueError, match="leaves no step of 5"):
        edit_friendly(ji.ancestral(grid), denoise, latent, key, skip=1.0)
    with pytest.raises(ValueError, match="memory of one state"):
        edit_friendly(ji.sde_dpm_solver(grid), denoise, latent, key)
