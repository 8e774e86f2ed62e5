"""Small random models as files in the original layout, with what else files hold."""

from pathlib import Path

import diffusers
import original_layout
import torch
import transformers
from conftest import write_tokenizer
from safetensors.torch import save_file
from sdxl_cases import SCHEDULER, edit, write_json

# Every channel number is a multiple of 32 groups and of the heads that a generation
# has: what the tensors do not show has the published value.
UNETS = {
    "sd1": {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "cross_attention_dim": 64,
        "sample_size": 64,
    },
    "sd2": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (64, 128),
        "layers_per_block": 1,
        "cross_attention_dim": 64,
        "attention_head_dim": (1, 2),
        "use_linear_projection": True,
        "upcast_attention": True,
        "transformer_layers_per_block": (1, 2),
        "sample_size": 96,
    },
    "sdxl": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (64, 128),
        "layers_per_block": 1,
        "cross_attention_dim": 192,
        "attention_head_dim": (1, 2),
        "use_linear_projection": True,
        "upcast_attention": None,
        "transformer_layers_per_block": (1, 2),
        "sample_size": 128,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 6 * 256 + 96,
    },
}
AUTOENCODER = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
}
TEXT = {
    "vocab_size": 192,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_attention_heads": 1,
    "max_position_embeddings": 16,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
OPEN_CLIP = TEXT | {"hidden_act": "gelu"}
# What each generation has besides: image size, scale of the latents, text encoders.
GENERATIONS = {
    "sd1": (512, 0.18215, [TEXT | {"num_hidden_layers": 2, "projection_dim": 64}]),
    "sd2": (768, 0.18215, [OPEN_CLIP | {"num_hidden_layers": 23}]),
    "sdxl": (
        1024,
        0.13025,
        [
            TEXT | {"num_hidden_layers": 2, "projection_dim": 64},
            OPEN_CLIP
            | {
                "hidden_size": 128,
                "num_attention_heads": 2,
                "num_hidden_layers": 2,
                "projection_dim": 96,
            },
        ],
    ),
}


def modules(generation):
    """A small random model of diffusers and transformers, by parts."""
    torch.manual_seed(0)
    pixels, scaling_factor, texts = GENERATIONS[generation]
    models = {
        "unet": diffusers.UNet2DConditionModel(**UNETS[generation]),
        "vae": diffusers.AutoencoderKL(
            **AUTOENCODER, sample_size=pixels, scaling_factor=scaling_factor
        ),
        "text_encoder": transformers.CLIPTextModel(
            transformers.CLIPTextConfig(**texts[0])
        ),
    }
    for text in texts[1:]:
        models["text_encoder_2"] = transformers.CLIPTextModelWithProjection(
            transformers.CLIPTextConfig(**text)
        )
    return models


PREFIXES = {
    "sd1": ("cond_stage_model.transformer.", original_layout.clip),
    "sd2": ("cond_stage_model.model.", original_layout.open_clip),
    "sdxl": ("conditioner.embedders.0.transformer.", original_layout.clip),
}


def original(models, generation):
    """The tensors of a model in the original layout."""
    prefix, write_text = PREFIXES[generation]
    parts = {
        "model.diffusion_model.": original_layout.unet(models["unet"]),
        "first_stage_model.": original_layout.autoencoder(models["vae"]),
        prefix: write_text(models["text_encoder"]),
    }
    if "text_encoder_2" in models:
        second = original_layout.open_clip(models["text_encoder_2"])
        parts["conditioner.embedders.1.model."] = second
    return {
        prefix + name: value
        for prefix, tensors in parts.items()
        for name, value in tensors.items()
    }


def extra(generation):
    """Tensors of published files that no network of a pipeline has."""
    one = torch.ones(4)
    found = {
        "alphas_cumprod": one,
        "model_ema.decay": one,
        "model_ema.diffusion_modelinput_blocks00weight": one,
        "first_stage_model.loss.logvar": one,
        "cond_stage_model.logit_scale": one,
    }
    if generation == "sd1":
        at = "cond_stage_model.transformer.text_model.embeddings.position_ids"
        return found | {at: torch.arange(16)[None]}
    if generation == "sdxl":
        scale = "conditioner.embedders.1.model.logit_scale"
        return found | {scale: one[0], "denoiser.sigmas": one}
    last = "cond_stage_model.model.transformer.resblocks.23"
    return found | {
        "cond_stage_model.model.text_projection": torch.ones(64, 64),
        f"{last}.ln_1.weight": one,
        f"{last}.attn.in_proj_weight": one,
    }


# The schedulers that are published with each generation.
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
OLD = BETAS | {
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
SCHEDULERS = {
    "sd1": OLD | {"_class_name": "PNDMScheduler"},
    "sd2": OLD | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
    "sdxl": SCHEDULER,
}


def write_folder(folder: Path, models, generation: str) -> None:
    """Saves a model as a folder of diffusers."""
    index = {"scheduler": ["diffusers", SCHEDULERS[generation]["_class_name"]]}
    for part, model in models.items():
        model.save_pretrained(folder / part)
        library = type(model).__module__.partition(".")[0]
        index[part] = [library, type(model).__name__]
        if part.startswith("text_encoder"):
            tokenizer = part.replace("text_encoder", "tokenizer")
            write_tokenizer(folder / tokenizer)
            index[tokenizer] = ["transformers", "CLIPTokenizer"]
            if model.config.hidden_act == "gelu":  # as published, OpenCLIP's have "!"
                for file in ("special_tokens_map.json", "tokenizer_config.json"):
                    edit(folder / tokenizer / file, pad_token="!")
    write_json(folder / "scheduler/scheduler_config.json", SCHEDULERS[generation])
    large = "text_encoder_2" in models
    kind = "StableDiffusionXLPipeline" if large else "StableDiffusionPipeline"
    write_json(folder / "model_index.json", {"_class_name": kind, **index})


def write_both(folder: Path, generation: str):
    """Saves a random model as a folder and as ``model.safetensors`` in it."""
    models = modules(generation)
    write_folder(folder, models, generation)
    tensors = original(models, generation) | extra(generation)
    write(folder / "model.safetensors", tensors)
    return models


def write(path, tensors):
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, path)
