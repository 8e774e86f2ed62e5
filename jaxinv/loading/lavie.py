"""A model folder of LaVie's base model, made of what is published.

LaVie publishes one file of weights. Its code takes everything else from a folder of
Stable Diffusion 1.4, and replaces the noise levels.
"""

import os
import shutil
from pathlib import Path

from jaxinv.files.atomic import atomic_folder, write_json
from jaxinv.files.folders import files_below, model_root
from jaxinv.loading.convert import copy_files
from jaxinv.loading.find import find_model
from jaxinv.loading.folder import read_parts
from jaxinv.models import LaVieUNetConfig
from weights_convert.lavie import check_lavie

_COPIED = ("vae", "text_encoder", "tokenizer")
#: The scheduler of LaVie's ``sample_method: ddim`` (base/configs/sample.yaml).
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
_INDEX = {
    "_class_name": "VideoGenPipeline",
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["lavie", "UNet3DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def lavie_folder(
    weights: str | os.PathLike[str],
    stable_diffusion: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    force: bool = False,
) -> Path:
    """Write a model folder of LaVie's base model, for :func:`jaxinv.load`.

    Args:
        weights: ``lavie_base.safetensors``; ``lavie_base.pt`` is refused with the line
            that converts it.
        stable_diffusion: Folder or hub name of Stable Diffusion 1.4, whose autoencoder,
            text encoder and tokenizer are copied.
        folder: The target. It appears only when it is complete.
        force: Whether an existing target may be replaced.

    Returns:
        The folder that was written.

    Raises:
        ValueError: If the weights do not fit the model, or it is not Stable Diffusion.
        FileNotFoundError: If the model does not exist.
        FileExistsError: If the target has content and ``force`` is false.

    Example:
        ::

            lavie_folder("lavie_base.safetensors", "CompVis/stable-diffusion-v1-4",
                         "lavie")
            pipe = ji.load("lavie")
    """
    source = find_model(stable_diffusion)
    root = model_root(source)
    image = read_parts(source).configs["unet"]
    config = LaVieUNetConfig.from_image(image)
    check_lavie(weights, config)
    for part in _COPIED:  # refuse files that must not be copied, before writing
        list(files_below(source / part, root))
    with atomic_folder(folder, overwrite=force) as partial:
        for part in _COPIED:
            copy_files(source / part, partial / part, root)
        (partial / "unet").mkdir()
        (partial / "scheduler").mkdir()
        stored = partial / "unet/diffusion_pytorch_model.safetensors"
        shutil.copyfile(weights, stored)
        write_json(partial / "unet/config.json", config.to_dict(), indent=2)
        write_json(partial / "scheduler/scheduler_config.json", SCHEDULER, indent=2)
        write_json(partial / "model_index.json", _INDEX, indent=2)
    return Path(folder)
