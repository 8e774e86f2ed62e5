"""LaVie's base UNet equals the formulas in PyTorch, by the names of its tensors."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch_lavie import LaVie
from torch_models import relative_error
from video_cases import randomized

import weights_convert
from jaxinv.models import LaVieUNetConfig, UNet2DConditionConfig

SMALL = {
    "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": 1,
}
MODELS = {
    # More frames than there are buckets of their own for distances.
    "plain": (SMALL, (18, 4, 4)),
    "options": (
        SMALL
        | {
            "in_channels": 3,
            "out_channels": 5,
            "down_block_types": ("DownBlock3D", "CrossAttnDownBlock3D"),
            "up_block_types": ("CrossAttnUpBlock3D", "UpBlock3D"),
            "layers_per_block": 2,
            "attention_head_dim": (1, 2),
            "use_linear_projection": True,
            "resnet_time_scale_shift": "scale_shift",
        },
        (3, 5, 7),
    ),
}


def saved(config, folder):
    """PyTorch's random model, saved as LaVie's own class saves itself."""
    values = {
        field.name: field.default for field in dataclasses.fields(LaVieUNetConfig)
    }
    values |= config
    model = randomized(LaVie(values))
    folder.mkdir(exist_ok=True)
    values |= {"_class_name": "UNet3DConditionModel", "use_first_frame": False}
    (folder / "config.json").write_text(json.dumps(values))
    save_file(model.state_dict(), folder / "diffusion_pytorch_model.safetensors")
    return model


@pytest.mark.parametrize("name", MODELS)
def test_the_unet_equals_the_formulas(name, tmp_path):
    config, shape = MODELS[name]
    model = saved(config, tmp_path)
    ours = weights_convert.load_component(tmp_path)
    rng = np.random.default_rng(0)
    sample = rng.standard_normal((*shape, ours.config.in_channels), np.float32)
    text = rng.standard_normal((5, 12), np.float32)
    with torch.no_grad():
        video = torch.from_numpy(np.moveaxis(sample, -1, 1).copy())
        wanted = model(video, 321.75, torch.from_numpy(text)).numpy()
    found = jax.jit(lambda net, *args: net(*args))(ours, sample, 321.75, text)
    assert relative_error(found, np.moveaxis(wanted, 1, -1)) < 1e-4


def test_every_tensor_of_the_full_size_model_maps():
    with torch.device("meta"):
        model = LaVie(dataclasses.asdict(LaVieUNetConfig.lavie()))
    wanted = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    found = weights_convert.tensor_shapes(LaVieUNetConfig.lavie())
    assert found == wanted
    assert sum(map(np.prod, found.values())) == 909_124_356


def test_the_class_of_the_same_name_in_diffusers_is_told_apart():
    data = LaVieUNetConfig.lavie().to_dict()
    del data["flip_sin_to_cos"]
    with pytest.raises(ValueError, match="that of diffusers' class of the same name"):
        LaVieUNetConfig.from_dict(data)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"attention_head_dim": 16}, "16 heads of 320 channels have 20 features"),
        ({"use_relative_position": True}, "use_relative_position=True"),
        ({"act_fn": "mish"}, "act_fn"),
    ],
)
def test_options_that_are_not_implemented_are_named(change, reason):
    with pytest.raises(ValueError, match=reason):
        LaVieUNetConfig.from_dict(LaVieUNetConfig.lavie().to_dict() | change)


def test_an_image_model_of_other_options_is_not_the_one_that_lavie_extends():
    image = UNet2DConditionConfig.sd15()
    assert LaVieUNetConfig.from_image(image) == LaVieUNetConfig.lavie()
    with pytest.raises(ValueError, match="options that LaVie's code lacks"):
        LaVieUNetConfig.from_image(dataclasses.replace(image, conv_in_kernel=5))
