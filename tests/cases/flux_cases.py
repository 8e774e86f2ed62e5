"""Small random FLUX transformers and pipelines of diffusers, and what they return."""

from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from conftest import MAX_TOKENS, write_tokenizer
from t5_cases import T5_OPTIONS, write_t5_encoder, write_t5_tokenizer

#: As small as can be, with every kind of block twice.
TINY = {
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 6,
    "pooled_projection_dim": 5,
    "guidance_embeds": True,
    "axes_dims_rope": [2, 2, 4],
}


def flux_transformer(config, seed=0):
    """Returns a random transformer in which no parameter is 0 or 1."""
    torch.manual_seed(seed)
    model = diffusers.FluxTransformer2DModel(**config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if parameter.ndim == 1 and name.endswith("weight"):
                parameter.copy_(1 + 0.3 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.2 * noise)
    return model.eval()


def packed(x):
    """One channels-last latent as diffusers' tokens, a batch of one."""
    h, w, c = x.shape
    latent = torch.from_numpy(np.moveaxis(np.asarray(x), -1, 0)[None].copy())
    return diffusers.FluxPipeline._pack_latents(latent, 1, c, h, w)


def unpacked(x, shape):
    """Diffusers' tokens as one channels-last latent of height and width ``shape``."""
    latent = diffusers.FluxPipeline._unpack_latents(x, *shape, vae_scale_factor=1)
    return np.moveaxis(latent.detach().numpy()[0], 0, -1)


def run_flux_transformer(model, sample, timestep, text, pooled, guidance):
    """What diffusers' transformer makes of one channels-last sample."""
    h, w, _ = sample.shape
    ids = diffusers.FluxPipeline._prepare_latent_image_ids(
        1, h // 2, w // 2, torch.device("cpu"), torch.float32
    )
    with torch.no_grad():
        out = model(
            hidden_states=packed(sample),
            timestep=torch.tensor([timestep / 1000], dtype=torch.float32),
            encoder_hidden_states=torch.from_numpy(text)[None],
            pooled_projections=torch.from_numpy(pooled)[None],
            guidance=None if guidance is None else torch.tensor([guidance]),
            img_ids=ids,
            txt_ids=torch.zeros(len(text), 3),
        ).sample
    return unpacked(out, (h, w))


# --- pipelines ----------------------------------------------------------------------

POOLED, CHANNELS, FACTOR = 8, 16, 2
#: The schedulers that FLUX.1-dev and FLUX.1-schnell publish.
SCHEDULERS = {
    True: {
        "base_image_seq_len": 256,
        "base_shift": 0.5,
        "max_image_seq_len": 4096,
        "max_shift": 1.15,
        "num_train_timesteps": 1000,
        "shift": 3.0,
        "use_dynamic_shifting": True,
    },
    False: {"num_train_timesteps": 1000, "shift": 1.0},
}


def write_flux_pipeline(folder: Path, dev: bool = True, **options) -> None:
    """Saves a random pipeline whose latents have 16 channels and half the size."""
    write_tokenizer(folder / "tokenizer")
    write_t5_tokenizer(folder / "tokenizer_2")
    t5 = write_t5_encoder(folder / "text_encoder_2")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer")
    network = flux_transformer(
        TINY
        | {
            "in_channels": 4 * CHANNELS,
            "joint_attention_dim": T5_OPTIONS["d_model"],
            "pooled_projection_dim": POOLED,
            "guidance_embeds": dev,
        }
        | options
    )
    with torch.no_grad():  # gentle, so that few steps have an exact inverse
        network.proj_out.weight *= 0.3
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=CHANNELS,
        mid_block_add_attention=False,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    diffusers.FluxPipeline(
        transformer=network,
        vae=vae,
        text_encoder=_clip(tokenizer),
        text_encoder_2=t5,
        tokenizer=tokenizer,
        tokenizer_2=transformers.T5TokenizerFast.from_pretrained(
            folder / "tokenizer_2"
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**SCHEDULERS[dev]),
    ).save_pretrained(folder)


def _clip(tokenizer):
    vocab = tokenizer.get_vocab()
    model = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=len(vocab),
            hidden_size=POOLED,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=vocab["<|startoftext|>"],
            eos_token_id=vocab["<|endoftext|>"],
        )
    )
    with torch.no_grad():  # transformers starts so small that texts hardly count
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def flux_pipeline(folder: Path) -> diffusers.FluxPipeline:
    """The pipeline of diffusers on a folder."""
    pipe = diffusers.FluxPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run_flux(pipe, noise: np.ndarray, **options) -> np.ndarray:
    """The latent that diffusers' pipeline makes, channels last."""
    height, width = (FACTOR * n for n in noise.shape[:2])
    found = pipe(
        latents=packed(noise), height=height, width=width, output_type="latent",
        **options,
    ).images  # fmt: skip
    return unpacked(found, noise.shape[:2])
