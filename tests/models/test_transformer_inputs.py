"""Transformers refuse latents and conditions that do not fit, in one clear line."""

import jax
import numpy as np
import pytest

from jaxinv.models import (
    FluxCondition,
    FluxTransformer2DConfig,
    PixArtCondition,
    PixArtTransformerConfig,
    SD3Condition,
    SD3TransformerConfig,
    abstract_component,
)

TEXT, POOLED = np.zeros((3, 6), np.float32), np.zeros(5, np.float32)
HEADS = {"attention_head_dim": 12, "num_attention_heads": 2, "num_layers": 1}
SIZES = {"joint_attention_dim": 6, "pooled_projection_dim": 5}
PIXART = {"sample_size": 8, "cross_attention_dim": 24, "caption_channels": 6}
# For each network: settings, a condition, and the shape of a latent.
NETWORKS = {
    "sd3": (
        SD3TransformerConfig(
            sample_size=8,
            caption_projection_dim=24,
            pos_embed_max_size=6,
            **HEADS,
            **SIZES,
        ),
        SD3Condition(TEXT, POOLED),
        (4, 6, 16),
    ),
    "flux": (
        FluxTransformer2DConfig(
            num_single_layers=1,
            guidance_embeds=True,
            axes_dims_rope=(4, 4, 4),
            **HEADS,
            **SIZES,
        ),
        FluxCondition(TEXT, POOLED, np.float32(3)),
        (4, 6, 16),
    ),
    "pixart": (
        PixArtTransformerConfig(use_additional_conditions=True, **HEADS, **PIXART),
        PixArtCondition(TEXT, TEXT[:, 0], np.ones(2, np.float32), np.float32(1)),
        (4, 6, 4),
    ),
}


def outputs(model, shape, condition):
    """Returns the shape and dtype that a network gives for a latent of a shape."""
    latent = jax.ShapeDtypeStruct(shape, np.float32)
    return jax.eval_shape(lambda m, x, c: m(x, 500.0, c), model, latent, condition)


@pytest.mark.parametrize("name", NETWORKS)
def test_latents_of_other_shapes_are_refused(name):
    config, condition, shape = NETWORKS[name]
    model = abstract_component(config)
    assert outputs(model, shape, condition).shape == shape
    rng = np.random.default_rng(0)
    odd = [(2 * h - 1, 2 * w, shape[2]) for h, w in rng.integers(1, 5, (3, 2)).tolist()]
    others = [(*shape[:2], int(n)) for n in rng.integers(1, 40, 4) if n != shape[2]]
    ranks = [shape[1:], (1, *shape), (0, *shape[1:]), ()]
    for wrong in [*odd, *others, *ranks]:
        with pytest.raises(ValueError, match="expected one latent of shape") as error:
            outputs(model, wrong, condition)
        assert f"(h, w, {shape[2]}) with (h, w) multiples of (2, 2)" in str(error.value)
        assert str(error.value).endswith(f"got {wrong}")


@pytest.mark.parametrize("name", NETWORKS)
def test_conditions_of_other_shapes_are_refused_by_the_field(name):
    config, condition, shape = NETWORKS[name]
    model = abstract_component(config)
    for field, value in condition._asdict().items():
        batch, longer = value[None], np.zeros([n + 1 for n in value.shape], np.float32)
        for wrong in [batch, longer, None][0 if value.ndim else 2 :]:
            with pytest.raises(ValueError, match=f"condition's {field} must"):
                outputs(model, shape, condition._replace(**{field: wrong}))
    for other in (TEXT, None, (TEXT, POOLED)):
        with pytest.raises(ValueError, match=f"must be a {type(condition).__name__}"):
            outputs(model, shape, other)


def test_a_guidance_scale_that_is_no_input_is_refused():
    _, condition, shape = NETWORKS["flux"]
    schnell = abstract_component(
        FluxTransformer2DConfig(
            **HEADS, **SIZES, num_single_layers=1, axes_dims_rope=(4, 4, 4)
        )
    )
    with pytest.raises(ValueError, match="guidance_embeds is false"):
        outputs(schnell, shape, condition)


def test_latents_larger_than_the_table_of_positions_are_refused():
    config, condition, _ = NETWORKS["sd3"]
    with pytest.raises(ValueError, match=r"at most 12 .* got 14 and 8"):
        outputs(abstract_component(config), (14, 8, 16), condition)
