"""Hooks see what happens inside of layers, and can change it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_modules import make
from torch_models import UNETS, relative_error

from jaxinv.models import (
    FluxCondition,
    FluxTransformer2DConfig,
    Hook,
    UNet2DConditionConfig,
    abstract_component,
    with_hook,
    with_options,
)
from jaxinv.models.layers.attention import dot_product_attention
from jaxinv.models.layers.hook import LayerHook, Place

SMALL = UNETS["plain_mid"] | {
    "mid_block_type": None,
    "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("UpBlock2D",),
    "block_out_channels": (8,),
}
HERE = Place("attn", "self", 0, 1)


def unchanged(place, *arrays):
    return arrays if len(arrays) > 1 else arrays[0]


SAME = {
    "inputs": Hook(inputs=unchanged),
    "weights": Hook(weights=unchanged),
    "features": Hook(features=unchanged),
}


@pytest.fixture(scope="module")
def unet():
    return make(UNet2DConditionConfig(**SMALL))


@pytest.fixture(scope="module")
def flux():
    return make(
        FluxTransformer2DConfig(
            in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=8,
            num_attention_heads=2, joint_attention_dim=6, pooled_projection_dim=5,
            axes_dims_rope=(2, 2, 4), guidance_embeds=False,
        )
    )  # fmt: skip


UNET_INPUTS = jnp.ones((8, 8, 4)), 500.0, 0.1 * jnp.arange(40.0).reshape(5, 8)
FLUX_INPUTS = (
    jnp.ones((4, 6, 4)),
    500.0,
    FluxCondition(0.1 * jnp.arange(18.0).reshape(3, 6), jnp.ones(5)),
)


@jax.jit(static_argnames="hook")
def run(network, hook, *inputs):
    return (network if hook is None else with_hook(network, hook))(*inputs)


@pytest.mark.parametrize("name", SAME)
def test_a_hook_that_returns_what_it_gets_changes_nothing_in_attention(name, dtype):
    draw = np.random.default_rng(0)
    query, key, value = draw.standard_normal((3, 7, 2, 4)).astype(dtype)
    plain = dot_product_attention(query, key, value)
    hook = LayerHook(SAME[name], HERE)
    hooked = dot_product_attention(query, key, value, hook=hook)
    assert hooked.dtype == dtype
    if name == "weights" and dtype == "float32":  # JAX's own program sums differently
        assert relative_error(hooked, plain) < 1e-6
    else:
        np.testing.assert_array_equal(hooked, plain)


@pytest.mark.parametrize("name", SAME)
def test_a_hook_that_returns_what_it_gets_changes_nothing_in_a_unet(name, unet):
    plain = run(unet, None, *UNET_INPUTS)
    assert relative_error(run(unet, SAME[name], *UNET_INPUTS), plain) < 1e-5


def test_without_a_hook_the_copy_that_had_one_is_unchanged(unet):
    with_hook(unet, SAME["inputs"])
    modules = [unet.down_blocks[0].resnets[0]]
    modules.append(unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1)
    assert [module.hook for module in modules] == [None, None]


def test_weights_are_a_mean_and_may_be_replaced(unet):
    seen = []
    draw = np.random.default_rng(0)
    query, key, value = draw.standard_normal((3, 7, 2, 4)).astype(np.float32)

    def uniform(place, weights):
        seen.append(weights)
        return jnp.full_like(weights, 1 / weights.shape[-1])

    hook = LayerHook(Hook(weights=uniform), HERE)
    found = dot_product_attention(query, key, value, hook=hook)
    np.testing.assert_allclose(seen[0].sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(
        found, np.broadcast_to(value.mean(0), found.shape), atol=1e-6
    )


def test_layers_know_their_place(flux):
    places = []
    hook = Hook(
        inputs=lambda place, *qkv: places.append(place) or qkv,
        features=lambda place, x: places.append(place) or x,
    )
    config = SMALL | {"transformer_layers_per_block": 2}
    unet = abstract_component(UNet2DConditionConfig(**config))
    jax.eval_shape(lambda unet: with_hook(unet, hook)(*UNET_INPUTS), unet)
    block = "down_blocks.0.attentions.0.transformer_blocks"
    assert [p for p in places if p.kind != "residual"] == [
        (f"{block}.0.attn1", "self", 0, 2, 0),
        (f"{block}.0.attn2", "cross", 0, 2, 0),
        (f"{block}.1.attn1", "self", 1, 2, 0),
        (f"{block}.1.attn2", "cross", 1, 2, 0),
    ]
    residual = [p for p in places if p.kind == "residual"]
    assert [p.number for p in residual] == list(range(3))
    assert residual[-1].path == "up_blocks.0.resnets.1"


def test_layers_of_a_stack_know_their_numbers_and_the_texts_length(flux):
    """In a stack, one trace serves all layers: the number is an array."""
    lengths = []

    @jax.jit
    def without_values(flux, number):
        def inputs(place, query, key, value):
            lengths.append((place.text_length, place.total))
            return query, key, jnp.where(place.number == number, 0, value)

        return with_hook(flux, Hook(inputs=inputs))(*FLUX_INPUTS)

    found = [without_values(flux, n) for n in range(5)]
    assert set(lengths) == {(3, 4)}
    plain = found[4]  # there is no such layer
    changes = [relative_error(x, plain) for x in found[:4]]
    assert min(changes) > 1e-3
    assert len({round(change, 6) for change in changes}) == 4


@pytest.mark.parametrize("network", ["unet", "flux"])
def test_a_hook_sees_other_samples_and_arrays_of_the_program(network, request):
    """Under jit, vmap with a named axis, rematerialization and in stacks."""
    inputs = UNET_INPUTS if network == "unet" else FLUX_INPUTS
    network = request.getfixturevalue(network)
    x, t, condition = inputs

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def run(pair, network, gain):
        def inputs(place, query, key, value):
            first = jax.lax.all_gather(value, "pair")[0]
            return query, key, value + gain * (first - value)

        hooked = with_hook(network, Hook(inputs=inputs))
        out = jax.vmap(lambda x: hooked(x, t, condition), axis_name="pair")(pair)
        return jnp.sum(out[1] ** 2), out

    careful = with_options(network, remat="blocks")
    pair = jnp.stack([x, -x])
    alone, out = run(pair, careful, jnp.float32(0))
    slope, shared = run(pair, careful, jnp.float32(1))
    np.testing.assert_allclose(shared[0], out[0], atol=1e-5)  # the first is untouched
    assert relative_error(shared[1], out[1]) > 1e-3
    assert jnp.all(alone[0] == 0)
    assert jnp.any(slope[0] != 0)


def test_a_network_without_such_layers_is_refused():
    from jaxinv.models import AutoencoderTinyConfig

    vae = abstract_component(AutoencoderTinyConfig())
    with pytest.raises(ValueError, match="AutoencoderTiny has none"):
        with_hook(vae, SAME["inputs"])


#: Functions that return something other than what they are given.
WRONG = {
    "inputs": {
        "nothing": lambda place, *qkv: None,
        "two": lambda place, *qkv: qkv[:2],
        "fewer queries": lambda place, q, k, v: (q[:1], k, v),
        "fewer keys than values": lambda place, q, k, v: (q, k[:1], v),
        "other heads": lambda place, q, k, v: (q, k[:, :1], v[:, :1]),
        "another dtype": lambda place, q, k, v: (q, k, v.astype("float16")),
    },
    "weights": {
        "nothing": lambda place, x: None,
        "one head": lambda place, x: x[:1],
        "another dtype": lambda place, x: x.astype("float16"),
    },
    "features": {
        "nothing": lambda place, x: None,
        "one row": lambda place, x: x[:1],
        "another dtype": lambda place, x: x.astype("float16"),
    },
}


@pytest.mark.parametrize(
    ("name", "case"), [(name, case) for name in WRONG for case in WRONG[name]]
)
def test_a_hook_that_returns_something_else_is_refused(name, case):
    unet = abstract_component(UNet2DConditionConfig(**SMALL))
    hook = Hook(**{name: WRONG[name][case]})
    # JAX adds a note of its own.
    with pytest.raises(ValueError, match=r"^a hook.* must return .* got .* at .*"):
        jax.eval_shape(lambda unet: with_hook(unet, hook)(*UNET_INPUTS), unet)


def test_keys_and_values_may_change_in_number_together(unet):
    def doubled(place, query, key, value):
        return query, jnp.tile(key, (2, 1, 1)), jnp.tile(value, (2, 1, 1))

    found = run(unet, Hook(inputs=doubled), *UNET_INPUTS)
    assert relative_error(found, run(unet, None, *UNET_INPUTS)) < 1e-5


@pytest.mark.parametrize("hook", [None, unchanged, "weights", {"weights": unchanged}])
def test_what_is_no_hook_or_no_network_is_refused(hook, unet):
    with pytest.raises(ValueError, match=r"^with_hook: hook must be a Hook"):
        with_hook(unet, hook)
    with pytest.raises(ValueError, match=r"^with_hook: network must be a network"):
        with_hook((unet, hook), Hook())
