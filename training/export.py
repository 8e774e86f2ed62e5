"""Export checkpoints as a diffusers folder in half precision.

    python -m training.export --out work --average work/average-02000.pt \
        --tokenizer jaxinv/zoo/emoji64/tokenizer --dest jaxinv/zoo/emoji64 \
        --text-gain 0.7

The averaged weights are written with diffusers' and transformers' own
``save_pretrained``, so what ships is what any diffusers user would have published. The
folder is built beside its place and moved there when it is complete.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from transformers import CLIPTokenizer

from training.cache_latents import load_autoencoder
from training.control import Ema
from training.text_gain import weaken_text
from training.train_unet import SCHEDULER_CONFIG, TextToNoise, text_config

MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
LIMIT_BYTES = 16 * 2**20


def averaged_text_to_noise(state: dict, tokenizer: CLIPTokenizer) -> TextToNoise:
    """Return the averaged UNet and text encoder of a training checkpoint."""
    model = TextToNoise(text_config(tokenizer))
    ema = Ema(model, 0.0)
    ema.load_state_dict(state["ema"])
    ema.copy_to(model)
    return model.eval().requires_grad_(False)


def write_folder(
    folder: Path, model: TextToNoise, vae: AutoencoderKL, tokenizer: Path, scale: float
) -> None:
    """Write all parts of the pipeline.

    Args:
        folder: An existing empty folder.
        model: UNet and text encoder.
        vae: The autoencoder.
        tokenizer: Folder with the tokenizer files.
        scale: The scaling factor, one over the latent std.
    """
    vae.register_to_config(scaling_factor=scale)
    parts = {"unet": model.unet, "vae": vae, "text_encoder": model.text}
    for name, part in parts.items():
        half = part.to(memory_format=torch.contiguous_format).half()
        half.save_pretrained(folder / name, safe_serialization=True)
    shutil.copytree(tokenizer, folder / "tokenizer")
    DDIMScheduler(**SCHEDULER_CONFIG).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n")
    for file in folder.rglob("*config.json"):
        # A path of the machine that trained is nobody's business.
        config = json.loads(file.read_text())
        config.pop("_name_or_path", None)
        file.write_text(json.dumps(config, indent=2) + "\n")


def replace_folder(new: Path, dest: Path) -> None:
    """Move each file into place; every file is either old or new, never half."""
    for file in sorted(new.rglob("*")):
        if file.is_file():
            target = dest / file.relative_to(new)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, target)
    shutil.rmtree(new)


def main() -> None:
    """Export the current checkpoints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="working folder")
    parser.add_argument("--average", type=Path, required=True)
    parser.add_argument("--text-gain", type=float, default=1.0)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--dest", type=Path, required=True)
    args = parser.parse_args()
    state = torch.load(args.average)
    tokenizer = CLIPTokenizer.from_pretrained(args.tokenizer)
    model = averaged_text_to_noise(state, tokenizer)
    if args.text_gain != 1.0:
        cache = torch.load(args.out / "latents.pt")
        latents = cache["mean"][:64].float() / cache["latent_std"]
        empty = torch.tensor(tokenizer("", padding="max_length").input_ids)
        alphas = DDIMScheduler(**SCHEDULER_CONFIG).alphas_cumprod
        weaken_text(model, args.text_gain, latents, empty, alphas)
    vae = load_autoencoder(args.out / "autoencoder.pt")
    args.dest.mkdir(parents=True, exist_ok=True)
    new = args.dest.with_name(args.dest.name + ".partial")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    scale = 1.0 / state["latent_std"]
    write_folder(new, model, vae, args.tokenizer, scale)
    size = sum(f.stat().st_size for f in new.rglob("*") if f.is_file())
    if size > LIMIT_BYTES:
        raise SystemExit(f"{size} bytes are over the limit of {LIMIT_BYTES}")
    replace_folder(new, args.dest)
    print(f"step {state['step']}: {size / 2**20:.2f} MiB in {args.dest}")


if __name__ == "__main__":
    main()
