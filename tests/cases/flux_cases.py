"""Small random FLUX transformers of diffusers, and what they return."""

import diffusers
import numpy as np
import torch

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
