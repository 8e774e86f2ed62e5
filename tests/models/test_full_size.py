"""The full-size Stable Diffusion models: layouts without memory, one forward pass."""

import gc

import diffusers
import jax
import numpy as np
import pytest
import torch
import transformers
from torch_models import relative_error, torch_unet

import weights_convert
from jaxinv.models import (
    AutoencoderKLConfig,
    CLIPTextConfig,
    CLIPTextWithProjectionConfig,
    ControlNetConfig,
    MotionAdapterConfig,
    SD3TransformerConfig,
    UNet2DConditionConfig,
    UNet2DConfig,
    UNetCondition,
    UNetMotionConfig,
)

# The published config.json of each model, without bookkeeping keys.
SD15_UNET = {
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": [
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    ],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": [
        "UpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
    ],
}
SD21_UNET = SD15_UNET | {
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "dual_cross_attention": False,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "sample_size": 96,
    "upcast_attention": True,
    "use_linear_projection": True,
}
SDXL_UNET = {
    "act_fn": "silu",
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "center_input_sample": False,
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_dim": 2048,
    "cross_attention_norm": None,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_only_cross_attention": None,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "out_channels": 4,
    "projection_class_embeddings_input_dim": 2816,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "sample_size": 128,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "upcast_attention": None,
    "use_linear_projection": True,
}
SSD1B_UNET = SDXL_UNET | {
    "mid_block_type": "UNetMidBlock2D",
    "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
    "transformer_layers_per_block": [1, [2, 2], [4, 4]],
}
SD15_VAE = {
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
SD3_VAE = SD15_VAE | {
    "force_upcast": True,
    "latent_channels": 16,
    "latents_mean": None,
    "latents_std": None,
    "sample_size": 1024,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "use_post_quant_conv": False,
    "use_quant_conv": False,
}
FLUX_VAE = SD3_VAE | {
    "mid_block_add_attention": True,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
}
SDXL_VAE = SD15_VAE | {
    "force_upcast": True,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
}
SD15_TEXT = {
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 768,
    "vocab_size": 49408,
}
SD21_TEXT = SD15_TEXT | {
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
    "projection_dim": 512,
}
# CLIP ViT-L/14 as SD3 has it, with its projection.
SD3_TEXT = SD15_TEXT | {"architectures": ["CLIPTextModelWithProjection"]}
SDXL_TEXT_2 = SD21_TEXT | {
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
}
# guoyww/animatediff-motion-adapter-v1-5-2, and the UNet that diffusers makes with it.
ADAPTER = {
    "block_out_channels": [320, 640, 1280, 1280],
    "motion_layers_per_block": 2,
    "motion_max_seq_length": 32,
    "motion_mid_block_layers_per_block": 1,
    "motion_norm_num_groups": 32,
    "motion_num_attention_heads": 8,
    "use_motion_mid_block": True,
}
MOTION_UNET = {
    "act_fn": "silu",
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlockMotion"] * 3 + ["DownBlockMotion"],
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "motion_max_seq_length": 32,
    "motion_num_attention_heads": 8,
    "norm_num_groups": 32,
    "num_attention_heads": 8,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlockMotion"] + ["CrossAttnUpBlockMotion"] * 3,
    "use_motion_mid_block": True,
}
# google/ddpm-celebahq-256 and google/ddpm-cat-256.
DDPM_256 = {
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 128, 256, 256, 512, 512],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D"] * 4 + ["AttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 256,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D"] + ["UpBlock2D"] * 4,
}
DDPM_CIFAR10 = DDPM_256 | {
    "block_out_channels": [128, 256, 256, 256],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"] + ["DownBlock2D"] * 2,
    "sample_size": 32,
    "up_block_types": ["UpBlock2D"] * 2 + ["AttnUpBlock2D", "UpBlock2D"],
}

# lllyasviel/sd-controlnet-canny.
CONTROLNET_CANNY = {
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "class_embed_type": None,
    "conditioning_embedding_out_channels": [16, 32, 96, 256],
    "controlnet_conditioning_channel_order": "rgb",
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "projection_class_embeddings_input_dim": None,
    "resnet_time_scale_shift": "default",
    "upcast_attention": False,
    "use_linear_projection": False,
}
# diffusers/controlnet-canny-sdxl-1.0.
CONTROLNET_CANNY_SDXL = CONTROLNET_CANNY | {
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "conditioning_channels": 3,
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "global_pool_conditions": False,
    "num_attention_heads": None,
    "projection_class_embeddings_input_dim": 2816,
    "transformer_layers_per_block": [1, 2, 10],
    "upcast_attention": None,
    "use_linear_projection": True,
}
# stabilityai/stable-diffusion-3-medium, 3.5-medium and 3.5-large.
SD3_TRANSFORMER = {
    "_class_name": "SD3Transformer2DModel",
    "attention_head_dim": 64,
    "caption_projection_dim": 1536,
    "in_channels": 16,
    "joint_attention_dim": 4096,
    "num_attention_heads": 24,
    "num_layers": 24,
    "out_channels": 16,
    "patch_size": 2,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
    "sample_size": 128,
}
SD35_MEDIUM_TRANSFORMER = SD3_TRANSFORMER | {
    "dual_attention_layers": list(range(13)),
    "pos_embed_max_size": 384,
    "qk_norm": "rms_norm",
}
SD35_LARGE_TRANSFORMER = SD3_TRANSFORMER | {
    "caption_projection_dim": 2432,
    "dual_attention_layers": [],
    "num_attention_heads": 38,
    "num_layers": 38,
    "qk_norm": "rms_norm",
}

MODELS = {
    "sd3-transformer": (
        SD3_TRANSFORMER,
        SD3TransformerConfig.sd3_medium(),
        2_084_951_104,
    ),
    "sd35-medium-transformer": (
        SD35_MEDIUM_TRANSFORMER,
        SD3TransformerConfig.sd35_medium(),
        2_469_663_936,
    ),
    "sd35-large-transformer": (
        SD35_LARGE_TRANSFORMER,
        SD3TransformerConfig.sd35_large(),
        8_146_280_768,
    ),
    "sd3-text": (SD3_TEXT, CLIPTextWithProjectionConfig.sd15(), 123_650_304),
    "sd15-controlnet": (CONTROLNET_CANNY, ControlNetConfig.sd15(), 361_279_120),
    "sdxl-controlnet": (CONTROLNET_CANNY_SDXL, ControlNetConfig.sdxl(), 1_251_014_160),
    "ddpm-256-pixels": (DDPM_256, UNet2DConfig.ddpm_256(), 113_673_219),
    "ddpm-cifar10-pixels": (DDPM_CIFAR10, UNet2DConfig.ddpm_cifar10(), 35_746_307),
    "sd15-unet": (SD15_UNET, UNet2DConditionConfig.sd15(), 859_520_964),
    "sd21-unet": (SD21_UNET, UNet2DConditionConfig.sd21(), 865_910_724),
    "motion-unet": (MOTION_UNET, UNetMotionConfig.animatediff(), 1_313_334_404),
    "motion-adapter": (ADAPTER, MotionAdapterConfig.animatediff(), 453_813_440),
    # SDXL's first text encoder is that of SD 1.
    "sdxl-unet": (SDXL_UNET, UNet2DConditionConfig.sdxl(), 2_567_463_684),
    "ssd1b-unet": (SSD1B_UNET, UNet2DConditionConfig.ssd1b(), 1_331_334_404),
    "sdxl-vae": (SDXL_VAE, AutoencoderKLConfig.sdxl(), 83_653_863),
    "sdxl-text-2": (SDXL_TEXT_2, CLIPTextWithProjectionConfig.sdxl(), 694_659_840),
    "sd15-vae": (SD15_VAE, AutoencoderKLConfig.sd15(), 83_653_863),
    "sd21-vae": (
        SD15_VAE | {"sample_size": 768},
        AutoencoderKLConfig.sd21(),
        83_653_863,
    ),
    "sd3-vae": (SD3_VAE, AutoencoderKLConfig.sd3(), 83_819_683),
    "flux-vae": (FLUX_VAE, AutoencoderKLConfig.flux(), 83_819_683),
    "sd15-text": (SD15_TEXT, CLIPTextConfig.sd15(), 123_060_480),
    "sd21-text": (SD21_TEXT, CLIPTextConfig.sd21(), 340_387_840),
}


def published_layout(name, data):
    """Names and shapes of the tensors that PyTorch stores, without memory."""
    with torch.device("meta"):
        if "transformer" in name:
            model = getattr(diffusers, data["_class_name"]).from_config(data)
        elif "motion" in name:
            kind = "UNetMotionModel" if "unet" in name else "MotionAdapter"
            model = getattr(diffusers, kind).from_config(data)
        elif "controlnet" in name:
            model = diffusers.ControlNetModel.from_config(data)
        elif "pixels" in name:
            model = diffusers.UNet2DModel.from_config(data)
        elif "unet" in name:
            model = diffusers.UNet2DConditionModel.from_config(data)
        elif "vae" in name:
            model = diffusers.AutoencoderKL.from_config(data)
        else:
            kind = data.get("architectures", ["CLIPTextModel"])[0]
            config = transformers.CLIPTextConfig(**data)
            model = getattr(transformers, kind)(config)
    tensors = model.state_dict()
    # transformers 5 leaves out the prefix under which these weights are published,
    # unless there is a projection beside them.
    bare = "text" in name and "text_projection.weight" not in tensors
    prefix = "text_model." if bare else ""
    return {prefix + key: tuple(x.shape) for key, x in tensors.items()}


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_of_the_published_layout_maps(name):
    data, config, size = MODELS[name]
    assert type(config).from_dict(data) == config
    layout = weights_convert.tensor_shapes(config)
    assert layout == published_layout(name, data)
    assert sum(map(np.prod, layout.values())) == size


@pytest.mark.slow
@pytest.mark.parametrize(("name", "data"), [("sd15", SD15_UNET), ("sdxl", SDXL_UNET)])
def test_a_full_size_unet_equals_pytorch(name, data, tmp_path):
    # SDXL takes 10 GiB of memory, and as much on disk.
    torch.manual_seed(0)
    model = diffusers.UNet2DConditionModel.from_config(data).eval()
    model.save_pretrained(tmp_path / "unet", max_shard_size="1GB")
    rng = np.random.default_rng(0)
    sample = rng.standard_normal((32, 32, 4), np.float32)
    width = data["cross_attention_dim"]
    condition = UNetCondition(rng.standard_normal((77, width), np.float32))
    if name == "sdxl":
        condition = condition._replace(
            pooled=rng.standard_normal(1280, np.float32),
            time_ids=np.array([256, 256, 0, 0, 256, 256], np.float32),
        )
    wanted = torch_unet(model, sample, 321.5, condition)
    del model
    gc.collect()
    unet = weights_convert.load_component(tmp_path / "unet")
    found = jax.jit(lambda unet, *args: unet(*args))(unet, sample, 321.5, condition)
    error = relative_error(found, wanted)
    print(f"{name}: largest error {error:.1e} of the RMS")
    assert error < 1e-4
