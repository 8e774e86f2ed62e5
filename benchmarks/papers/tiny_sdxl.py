"""A small SDXL with random weights, as diffusers saves it: 32x32 pixels, factor 4.

It has all of SDXL's parts (two text encoders, added conditions of size, cross
attention), and makes no pictures: tables on it show that a protocol runs on this
layout. Writing it needs torch, transformers and diffusers.
"""

import json
from pathlib import Path
from typing import Any

MAX_TOKENS = 16
WIDTHS, POOLED, SIZE_FEATURES = (8, 12), 10, 4
# What stabilityai/stable-diffusion-xl-base-1.0 publishes.
SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}


def write(folder: Path, **unet_options: Any) -> None:
    """Write the pipeline to a folder; the weights are the same every time.

    Args:
        folder: The folder.
        unet_options: Of diffusers' ``UNet2DConditionModel``, instead of the usual ones.

    Raises:
        ImportError: Without torch, transformers or diffusers.
    """
    try:
        import diffusers
        import torch
        import transformers
    except ImportError as error:
        raise ImportError(
            f"tiny-sdxl is written by torch, transformers and diffusers: {error}"
        ) from error
    torch.manual_seed(0)
    _write_tokenizers(folder)
    vocab = json.loads((folder / "tokenizer/vocab.json").read_text())
    for name, kind, width in (
        ("text_encoder", "CLIPTextModel", WIDTHS[0]),
        ("text_encoder_2", "CLIPTextModelWithProjection", WIDTHS[1]),
    ):
        config = transformers.CLIPTextConfig(
            vocab_size=len(vocab),
            hidden_size=width,
            intermediate_size=16,
            projection_dim=POOLED,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=MAX_TOKENS,
            hidden_act="quick_gelu" if name == "text_encoder" else "gelu",
            bos_token_id=vocab["<|startoftext|>"],
            eos_token_id=vocab["<|endoftext|>"],
        )
        text_encoder = getattr(transformers, kind)(config)
        with torch.no_grad():  # transformers starts so small that texts hardly count
            for parameter in text_encoder.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        text_encoder.save_pretrained(folder / name)
    diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_add_attention=False,
        sample_size=32,
        scaling_factor=0.8,
    ).save_pretrained(folder / "vae")
    unet = diffusers.UNet2DConditionModel(
        **{
            "sample_size": 8,
            "block_out_channels": (16,),
            "down_block_types": ("CrossAttnDownBlock2D",),
            "mid_block_type": None,
            "up_block_types": ("UpBlock2D",),
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "cross_attention_dim": sum(WIDTHS),
            "attention_head_dim": 2,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": SIZE_FEATURES,
            "projection_class_embeddings_input_dim": POOLED + 6 * SIZE_FEATURES,
        }
        | unet_options
    )
    with torch.no_grad():  # gentle, so that few steps have an exact inverse
        unet.conv_out.weight *= 0.5
    unet.save_pretrained(folder / "unet")
    write_json(folder / "scheduler/scheduler_config.json", SCHEDULER)
    write_index(folder)


def _write_tokenizers(folder: Path) -> None:
    """Write both tokenizers: the second pads with "!", as the published one does."""
    for name in ("tokenizer", "tokenizer_2"):
        write_tokenizer(folder / name)
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        edit(folder / "tokenizer_2" / file, pad_token="!")


def write_index(folder: Path, **entries: Any) -> None:
    """Write the file that names the parts, with entries of other values."""
    parts = {
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    index = {
        "_class_name": "StableDiffusionXLPipeline",
        "_diffusers_version": "0.19.0.dev0",
        "add_watermarker": None,
        "feature_extractor": [None, None],
        "force_zeros_for_empty_prompt": True,
        "image_encoder": [None, None],
        **parts,
    }
    write_json(folder / "model_index.json", index | entries)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file, in a folder that need not exist."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


def edit(path: Path, **values: Any) -> None:
    """Change values in a JSON file."""
    write_json(path, json.loads(path.read_text()) | values)


def write_tokenizer(folder: Path) -> None:
    """Write a CLIP tokenizer of single letters and two merges, in CLIP's format."""
    folder.mkdir(parents=True)
    letters = [chr(c) for c in range(33, 127)]
    merges = ["r e", "re d</w>"]
    tokens = letters + [f"{c}</w>" for c in letters] + ["re", "red</w>"]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_TOKENS}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | special))
