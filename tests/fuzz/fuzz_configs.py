"""Readers of configurations: networks, schedulers, ``model_index.json``."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_harness import Reader

import jaxinv as ji
from jaxinv.diffusion.diffusers_config import DEFAULTS
from jaxinv.models import (
    AutoencoderKLConfig,
    AutoencoderTinyConfig,
    CLIPTextConfig,
    ControlNetConfig,
    UNet2DConditionConfig,
)
from jaxinv.models.registry import abstract_component, component_config
from jaxinv.pipeline.families import read_index
from weights_convert.reader import read_config, read_json

PUBLISHED = Path(__file__).parents[3] / "shared" / "published_schedulers.json"
_SUPPORTED = ("DDIM", "DPMSolverMultistep", "DEISMultistep", "UniPCMultistep")

#: A small one of each kind, with options in the forms that published ones have.
CONFIGS: dict[str, Any] = {
    "UNet": UNet2DConditionConfig(
        sample_size=(8, 8),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=(1, 1),
        norm_num_groups=4,
        cross_attention_dim=(8, 8),
        attention_head_dim=(2, 4),
        transformer_layers_per_block=((1,), 1),
        reverse_transformer_layers_per_block=(1, (1, 1)),
        only_cross_attention=(False, False),
        time_embedding_dim=16,
    ),
    "UNet of SDXL": UNet2DConditionConfig(
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2D",
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=2,
        transformer_layers_per_block=(0, (2,)),
        reverse_transformer_layers_per_block=((1, 2), 1),
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=30,
        time_cond_proj_dim=8,
        upcast_attention=None,
    ),
    "ControlNet": ControlNetConfig(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 1),
        only_cross_attention=(False, False),
        conditioning_embedding_out_channels=(2, 3),
    ),
    "autoencoder": AutoencoderKLConfig(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        sample_size=(16, 16),
        shift_factor=0.1,
        latents_mean=(0.0,) * 4,
        latents_std=(1.0,) * 4,
    ),
    "tiny autoencoder": AutoencoderTinyConfig(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        block_out_channels=(8, 8),
    ),
    "text encoder": CLIPTextConfig(
        vocab_size=32,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
    ),
}


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _survives_writing(folder: Path, config: Any) -> None:
    """What was read can be a key of a cache, and is read again from what it writes."""
    hash(config)
    again = component_config(json.loads(json.dumps(config.to_dict())))
    assert again.to_dict() == config.to_dict()


def _config_reader(kind: str, *, build: bool) -> Reader:
    def read(folder: Path) -> Any:
        config = read_config(folder)
        if build:
            abstract_component(config)
        return config

    return Reader(
        name=f"{kind}: {'model of a ' if build else ''}config.json",
        make=lambda folder: write_json(folder / "config.json", CONFIGS[kind].to_dict()),
        damages={
            "config.json": ("near", "near", "json")
            if build
            else ("near", "json", "json", "bytes", "kind")
        },
        read=read,
        holds=_survives_writing,
        slow=build,
    )


# --- schedulers ---------------------------------------------------------------------

_STEPS = 6


def scheduler(kind: str) -> dict[str, Any]:
    """Every option of a class, with values that are supported together."""
    config = {"_class_name": kind, **DEFAULTS[kind], "_use_default_values": ["shift"]}
    config |= {
        key: value
        for key, value in {
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "clip_sample": False,
            "disable_corrector": list(range(_STEPS)),
            "steps_offset": 1,
        }.items()
        if key in config
    }
    return config


def read_scheduler(path: Path) -> Any:
    """Read a schedule, and the table of a class that has one."""
    schedule = ji.schedule_from_diffusers(path)
    options = json.loads(path.read_text())
    name = str(options.get("_class_name")).removesuffix("Scheduler")
    if name in (*_SUPPORTED, "FlowMatchEulerDiscrete"):
        return schedule, ji.sampler_from_diffusers(path, _STEPS)
    return schedule, None


def _finite(folder: Path, found: Any) -> None:
    pairs = found if isinstance(found, list) else [found]
    for schedule, table in pairs:
        assert np.all(np.isfinite(schedule.taus))
        if table is not None:
            assert np.all(np.isfinite(table.a))
            assert np.all(np.isfinite(table.b))


def _scheduler_reader(name: str, changes: dict[str, Any]) -> Reader:
    kind = f"{name}Scheduler"
    config = scheduler(kind) | changes
    return Reader(
        name=f"scheduler {name}{''.join(f', {key}' for key in changes)}",
        make=lambda folder: write_json(folder / "scheduler_config.json", config),
        damages={
            "scheduler_config.json": ("near", "json", "json", "json", "bytes", "kind")
        },
        read=lambda folder: read_scheduler(folder / "scheduler_config.json"),
        holds=_finite,
        follows_links=True,
    )


def _write_published(folder: Path) -> None:
    for number, config in enumerate(json.loads(PUBLISHED.read_text()).values()):
        config = {key: float("-inf") if value == "-inf" else value
                  for key, value in config.items()}  # fmt: skip
        write_json(folder / f"{number}.json", config)


def _read_supported(folder: Path) -> list[Any]:
    """Read those that can be read as they were published, and the one that is damaged.

    Some published schedulers are refused, in their own words: these do not count.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        published = (path.name, path.read_bytes()) in _refused(folder)
        if not published:
            found.append(read_scheduler(path))
    return found


_REFUSED: set[tuple[str, bytes]] = set()


def _refused(folder: Path) -> set[tuple[str, bytes]]:
    """The published schedulers that are not supported, by name and content."""
    if not _REFUSED:
        _REFUSED.add(("", b""))
        for path in _template_files(folder):
            try:
                read_scheduler(path)
            except ValueError:
                _REFUSED.add((path.name, path.read_bytes()))
    return _REFUSED


def _template_files(folder: Path) -> list[Path]:
    return sorted((folder.parent / "template").glob("*.json"))


# --- model_index.json ---------------------------------------------------------------

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.0",
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def _read_index(folder: Path) -> Any:
    index = read_json(folder / "model_index.json")
    read_index(folder / "model_index.json", index)
    return index


SCHEDULERS: dict[str, dict[str, Any]] = {
    "DDIM": {},
    "DPMSolverMultistep": {"use_karras_sigmas": True},
    "DEISMultistep": {"trained_betas": list(np.linspace(1e-4, 0.02, 1000))},
    "UniPCMultistep": {"prediction_type": "v_prediction"},
    "FlowMatchEulerDiscrete": {"shift_terminal": 0.02},
    "PNDM": {},
}
READERS: list[Reader] = [
    *(_config_reader(kind, build=False) for kind in CONFIGS),
    *(_scheduler_reader(name, changes) for name, changes in SCHEDULERS.items()),
    Reader(
        name="model_index.json",
        make=lambda folder: write_json(folder / "model_index.json", INDEX),
        damages={"model_index.json": ("json", "json", "bytes", "kind")},
        read=_read_index,
    ),
    *(_config_reader(kind, build=True) for kind in CONFIGS),
]
if PUBLISHED.exists():
    READERS.append(
        Reader(
            name="published schedulers",
            make=_write_published,
            damages={
                f"{number}.json": ("near", "json", "json", "bytes")
                for number in range(len(json.loads(PUBLISHED.read_text())))
            },
            read=_read_supported,
            holds=_finite,
            follows_links=True,
            slow=True,
        )
    )
