"""ControlNets compute diffusers' residuals, and UNets add them as diffusers does."""

import inspect
import random

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel
from flax import nnx
from torch_models import from_torch, relative_error, to_torch

import weights_convert
from jaxinv.models import (
    ControlledCondition,
    ControlledUNet,
    ControlNetConfig,
    ControlNetModel,
    UNetCondition,
)
from jaxinv.models.parameters import parameters

TOLERANCE = 1e-4
BASE = {
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
    "conditioning_embedding_out_channels": [4, 6, 8],
}
XL = BASE | {
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "transformer_layers_per_block": [1, 2],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 6 * 4 + 5,
}
VALUES = {
    "in_channels": [3, 4],
    "conditioning_channels": [1, 3, 6],
    "flip_sin_to_cos": [False, True],
    "freq_shift": [0, 1],
    "down_block_types": [["CrossAttnDownBlock2D"] * 2, ["AttnDownBlock2D"] * 2],
    "mid_block_type": ["UNetMidBlock2D", "UNetMidBlock2DSimpleCrossAttn"],
    "only_cross_attention": [True, [True, False]],
    "block_out_channels": [[8, 8], [16, 8]],
    "layers_per_block": [2, 3],
    "downsample_padding": [0, 1],
    "mid_block_scale_factor": [0.5, 2.0],
    "act_fn": ["mish", "gelu", "tanh"],
    "norm_num_groups": [1, 2],
    "norm_eps": [1e-2],
    "cross_attention_dim": [8, 12],
    "transformer_layers_per_block": [2, [1, 2]],
    "encoder_hid_dim": [6],
    "encoder_hid_dim_type": ["text_image_proj"],
    "attention_head_dim": [1, 4, [2, 4]],
    "num_attention_heads": [2, [4, 2]],
    "use_linear_projection": [True],
    "class_embed_type": ["timestep", "projection"],
    "addition_embed_type": ["text", "text_image"],
    "addition_time_embed_dim": [4],
    "num_class_embeds": [3],
    "upcast_attention": [True, None],
    "resnet_time_scale_shift": ["scale_shift"],
    "projection_class_embeddings_input_dim": [30],
    "controlnet_conditioning_channel_order": ["bgr", "brg"],
    "conditioning_embedding_out_channels": [[5], [4, 6], [2, 3, 4]],
    "global_pool_conditions": [True],
    "addition_embed_type_num_heads": [2],
}


def randomized(model, seed=0):
    """A model of PyTorch no layer of which is zero."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def inputs(config, seed=0):
    """A sample, a condition and a control image, channels last."""
    rng = np.random.default_rng(seed)
    sample = rng.standard_normal((8, 6, config.in_channels), np.float32)
    condition = UNetCondition(rng.standard_normal((5, config.cross_attention_dim)))
    condition = condition._replace(text=condition.text.astype(np.float32))
    if config.addition_embed_type is not None:
        sizes = rng.integers(0, 1024, 6).astype(np.float32)
        pooled = rng.standard_normal(config.image_config.pooled_width, np.float32)
        condition = condition._replace(pooled=pooled, time_ids=sizes)
    factor = config.downsampling_factor
    shape = 8 * factor, 6 * factor, config.conditioning_channels
    return sample, condition, rng.random(shape, np.float32)


def as_torch(condition):
    """The condition's arguments of diffusers' forward."""
    found = {"encoder_hidden_states": torch.from_numpy(condition.text)[None]}
    if condition.pooled is not None:
        found["added_cond_kwargs"] = {
            "text_embeds": torch.from_numpy(condition.pooled)[None],
            "time_ids": torch.from_numpy(condition.time_ids)[None],
        }
    return found


def draw(seed, base):
    rng = random.Random(seed)
    names = rng.sample(sorted(VALUES), rng.choice([1, 2, 3]))
    return base | {name: rng.choice(VALUES[name]) for name in names}, names


def read(data, names):
    """The configuration, or None if one of the drawn options is refused by name."""
    try:
        return ControlNetConfig.from_dict(data)
    except ValueError as error:
        reason = str(error)
    assert any(name in reason for name in names), reason
    return None


def test_every_option_of_diffusers_is_drawn():
    signature = inspect.signature(diffusers.ControlNetModel.__init__)
    assert set(signature.parameters) - {"self"} == set(VALUES)


def test_what_is_drawn_is_compared_or_refused():
    found = [read(*draw(seed, BASE)) is None for seed in range(100)]
    assert 20 < sum(found) < 80


# The first seeds of which the configuration is not refused.
DRAWS = [
    (base, [s for s in range(40) if read(*draw(s, values)) is not None][:2])
    for base, values in (("sd", BASE), ("xl", XL))
]


@pytest.mark.parametrize(
    ("base", "seed"), [(base, seed) for base, seeds in DRAWS for seed in seeds]
)
def test_residuals_of_a_drawn_configuration_are_those_of_diffusers(
    base, seed, tmp_path
):
    data, _ = draw(seed, {"sd": BASE, "xl": XL}[base])
    theirs = randomized(diffusers.ControlNetModel(**data))
    theirs.save_pretrained(tmp_path)
    ours = weights_convert.load_component(tmp_path)
    sample, condition, image = inputs(ours.config)
    with torch.no_grad():
        down, middle = theirs(
            to_torch(sample),
            torch.tensor(321.5),
            controlnet_cond=to_torch(image),
            conditioning_scale=1.0,
            return_dict=False,
            **as_torch(condition),
        )
    with jax.disable_jit():
        found = ours(sample, 321.5, condition, ours.embed(image))
    assert len(found) == len(down) + 1
    for mine, wanted in zip(found, [*down, middle], strict=True):
        assert relative_error(mine, from_torch(wanted)) < TOLERANCE


def test_a_unet_with_two_controlnets_predicts_what_diffusers_predicts(tmp_path):
    shared = {k: v for k, v in BASE.items() if not k.startswith("conditioning")}
    up = [kind.replace("Down", "Up") for kind in BASE["down_block_types"][::-1]]
    unet = randomized(diffusers.UNet2DConditionModel(**shared, up_block_types=up))
    nets = [randomized(diffusers.ControlNetModel(**BASE), seed) for seed in (1, 2)]
    parts = []
    for i, model in enumerate([unet, *nets]):
        model.save_pretrained(tmp_path / str(i))
        parts.append(weights_convert.load_component(tmp_path / str(i)))
    ours = ControlledUNet(parts[0], parts[1:])
    sample, condition, first = inputs(parts[1].config)
    images, scales = [first, inputs(parts[1].config, 1)[2]], [0.7, 1.3]
    time = torch.tensor(321.5)
    with torch.no_grad():
        down, middle = MultiControlNetModel(nets)(
            to_torch(sample),
            time,
            controlnet_cond=[to_torch(image) for image in images],
            conditioning_scale=scales,
            return_dict=False,
            **as_torch(condition),
        )
        wanted = unet(
            to_torch(sample),
            time,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            **as_torch(condition),
        ).sample
        alone = unet(to_torch(sample), time, **as_torch(condition)).sample
    assert relative_error(from_torch(alone), from_torch(wanted)) > 0.1

    @jax.jit
    def predict(model, images, scales):
        nets = zip(model.controlnets, images, strict=True)
        features = tuple(net.embed(image) for net, image in nets)
        given = ControlledCondition(condition, features, scales)
        return model(sample, 321.5, given)

    found = predict(ours, images, tuple(jnp.float32(scale) for scale in scales))
    assert relative_error(found, from_torch(wanted)) < TOLERANCE


def test_a_new_controlnet_adds_nothing():
    plain = {"down_block_types": ["DownBlock2D"], "block_out_channels": [4]}
    mid = {"mid_block_type": "UNetMidBlock2D"}
    config = ControlNetConfig.from_dict(BASE | plain | mid | {"attention_head_dim": 1})
    values = parameters(ControlNetModel(config, rngs=nnx.Rngs(0)))
    last = ("controlnet_down_blocks", "controlnet_mid_block")
    last += ("controlnet_cond_embedding.conv_out",)
    for path, value in values.items():
        if path.endswith("kernel"):
            assert np.any(value) != path.startswith(last), path


def test_images_and_residuals_that_do_not_fit_are_refused(tmp_path):
    diffusers.ControlNetModel(**BASE).save_pretrained(tmp_path)
    net = weights_convert.load_component(tmp_path)
    sample, condition, image = inputs(net.config)

    def apply(image):
        return jax.eval_shape(
            lambda x: net(sample, 3.0, condition, net.embed(x)), image
        )

    apply(image)
    with pytest.raises(ValueError, match=r"32x24 pixels \(height x width\)"):
        apply(image[:-4])
    with pytest.raises(ValueError, match=r"shape \(h, w, 3\), got \(32, 24, 1\)"):
        apply(image[..., :1])
    unet = ControlledUNet(None, [net])
    with pytest.raises(ValueError, match="each of 1 ControlNets, got 0 images"):
        unet(sample, 3.0, ControlledCondition(condition, (), ()))
