"""Loading of models: check all configurations, then read the weights.

A model is a folder in diffusers' layout: ``model_index.json`` names the parts, and each
part has its own folder (``unet``, ``vae``, ``text_encoder``, ``tokenizer``,
``scheduler``, ...). The weights are either diffusers' safetensors, converted while
reading, or an Orbax checkpoint that ``jaxinv convert`` wrote. PyTorch is not needed.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
from jax.sharding import Mesh, Sharding
from jax.typing import DTypeLike

from jaxinv.checks import checked, shown
from jaxinv.diffusion.schedule import NoiseSchedule
from jaxinv.files.json_fields import naming
from jaxinv.loading.controlnet import (
    ControlNets,
    controlnet_folders,
    load_controlnet,
)
from jaxinv.loading.find import Hub, find_model
from jaxinv.loading.folder import folder_source, model_name
from jaxinv.loading.lora import LoraFiles, changeable, merge_into
from jaxinv.loading.prompts import (
    check_prompts,
    check_prompts_lora,
    read_prompts,
)
from jaxinv.loading.single_file import single_file_source
from jaxinv.loading.source import Source, with_vae
from jaxinv.loading.textual_inversion import (
    Words,
    add_textual_inversion,
    read_additions,
)
from jaxinv.loading.tokenizers import (
    check_vocabulary,
)
from jaxinv.loading.vae import Vae, choose_vae
from jaxinv.mesh import ShardingRule
from jaxinv.models import abstract_component
from jaxinv.models.layers.attention import Implementation
from jaxinv.models.layers.remat import Remat
from jaxinv.models.options import check_attention, check_dtypes, with_options
from jaxinv.pipeline import Pipeline
from weights_convert.lora import open_lora

_PredictionType = Literal["epsilon", "sample", "v_prediction"]


@checked
def load(
    name_or_path: str | os.PathLike[str],
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    variant: str | None = None,
    subfolder: str | None = None,
    config: str | os.PathLike[str] | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    vae: Vae | None = None,
    schedule: NoiseSchedule | None = None,
    prediction_type: _PredictionType | None = None,
    lora: LoraFiles = (),
    textual_inversion: Words = (),
    controlnet: ControlNets = None,
    text_encoders: bool | Sequence[str] = True,
    prompts: str | os.PathLike[str] | None = None,
    network: bool = True,
    attention: Implementation = None,
    remat: Remat = "none",
    sharding: ShardingRule | None = None,
) -> Pipeline:
    """Load a diffusion model.

    Args:
        name_or_path: ``"emoji64"`` or ``"emoji16"`` (pixels), inside this package; a
            folder in diffusers' layout; a folder that ``jaxinv convert`` wrote; a
            safetensors file in the original layout of Stable Diffusion 1, 2 or XL; or a
            name on the Hugging Face hub such as ``"stabilityai/stable-diffusion-2-1"``,
            which is downloaded once and then read from the cache. Embedded names take
            precedence over folders and files, and these over the hub.
        dtype: Data type in which the networks compute. States, and so the solvers, stay
            in float32. Most autoencoders overflow in float16; those marked with
            ``force_upcast`` compute in float32 instead. CPUs do not compute in float16.
        param_dtype: Data type of the parameters in memory; ``dtype`` if None.
        revision: Branch, tag or commit on the hub.
        token: Token of the hub, for private or gated models; None or True for the one
            that ``hf auth login`` stores, False for none.
        cache_dir: Folder of the hub's cache; the hub's default if None.
        local_files_only: Whether to use only the hub's cache. The cache is also used,
            with a warning, if the hub does not answer.
        variant: Which weights to read if a part has several: ``"fp16"`` for
            ``*.fp16.safetensors``. Parts without it are read from the plain files.
        subfolder: Folder inside the repository or folder that holds the model.
        config: For a single file, a folder in diffusers' layout that has the
            configurations of its parts, its scheduler and its tokenizers. If None, they
            are inferred as diffusers does (:mod:`weights_convert.single_file`).
        tokenizer: For a single file, a folder or hub name with CLIP's vocabulary; if
            None, that of ``config`` or ``"openai/clip-vit-large-patch14"``.
        vae: Autoencoder to use in place of the model's own: a component, a folder, a
            safetensors file in diffusers' or the original layout, or a hub name.
        schedule: The schedule that the model was trained with, for folders whose
            scheduler does not define it. InstaFlow's is known by the class of its
            pipeline (``RectifiedFlowPipeline``) or, with a warning, by its name.
        prediction_type: What the network predicts, in place of what the scheduler's
            configuration says. A single file does not say it: Stable Diffusion 2 counts
            as ``"v_prediction"``, which is wrong for its "base" variant
            (``"epsilon"``).
        lora: LoRA files that are added to the parameters, each with its scale, such as
            ``[("style.safetensors", 0.8)]``; see :func:`jaxinv.merge_lora`.
        textual_inversion: Files of textual inversion, each with its word in prompts,
            such as ``[("cat.safetensors", "<cat>")]``; see
            :func:`jaxinv.add_textual_inversion`.
        controlnet: Folder or hub name of a ControlNet, or several, for models without
            one; see :meth:`Pipeline.with_controlnet`.
        text_encoders: Whether to load the text encoders, or the names of those to load,
            such as ``["text_encoder", "text_encoder_2"]`` for Stable Diffusion 3
            without T5. Without them, pass encoded prompts, or use ``prompts``.
        prompts: A file of :func:`jaxinv.save_prompts`, whose prompts are then known by
            their texts. It needs ``text_encoders=False``.
        network: Whether to load the network's parameters. A model without them only
            encodes prompts and images.
        attention: Implementation of attention: ``"xla"``, ``"cudnn"`` (NVIDIA GPUs, 16
            bits) or None for JAX's own choice; see
            :func:`jaxinv.models.with_options`.
        remat: What reverse-mode derivatives recompute of each block: ``"none"``
            nothing, ``"dots"`` norms and attention, ``"blocks"`` everything.
        sharding: Placement of the parameters, usually a mesh from
            :func:`jaxinv.mesh.make_mesh`, which divides each array's largest divisible
            dimension over its axis ``model``. The first local device if None.
            Checkpoints of ``jaxinv convert`` are read directly into the parts; for
            diffusers' folders, one tensor at a time is whole on the host.

    Returns:
        The model.

    Raises:
        ValueError: If the folder does not hold a model, or the model is not
            implemented, its parts do not fit each other, or its weights are damaged; or
            if an option is unknown or not available. Everything else is checked before
            the weights are read, and nothing is compiled.
        FileNotFoundError: If the model is not found; the message lists the places.

    Example:
        >>> import jaxinv as ji
        >>> pipe = ji.load("emoji64")
        >>> pipe.image_size, pipe.latent_shape
        ((64, 64), (16, 16, 4))
    """
    check_attention(attention, dtype)
    if prompts is not None and text_encoders is not False:
        raise ValueError("prompts= needs text_encoders=False, which it replaces")
    if controlnet is not None and not network:
        raise ValueError("controlnet= needs the network")
    given = os.fspath(name_or_path)
    kinds = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(param_dtype or dtype)}
    check_dtypes(**kinds, platform=_platform(sharding))
    hub: Hub = {
        "token": token,
        "cache_dir": cache_dir,
        "local_files_only": local_files_only,
    }
    place = find_model(
        name_or_path,
        revision=revision,
        variant=variant,
        subfolder=subfolder,
        text_encoders=text_encoders,
        network=network,
        **hub,
    )
    if schedule is not None and prediction_type not in (None, schedule.prediction_type):
        raise ValueError(
            f"prediction_type={prediction_type!r} does not fit the schedule, of a "
            f"network that predicts {schedule.prediction_type!r}"
        )
    instaflow = model_name(given, place) if schedule is None else ""
    if place.is_file():
        if variant is not None:
            raise ValueError(f"variant={variant!r} is for folders, unlike {place}")
        source = single_file_source(
            place, config=config, tokenizer=tokenizer, vae=vae, name=instaflow, **hub
        )
    else:
        for option, value in (("config", config), ("tokenizer", tokenizer)):
            if value is not None:
                raise ValueError(f"{option}= is for models in one file, unlike {place}")
        source = folder_source(place, variant, instaflow)
        if vae is not None:
            source = with_vae(source, choose_vae(vae, source.parts.configs, **hub))
    parts, family = source.parts, source.parts.index.family
    with naming(source.scheduler_file):
        scheduler = source.scheduler if family.scheduler is None else family.scheduler
        scheduler = family.scheduler_config(parts.index.pipeline, scheduler)
        if prediction_type is not None:
            scheduler = {**scheduler, "prediction_type": prediction_type}
        if schedule is None:
            schedule = family.schedule(scheduler)
            if prediction_type is not None and schedule.family == "flow":
                raise ValueError(
                    f"prediction_type={prediction_type!r} does not fit this model of "
                    f"{family}, whose schedule is a flow's: it predicts velocities"
                )
    all_parts = changeable(family, parts.configs) if lora else {}
    changes = open_lora(all_parts, lora)  # checked before the weights are read
    folders = controlnet_folders(controlnet, family, parts.configs, **hub)
    chosen = _chosen(source, text_encoders, network)
    tokenizers = {}
    for encoder, part in family.text_encoders.items():
        if encoder in chosen:
            tokenizers[encoder] = source.tokenizer(part)
            vocabulary = parts.configs[encoder].vocab_size
            check_vocabulary(source.place, tokenizers[encoder], vocabulary)
    if textual_inversion:
        read_additions(textual_inversion, _of(chosen, parts.configs), tokenizers)
    saved = None if prompts is None else read_prompts(prompts)
    if prompts is not None and saved is not None:
        changed = {
            low_rank.file
            for layer, terms in changes.items()
            for low_rank, _ in terms
            if layer.part in family.text_encoders
        }
        texts = [each for each in lora if Path(each[0]) in changed]
        check_prompts_lora(prompts, saved, lora, texts)
    networks = {}
    for part, of_this in _of(chosen, parts.configs).items():
        of_part, implementation = kinds, attention
        half = kinds["dtype"] == jnp.float16
        if half and getattr(of_this, "force_upcast", False):
            of_part = dict.fromkeys(kinds, jnp.dtype(jnp.float32))
        if part == "vae" and attention == "cudnn":
            implementation = None  # its single head is too large for cuDNN
        module = source.read(part, sharding=sharding, **of_part)
        networks[part] = with_options(module, attention=implementation, remat=remat)
    for part, of_this in parts.configs.items():
        if part not in networks and part not in family.text_encoders:
            networks[part] = abstract_component(of_this, **kinds)
    # Parts that are joined form a new module, which needs the options again.
    whole = family.network(networks)
    whole = with_options(whole, attention=attention, remat=remat)
    pipe = Pipeline(
        network=whole,
        vae=networks.get("vae"),
        text_encoders=tuple(networks.get(part) for part in family.text_encoders),
        tokenizers=tuple(tokenizers.get(part) for part in family.text_encoders),
        family=family,
        schedule=schedule,
        image_size=parts.image_size,
        name=model_name(given, place),
        scheduler=json.dumps(scheduler, sort_keys=True),
        pipeline=parts.index.pipeline,
        flags=frozenset(name for name, on in parts.index.flags.items() if on),
        frames=family.frames(whole),
        prompts=saved,
    )
    if prompts is not None:
        check_prompts(prompts, pipe)
    pipe = merge_into(pipe, lora, all_parts) if lora else pipe
    if textual_inversion:
        pipe = add_textual_inversion(pipe, textual_inversion)
    nets = [load_controlnet(each, sharding=sharding, **kinds) for each in folders]
    nets = [with_options(net, attention=attention, remat=remat) for net in nets]
    return pipe.with_controlnet(nets) if nets else pipe


def _chosen(
    source: Source, text_encoders: bool | Sequence[str], network: bool
) -> tuple[str, ...]:
    """Return the parts whose weights are read.

    Raises:
        ValueError: If a text encoder is named that the model does not have.
    """
    family, present = source.parts.index.family, source.parts.configs
    if not network and not family.text_encoders:
        raise ValueError(
            f"{source.place} has no text encoder, and so no prompts to encode without "
            "its network"
        )
    encoders = set(family.text_encoders)
    if not isinstance(text_encoders, bool):
        for name in text_encoders:
            if name not in encoders or name not in present:
                known = ", ".join(
                    each for each in family.text_encoders if each in present
                )
                raise ValueError(
                    f"{source.place} has no text encoder {shown(name)} (it has: "
                    f"{known or 'none'})"
                )
    wanted = encoders if text_encoders is True else set(text_encoders or ())
    return tuple(
        part
        for part in present
        if (part in wanted if part in encoders else network or part == "vae")
    )


def _of(parts: Sequence[str], configs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configurations of some parts."""
    return {part: configs[part] for part in parts}


def _platform(sharding: ShardingRule | None) -> str:
    """Return the platform that a model will run on."""
    device: Any
    if isinstance(sharding, Mesh):
        device = sharding.devices.flat[0]
        return device.platform
    if isinstance(sharding, Sharding):
        device = next(iter(sharding.device_set))
        return device.platform
    return next(iter(jnp.zeros(()).devices())).platform
