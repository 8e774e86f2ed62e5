"""Editing methods share what their papers share, and nothing else."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial

import jaxinv as ji
from jaxinv.apps import editing
from jaxinv.apps.editing import METHODS, pair_denoiser, sample_pair
from jaxinv.apps.editing.alignment import alignment, factors
from jaxinv.apps.editing.masactrl import _hook as masactrl_hook
from jaxinv.apps.editing.pair import Moment, step_at
from jaxinv.apps.editing.prompt_to_prompt import _hook as prompt_to_prompt_hook
from jaxinv.diffusion.denoiser import GUIDANCE as GUIDANCE_AXIS
from jaxinv.models import Place, UNet2DConditionConfig, UNet2DConditionModel

SOURCE, TARGET = "a red cat", "a red dog"
GUIDANCE = 3.0
SAMPLERS = [ji.ddim, ji.dpmpp_2m, ji.heun, ji.o_belm, ji.edict]


def inverted(sampler, latent):
    """An inversion, without the cost of one: only its state and latent are read."""
    state = latent
    if sampler.bidirectional:
        values = jnp.stack([latent] * sampler.history)
        state = ji.SamplerState(values, sampler.name, sampler.num_steps, "noise")
    result = dict.fromkeys(ji.InversionResult._fields)
    return ji.InversionResult(**result | {"noise": latent, "state": state})


@pytest.fixture(scope="module")
def attentive(tiny):
    """The random pipeline with another network, whose prompts matter more."""
    config = UNet2DConditionConfig(
        block_out_channels=(16,),
        down_block_types=("CrossAttnDownBlock2D",),
        mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=16,
        attention_head_dim=2,
    )
    network = UNet2DConditionModel(config, rngs=nnx.Rngs(0))
    return dataclasses.replace(tiny, network=network)


@pytest.fixture(scope="module")
def latent(tiny):
    return jax.random.normal(jax.random.key(0), tiny.latent_shape)


def sampler_of(tiny, make=ji.ddim, steps=3):
    return make(ji.time_grid(tiny.schedule, steps))


def close(a, b, atol=1e-4):
    np.testing.assert_allclose(a, b, atol=atol)


def differs(a, b):
    return float(jnp.max(jnp.abs(a - b))) > 1e-3


@pytest.mark.parametrize(
    ("make", "guidance"),
    [(ji.ddim, 1.0), (ji.dpmpp_2m, GUIDANCE), (ji.o_belm, GUIDANCE)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_pair_that_shares_nothing_is_two_samples(tiny, latent, make, guidance):
    sampler = sampler_of(tiny, make)
    start = inverted(sampler, latent).state
    options = {"negative_prompt": "blue", "guidance_scale": guidance}
    denoise = pair_denoiser(tiny, sampler, SOURCE, TARGET, **options)
    for found, prompt in zip(
        sample_pair(sampler, denoise, start), (SOURCE, TARGET), strict=True
    ):
        close(found, ji.sample(sampler, tiny.denoiser(prompt, **options), start))


def test_a_stochastic_sampler_adds_the_same_noises_to_both(tiny, latent):
    sampler = sampler_of(tiny, ji.ancestral)
    sampler = sampler.with_noises(
        jax.random.normal(jax.random.key(1), (3, *latent.shape))
    )
    pair = sample_pair(sampler, pair_denoiser(tiny, sampler, SOURCE, TARGET), latent)
    close(pair[1], ji.sample(sampler, tiny.denoiser(TARGET), latent))


@pytest.mark.parametrize("make", SAMPLERS, ids=lambda m: m.__name__)
def test_times_of_a_sampler_belong_to_its_steps(tiny, make):
    sampler = sampler_of(tiny, make, 5)
    ends = np.asarray(sampler.ends or range(sampler.num_rows + 1))[1:]
    levels = jnp.asarray(np.asarray(sampler.model_time)[ends], jnp.float32)
    assert [int(step_at(levels, t)) for t in levels[::-1]] == list(range(5))
    every = np.asarray(sampler.model_time)[:0:-1].astype(np.float32)
    steps = [int(step_at(levels, t)) for t in every]
    assert steps == sorted(steps)
    assert set(steps) == set(range(5))
    assert Moment(jnp.asarray(3), False).during(2, 4)
    assert not Moment(jnp.asarray(4), False).during(2, 4)


def test_an_inversion_by_another_sampler_is_refused(tiny, latent):
    grids = [ji.time_grid(tiny.schedule, steps) for steps in (2, 3)]
    source = tiny.denoiser("red")
    found = ji.invert(ji.ddim(grids[1]), source, latent, strategy="naive")
    with pytest.raises(ValueError, match=r"3 rows, and 'ddim' has 2"):
        METHODS["prompt_swap"](tiny, ji.ddim(grids[0]), found, "red", "blue")


def test_an_unknown_option_is_refused(tiny, latent):
    sampler = sampler_of(tiny)
    for name, each in METHODS.items():
        with pytest.raises(ValueError, match=f"unknown option of {name} 'depth'"):
            each(tiny, sampler, inverted(sampler, latent), SOURCE, TARGET, depth=1)


def test_prompt_swap_is_an_edit_without_mask(tiny, latent):
    sampler = sampler_of(tiny)
    denoise = [tiny.denoiser(p, guidance_scale=GUIDANCE) for p in (SOURCE, TARGET)]
    wanted = editing.edit(sampler, *denoise, latent)
    found = METHODS["prompt_swap"](
        tiny, sampler, wanted.inversion, SOURCE, TARGET, guidance_scale=GUIDANCE
    )
    close(found, wanted.latent)


# --- methods that share -------------------------------------------------------------

#: Options under which a method of the tiny network shares, and shares nothing.
SHARES = {
    "prompt_to_prompt": ({}, {"cross_steps": 0.0, "self_steps": 0.0}),
    "masactrl": ({}, {"first_step": 1.0}),
    "plug_and_play": ({}, {"attention_steps": 0.0, "feature_steps": 0.0}),
}


@pytest.mark.parametrize("name", SHARES)
def test_a_method_shares_what_it_is_asked_for(name, attentive, latent):
    sampler = sampler_of(attentive, ji.dpmpp_2m)
    some, none = SHARES[name]

    def edited(target, method=name, **options):
        found = inverted(sampler, latent)
        return METHODS[method](
            *(attentive, sampler, found, SOURCE, target),
            guidance_scale=GUIDANCE,
            **options,
        )

    swapped = edited(TARGET, "prompt_swap")
    close(edited(TARGET, **none), swapped)
    assert differs(edited(TARGET, **some), swapped)
    # Equal prompts change nothing, whatever is shared.
    close(edited(SOURCE, **some), edited(SOURCE, "prompt_swap"))


@pytest.mark.parametrize(
    "make", [ji.heun, ji.o_belm, ji.edict], ids=lambda m: m.__name__
)
def test_sharing_works_with_stages_and_states(tiny, latent, make):
    sampler = sampler_of(tiny, make)
    found = inverted(sampler, latent)
    same = METHODS["plug_and_play"](tiny, sampler, found, SOURCE, SOURCE)
    close(same, ji.sample(sampler, tiny.denoiser(SOURCE), found.state))


def test_the_target_does_not_change_the_source(attentive, latent):
    sampler = sampler_of(attentive)
    sharing = Partial(masactrl_hook, jnp.asarray(0), jnp.asarray(0.0))
    denoise = pair_denoiser(attentive, sampler, SOURCE, TARGET, sharing)
    source, target = sample_pair(sampler, denoise, latent)
    close(source, ji.sample(sampler, attentive.denoiser(SOURCE), latent))
    assert differs(target, ji.sample(sampler, attentive.denoiser(TARGET), latent))
    close(jax.jit(sample_pair)(sampler, denoise, latent)[1], target)


def maps(aligned, scale, step=0, kind="cross", size=6):
    """Random maps of two samples and two branches of guidance, before and after."""
    own = jax.random.uniform(jax.random.key(0), (2, 2, 3, size, size))

    def changed(x):
        moment = Moment(jnp.asarray(step), guided=True)
        hook = prompt_to_prompt_hook(
            *map(jnp.asarray, (aligned, scale, 2, 1, size)), moment
        )
        return hook.weights(Place("attn2", kind, 0, 1), x)

    inner = jax.vmap(changed, axis_name=GUIDANCE_AXIS)
    return own, jax.vmap(inner, axis_name=editing.BRANCH)(own)


def test_replaced_words_are_where_the_source_had_them():
    ids = [np.array([0, word, 2, 9, 9, 9]) for word in (1, 7)]
    own, found = maps(alignment(*ids, "replace"), np.ones(6))
    np.testing.assert_array_equal(found[1, 1], own[0, 1])
    np.testing.assert_array_equal(found[0], own[0])  # the source
    np.testing.assert_array_equal(found[1, 0], own[1, 0])  # the negative prompt
    _, later = maps(alignment(*ids, "replace"), np.ones(6), step=2)
    np.testing.assert_array_equal(later, own)


def test_refined_prompts_keep_the_maps_of_common_words():
    source, target = np.array([0, 1, 2, 9, 9, 9]), np.array([0, 5, 1, 2, 9, 9])
    own, found = maps(alignment(source, target, "refine"), np.ones(6))
    before, after = [0, 1, 2, 3, 4], [0, 2, 3, 4, 5]
    np.testing.assert_array_equal(found[1, 1][..., after], own[0, 1][..., before])
    np.testing.assert_array_equal(found[1, 1][..., 1], own[1, 1][..., 1])


def test_a_replacement_of_more_tokens_shares_the_maps_of_the_word():
    found = alignment(np.array([0, 1, 9, 9]), np.array([0, 5, 6, 9]), "replace")
    np.testing.assert_array_equal(found[1], [0, 0.5, 0.5, 0])
    np.testing.assert_array_equal(found.sum(0)[[0, 3]], 1)


def test_self_attention_is_shared_in_fewer_steps():
    own, found = maps(np.eye(6), np.ones(6), kind="self")
    np.testing.assert_array_equal(found[1, 1], own[0, 1])
    _, later = maps(np.eye(6), np.ones(6), step=1, kind="self")
    np.testing.assert_array_equal(later, own)


def test_reweighting_scales_the_maps_of_a_word(emoji64):
    target = emoji64.tokenize("red heart")
    scale = factors(emoji64.tokenizers[0], target, {"heart": 0.0})
    assert (scale == 0).sum() == 1
    assert np.all(factors(emoji64.tokenizers[0], target, {"red": 1.0}) == 1)
    size = len(target)
    own, found = maps(np.eye(size), scale, size=size)
    np.testing.assert_array_equal(found[1, 1], own[0, 1] * scale)
    with pytest.raises(
        ValueError, match="unknown word to reweight 'hart'; did you mean heart"
    ):
        factors(emoji64.tokenizers[0], target, {"hart": 2.0})


def test_bad_options_and_networks_are_refused(tiny, emoji64, latent):
    sampler = sampler_of(tiny)
    given = tiny, sampler, inverted(sampler, latent)
    with pytest.raises(ValueError, match="cross_steps must be a number"):
        METHODS["prompt_to_prompt"](*given, SOURCE, TARGET, cross_steps=1.5)
    vectors = tiny.encode_prompt(TARGET)
    with pytest.raises(ValueError, match="both prompts must be texts"):
        METHODS["prompt_to_prompt"](*given, SOURCE, vectors)
    other = dataclasses.replace(tiny, network=tiny.vae)
    with pytest.raises(
        ValueError, match="masactrl needs a network of the class UNet2D"
    ):
        METHODS["masactrl"](other, *given[1:], SOURCE, TARGET)


JUNK = (None, "emoji64", 3, [1.0], print, object(), np.ones((8, 8, 4)))


@pytest.mark.parametrize("name", [n for n in METHODS if n != "value_sharing"])
def test_arguments_of_other_types_are_refused_in_one_line(name, tiny, latent):
    sampler = sampler_of(tiny)
    given = {"pipe": tiny, "sampler": sampler, "inversion": inverted(sampler, latent)}
    prompts = {"source": SOURCE, "target": TARGET}
    for key in given:
        for value in JUNK:
            with pytest.raises(ValueError, match=f"^Task: {key} must be [^\n]*$"):
                METHODS[name](**prompts | given | {key: value})
    for shape in ((2, 8, 8, 4), (8, 4)):
        several = inverted(sampler, jnp.ones(shape))
        with pytest.raises(ValueError, match=r"the inversion of one latent.*jax\.vmap"):
            METHODS[name](tiny, sampler, several, SOURCE, TARGET)


def test_editing_works_in_programs_of_several_latents_and_guidances(attentive, latent):
    sampler = sampler_of(attentive)

    def edited(guidance, x):
        found = inverted(sampler, x)
        return METHODS["masactrl"](
            attentive, sampler, found, SOURCE, TARGET, guidance_scale=guidance
        )

    guidances, latents = jnp.array([1.0, GUIDANCE]), jnp.stack([latent, -latent])
    every = jax.jit(jax.vmap(edited))(guidances, latents)
    for one, guidance, x in zip(every, guidances, latents, strict=True):
        close(one, edited(float(guidance), x))
