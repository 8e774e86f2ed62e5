"""A small random Wan, as diffusers saves it."""

import diffusers
import numpy as np
import torch
import transformers
from t5_cases import T5_OPTIONS, write_t5_encoder, write_t5_tokenizer
from video_cases import randomized

CHANNELS = 4
VAE = {
    "base_dim": 8,
    "z_dim": CHANNELS,
    "dim_mult": [1, 2, 2, 2],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
    "latents_mean": [0.1, -0.2, 0.3, 0.0],
    "latents_std": [1.5, 0.5, 2.0, 1.0],
}
#: The published configuration's options, as small as can be.
TRANSFORMER = {
    "added_kv_proj_dim": None,
    "attention_head_dim": 12,
    "cross_attn_norm": True,
    "eps": 1e-06,
    "ffn_dim": 20,
    "freq_dim": 16,
    "image_dim": None,
    "in_channels": CHANNELS,
    "num_attention_heads": 2,
    "num_layers": 2,
    "out_channels": CHANNELS,
    "patch_size": [1, 2, 2],
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 1024,
    "text_dim": T5_OPTIONS["d_model"],
}
#: Those of scheduler_config.json of Wan 2.1 that are not defaults.
SCHEDULER = {
    "flow_shift": 3.0,
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
}


def wan_vae():
    """A random autoencoder whose decoder stays within the limits of pixels."""
    vae = randomized(diffusers.AutoencoderKLWan(**VAE, decoder_base_dim=12))
    with torch.no_grad():
        vae.decoder.conv_out.weight *= 0.2
    return vae


def write_wan_pipeline(folder, scheduler=None):
    """Saves a random model, and returns it."""
    write_t5_tokenizer(folder / "tokenizer")
    encoder = write_t5_encoder(folder / "text_encoder", kind="UMT5")
    network = randomized(diffusers.WanTransformer3DModel(**TRANSFORMER))
    with torch.no_grad():  # gentle, so that few steps have an exact inverse
        network.proj_out.weight *= 0.3
    pipe = diffusers.WanPipeline(
        transformer=network,
        vae=wan_vae(),
        text_encoder=encoder,
        tokenizer=transformers.T5Tokenizer.from_pretrained(folder / "tokenizer"),
        scheduler=scheduler or diffusers.UniPCMultistepScheduler(**SCHEDULER),
    )
    pipe.save_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def to_torch(video):
    """One channels-last video as a batch of PyTorch."""
    return torch.from_numpy(np.moveaxis(np.array(video), -1, 0)[None])


def from_torch(video):
    """Undo :func:`to_torch`."""
    return np.moveaxis(video.detach().numpy()[0], 0, -1)
