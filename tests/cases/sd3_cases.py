"""A small random pipeline of Stable Diffusion 3, as diffusers saves it."""

import json
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from conftest import MAX_TOKENS, write_tokenizer
from t5_cases import write_t5_encoder, write_t5_tokenizer

# Sizes of CLIP's vectors, of their pooled vectors, and of the network's text vectors.
WIDTHS, POOLED, JOINT = (8, 12), (6, 10), 24
SIZE, CHANNELS = 8, 16  # of the latents
# A small network, and what the three published models have but for sizes.
TRANSFORMER = {
    "sample_size": SIZE,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "num_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "caption_projection_dim": 16,
    "joint_attention_dim": JOINT,
    "pooled_projection_dim": sum(POOLED),
    "pos_embed_max_size": 6,
}
PUBLISHED = {
    "sd3_medium": {},
    "sd35_medium": {"qk_norm": "rms_norm", "dual_attention_layers": [0]},
    "sd35_large": {"qk_norm": "rms_norm", "dual_attention_layers": []},
}


def randomized(model, scale=0.2):
    """Returns the model with random norms and biases, so that each of them counts."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return model.eval()


def sd3_transformer(**options) -> diffusers.SD3Transformer2DModel:
    """Returns a small random network: three blocks, two heads of eight features."""
    torch.manual_seed(0)
    return randomized(diffusers.SD3Transformer2DModel(**TRANSFORMER | options))


def write_sd3_pipeline(folder: Path, *, t5: bool = False, **options) -> None:
    """Saves a random pipeline: 16x16 pixels, factor 2, latents of 16 channels.

    Args:
        folder: The folder.
        t5: Whether it has T5's encoder.
        **options: Options of the transformer.
    """
    torch.manual_seed(0)
    for name in ("tokenizer", "tokenizer_2"):
        write_tokenizer(folder / name)
    edit = {"pad_token": "!"}  # the second pads with it, as the published one does
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / "tokenizer_2" / file
        path.write_text(json.dumps(json.loads(path.read_text()) | edit))
    tokenizers = [
        transformers.CLIPTokenizer.from_pretrained(folder / name)
        for name in ("tokenizer", "tokenizer_2")
    ]
    network = sd3_transformer(**options)
    with torch.no_grad():  # gentle, so that few steps have an exact inverse
        network.proj_out.weight *= 0.3
    encoder, tokenizer = None, None
    if t5:
        write_t5_tokenizer(folder / "tokenizer_3")
        tokenizer = transformers.T5Tokenizer.from_pretrained(folder / "tokenizer_3")
        encoder = write_t5_encoder(folder / "text_encoder_3", d_model=JOINT)
    diffusers.StableDiffusion3Pipeline(
        transformer=network,
        vae=_vae(),
        text_encoder=_clip(tokenizers[0], WIDTHS[0], POOLED[0], "quick_gelu"),
        text_encoder_2=_clip(tokenizers[1], WIDTHS[1], POOLED[1], "gelu"),
        text_encoder_3=encoder,
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        tokenizer_3=tokenizer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    ).save_pretrained(folder)


def _clip(tokenizer, width, pooled, activation):
    vocab = tokenizer.get_vocab()
    config = transformers.CLIPTextConfig(
        vocab_size=len(vocab),
        hidden_size=width,
        intermediate_size=16,
        projection_dim=pooled,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        hidden_act=activation,
        bos_token_id=vocab["<|startoftext|>"],
        eos_token_id=vocab["<|endoftext|>"],
    )
    return randomized(transformers.CLIPTextModelWithProjection(config))


def _vae():
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=CHANNELS,
        mid_block_add_attention=False,
        sample_size=2 * SIZE,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def sd3_pipeline(folder: Path) -> diffusers.StableDiffusion3Pipeline:
    """Returns the pipeline of diffusers on a folder."""
    without = json.loads((folder / "model_index.json").read_text())["text_encoder_3"]
    options = {} if without[0] else {"text_encoder_3": None, "tokenizer_3": None}
    pipe = diffusers.StableDiffusion3Pipeline.from_pretrained(folder, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run_sd3(pipe, noise: np.ndarray, **options) -> np.ndarray:
    """Returns the latent that diffusers' pipeline makes, channels last."""
    latents = torch.from_numpy(np.moveaxis(noise, -1, 0)[None].copy())
    found = pipe(**{"latents": latents, "output_type": "latent"} | options).images
    return np.moveaxis(found.numpy()[0], 0, -1)
