"""Metrics of pretrained networks, from local folders: LPIPS, CLIP, DINO.

Nothing is downloaded. Each function reads a folder and returns measures of an entry and
an edited picture.

* LPIPS: package ``lpips`` with SqueezeNet, as published. The folder holds torchvision's
  state of ``squeezenet1_1`` as ``squeezenet1_1.pth``; the package brings its own linear
  weights.
* CLIP: a folder of transformers' ``CLIPModel`` with its processor; as published, of
  ``openai/clip-vit-large-patch14``. 100 times the cosine, at least 0.
* DINO: a folder of transformers' ``ViTModel``; as published, ``facebook/dino-vitb8``.
  The mean squared difference of the cosine similarities between the keys of all
  patches in the last layer. As in the published evaluator, pixels in 0 to 255 are
  normalized with ImageNet's mean and deviation, which are those of pixels in [0, 1].
  Pictures that are not square are squeezed; the published code scales the shorter side.

References:
    Zhang et al. 2018, arXiv:1801.03924; Radford et al. 2021, arXiv:2103.00020; Tumanyan
    et al. 2022, arXiv:2201.00424 (structure distance); the repository of Ju et al.
    2023, ``evaluation/matrics_calculator.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.pie.layout import Entry
from benchmarks.pie.metrics import Measure, kept_part

#: Arguments of the command that give folders.
FOLDERS = ("lpips", "clip", "dino")
SQUEEZENET = "squeezenet1_1.pth"
#: ImageNet's mean and standard deviation of pixels in [0, 1].
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Side of the pictures that DINO sees.
DINO_SIDE = 224


def measures(
    lpips: Path | None, clip: Path | None, dino: Path | None
) -> dict[str, Measure]:
    """Return the metrics whose folders are given.

    Args:
        lpips: Folder for LPIPS, or None.
        clip: Folder for CLIP, or None.
        dino: Folder for DINO, or None.

    Raises:
        ValueError: If a folder is not what is expected.
    """
    found = dict[str, Measure]()
    if lpips is not None:
        found["lpips"] = _lpips(lpips)
    if clip is not None:
        found |= _clip(clip)
    if dino is not None:
        found["structure"] = _structure(dino)
    return found


def _lpips(folder: Path) -> Measure:
    file = folder / SQUEEZENET
    if not file.is_file():
        raise ValueError(f"--lpips: expected torchvision's weights as {file}")
    import lpips
    import torchvision

    model = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
    whole = torchvision.models.squeezenet1_1(weights=None)
    whole.load_state_dict(torch.load(file, weights_only=True))
    # The package's slices are consecutive layers of the network.
    layers = dict(whole.features.named_children())
    for part in (p for name, p in model.net.named_children() if "slice" in name):
        for name, layer in part.named_children():
            layer.load_state_dict(layers[name].state_dict())
    model.eval()

    @torch.no_grad()
    def distance(picture: Any, edited: Any) -> Any:
        return model(edited * 2 - 1, picture * 2 - 1)

    return kept_part(distance)


def _clip(folder: Path) -> dict[str, Measure]:
    from transformers import CLIPModel, CLIPProcessor

    try:
        model = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
        processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)
    except OSError as error:
        raise ValueError(f"--clip: expected a folder of CLIPModel: {error}") from None

    @torch.no_grad()
    def similarity(pixels: np.ndarray, prompt: str) -> float:
        inputs = processor(
            text=[prompt],
            images=[torch.from_numpy(pixels.copy()).permute(2, 0, 1)],
            return_tensors="pt",
            padding=True,
            truncation=True,
        )
        found = model(**inputs)
        return max(100 * float(found.image_embeds[0] @ found.text_embeds[0]), 0.0)

    def edited_region(entry: Entry, edited: np.ndarray) -> float | None:
        if not entry.mask.any():
            return None
        return similarity(edited * np.uint8(entry.mask)[..., None], entry.target)

    return {
        "clip_whole": lambda entry, edited: similarity(edited, entry.target),
        "clip_edited": edited_region,
    }


def _structure(folder: Path) -> Measure:
    from transformers import ViTModel

    try:
        model = ViTModel.from_pretrained(
            folder, local_files_only=True, add_pooling_layer=False
        ).eval()
    except OSError as error:
        raise ValueError(f"--dino: expected a folder of ViTModel: {error}") from None
    keys: list[Any] = []
    model.layers[-1].attention.k_proj.register_forward_hook(
        lambda module, inputs, output: keys.append(output[0])
    )
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (MEAN, STD))

    @torch.no_grad()
    def similarities(pixels: np.ndarray) -> Any:
        values = torch.from_numpy(np.float32(pixels)).permute(2, 0, 1)[None]
        seen = functional.interpolate(
            values, (DINO_SIDE, DINO_SIDE), mode="bilinear", antialias=True
        )
        keys.clear()
        model((seen - mean) / std)
        norms = keys[0].norm(dim=1, keepdim=True)
        return keys[0] @ keys[0].T / torch.clamp(norms @ norms.T, min=1e-8)

    def distance(entry: Entry, edited: np.ndarray) -> float:
        pair = (similarities(pixels) for pixels in (entry.image, edited))
        return float(functional.mse_loss(*pair))

    return distance
