"""Small random PyTorch models, saved by diffusers and transformers themselves."""

import zlib
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers

UNETS = {
    # SD 1: convolutional projections, one head count for all blocks.
    "sd1": {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (32, 64),
        "layers_per_block": 2,
        "norm_num_groups": 8,
        "cross_attention_dim": 24,
        "attention_head_dim": 4,
    },
    # SD 2: dense projections, head counts per block, attention in float32.
    "sd2": {
        "down_block_types": ("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2,
        "block_out_channels": (16, 32, 64),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "cross_attention_dim": 24,
        "attention_head_dim": (2, 4, 8),
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    # Everything else that a configuration can ask for.
    "options": {
        "in_channels": 3,
        "out_channels": 5,
        "center_input_sample": True,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "only_cross_attention": (False, True),
        "block_out_channels": (24, 48),
        "layers_per_block": (1, 2),
        "downsample_padding": 0,
        "mid_block_scale_factor": 1.5,
        "act_fn": "mish",
        "norm_num_groups": 6,
        "norm_eps": 1e-3,
        "cross_attention_dim": (20, 12),
        "transformer_layers_per_block": (1, (1, 2)),
        "reverse_transformer_layers_per_block": ((1, 2, 1), 1),
        "attention_head_dim": (3, 6),
        "resnet_time_scale_shift": "scale_shift",
        "time_embedding_dim": 40,
        "conv_in_kernel": 5,
        "conv_out_kernel": 1,
    },
    # An unconditional-looking mid block, and none at all.
    "plain_mid": {
        "mid_block_type": "UNetMidBlock2D",
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("CrossAttnUpBlock2D",),
        "block_out_channels": (16,),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": 8,
        "attention_head_dim": 2,
    },
    "no_mid": {
        "mid_block_type": None,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (16, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": 8,
        "attention_head_dim": 2,
    },
    # SDXL: no attention at full size, several depths, pooled text and sizes.
    "sdxl": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": 24,
        "attention_head_dim": (2, 4),
        "transformer_layers_per_block": (1, 2),
        "use_linear_projection": True,
        "upcast_attention": None,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 6,
        "projection_class_embeddings_input_dim": 6 * 6 + 10,
    },
    # SSD-1B: as many transformer blocks as each layer needs, none in the middle. And
    # the guidance scale as an input, of models distilled with one (LCM).
    "ssd1b": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "mid_block_type": "UNetMidBlock2D",
        "block_out_channels": (8, 16),
        "layers_per_block": (1, 2),
        "norm_num_groups": 4,
        "cross_attention_dim": 24,
        "attention_head_dim": (2, 4),
        "transformer_layers_per_block": (0, (1, 2)),
        "reverse_transformer_layers_per_block": ((1, 0, 2), 1),
        "use_linear_projection": True,
        "act_fn": "mish",
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 6,
        "projection_class_embeddings_input_dim": 6 * 6 + 10,
        "time_cond_proj_dim": 14,
    },
}

AUTOENCODERS = {
    "sd1": {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": (16, 32, 32),
        "layers_per_block": 2,
        "norm_num_groups": 8,
    },
    # SD 3 and FLUX: 16 channels, no convolutions around the latent, a shift.
    "channels16": {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "latent_channels": 16,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    "no_attention": {
        "down_block_types": ("DownEncoderBlock2D",),
        "up_block_types": ("UpDecoderBlock2D",),
        "block_out_channels": (16,),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "mid_block_add_attention": False,
    },
}

_CLIP = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
    "bos_token_id": 97,
}
TEXT_ENCODERS = {
    "quick_gelu": _CLIP | {"hidden_act": "quick_gelu", "eos_token_id": 98},
    "gelu": _CLIP | {"hidden_act": "gelu", "eos_token_id": 98},
    "legacy_eos": _CLIP | {"hidden_act": "quick_gelu", "eos_token_id": 2},
    # Names that end with "projection" are models with one.
    "projection": _CLIP
    | {"hidden_act": "gelu", "eos_token_id": 98, "projection_dim": 12},
    "legacy_projection": _CLIP
    | {"hidden_act": "gelu", "eos_token_id": 2, "projection_dim": 12},
}

CASES = (
    *(("unet", name) for name in UNETS),
    *(("vae", name) for name in AUTOENCODERS),
    *(("text_encoder", name) for name in TEXT_ENCODERS),
)


def build(kind: str, name: str) -> torch.nn.Module:
    """Returns a random PyTorch model in which no parameter is 0 or 1."""
    torch.manual_seed(zlib.crc32(f"{kind}/{name}".encode()))
    if kind == "unet":
        model = diffusers.UNet2DConditionModel(**UNETS[name])
    elif kind == "vae":
        model = diffusers.AutoencoderKL(**AUTOENCODERS[name])
    else:
        config = transformers.CLIPTextConfig(**TEXT_ENCODERS[name])
        with_projection = name.endswith("projection")
        kind_of = "CLIPTextModel" + ("WithProjection" if with_projection else "")
        model = getattr(transformers, kind_of)(config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            # Initial norms are the identity and initial biases vanish: a test with them
            # would not see a scale or bias that is dropped or swapped.
            if "norm" in key and key.endswith("weight"):
                parameter.copy_(1 + 0.3 * noise)
            elif key.endswith("bias"):
                parameter.copy_(0.2 * noise)
            elif kind == "text_encoder":
                # transformers starts so small that attention is uniform.
                parameter.copy_(parameter + 0.15 * noise)
    return model.eval()


def save(kind: str, name: str, folder: Path) -> torch.nn.Module:
    """Builds a model and saves it with the library's own save_pretrained."""
    model = build(kind, name)
    model.save_pretrained(folder)
    return model


def relative_error(found, wanted) -> float:
    """Returns the largest error over the root mean square of the wanted values."""
    found = np.asarray(found, np.float64)
    wanted = np.asarray(wanted, np.float64)
    assert found.shape == wanted.shape
    assert np.isfinite(found).all()
    return np.abs(found - wanted).max() / np.sqrt(np.mean(wanted**2))


def to_torch(x) -> torch.Tensor:
    """One channels-last sample to a channels-first batch of one."""
    return torch.from_numpy(np.moveaxis(np.asarray(x), -1, 0)[None].copy())


def from_torch(x: torch.Tensor) -> np.ndarray:
    """A channels-first batch of one to one channels-last sample."""
    return np.moveaxis(x.detach().numpy()[0], 0, -1)


def torch_unet(model, sample, timestep, condition):
    """Runs PyTorch's UNet on one channels-last sample."""
    options = {}
    if condition.pooled is not None:
        options["added_cond_kwargs"] = {
            "text_embeds": torch.from_numpy(condition.pooled)[None],
            "time_ids": torch.from_numpy(condition.time_ids)[None],
        }
    if condition.guidance is not None:
        options["timestep_cond"] = guidance_vector(
            torch.tensor([condition.guidance - 1]), model.config.time_cond_proj_dim
        )
    with torch.no_grad():
        timestep = torch.tensor(timestep, dtype=torch.float32)
        text = torch.from_numpy(condition.text)[None]
        out = model(to_torch(sample), timestep, text, **options)
    return from_torch(out.sample)


def guidance_vector(scale, size):
    """Embeds a guidance scale less 1 as diffusers' pipelines do."""
    pipeline = diffusers.StableDiffusionXLPipeline
    return pipeline.get_guidance_scale_embedding(None, scale, embedding_dim=size)
