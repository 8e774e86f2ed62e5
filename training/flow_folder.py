"""The parts of ``emoflow`` that come from ``emoji64``: all but network and schedule.

Stable Diffusion 3 reads the next to last hidden states of two CLIP encoders, side by
side, and their pooled vectors. The first encoder is emoji64's, whose next to last
hidden states are those of its first layer. The second one has a further layer that adds
zero, so that its next to last hidden states are those of the last layer that was
trained. Both project the pooled vector by the identity. There is no T5 encoder.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

MODEL_INDEX: dict[str, Any] = {
    "_class_name": "StableDiffusion3Pipeline",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_3": [None, None],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "tokenizer_3": [None, None],
    "transformer": ["diffusers", "SD3Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def complete_folder(flow: Path, emoji64: Path, folder: Path) -> None:
    """Write the folder of a ``StableDiffusion3Pipeline``.

    Args:
        flow: Folder of the network and the scheduler's configuration.
        emoji64: The folder of ``emoji64``.
        folder: Where it goes.
    """
    shutil.copytree(flow, folder, dirs_exist_ok=True)
    shutil.copytree(emoji64 / "vae", folder / "vae")
    config = json.loads((emoji64 / "vae/config.json").read_text())
    # Stable Diffusion 3's pipeline adds the shift, so it must be a number.
    _write_json(folder / "vae/config.json", config | {"shift_factor": 0.0})
    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree(emoji64 / "tokenizer", folder / name)
    write_text_encoders(emoji64, folder)
    _write_json(folder / "model_index.json", MODEL_INDEX)


def write_text_encoders(emoji64: Path, folder: Path) -> None:
    """Write ``text_encoder`` and ``text_encoder_2``, each into a folder of its own."""
    tensors = load_file(emoji64 / "text_encoder/model.safetensors")
    config = json.loads((emoji64 / "text_encoder/config.json").read_text())
    config["architectures"] = ["CLIPTextModelWithProjection"]
    layers, width = config["num_hidden_layers"], config["hidden_size"]
    tensors["text_projection.weight"] = np.eye(width, dtype=np.float16)
    last, added = f"encoder.layers.{layers - 1}.", f"encoder.layers.{layers}."
    zeros = {
        name.replace(last, added): np.zeros_like(value)
        for name, value in tensors.items()
        if name.startswith(last)
    }
    _write_encoder(folder / "text_encoder", tensors, config)
    config = config | {"num_hidden_layers": layers + 1}
    _write_encoder(folder / "text_encoder_2", tensors | zeros, config)


def _write_encoder(
    folder: Path, tensors: dict[str, np.ndarray], config: dict[str, Any]
) -> None:
    """Write one encoder, whose tensors have the prefix of the class."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {
        name if name.startswith("text_projection") else f"text_model.{name}": value
        for name, value in tensors.items()
    }
    save_file(named, folder / "model.safetensors", {"format": "pt"})
    _write_json(folder / "config.json", config)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
