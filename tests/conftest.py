"""What several test files share: a model folder as diffusers writes it, and pipelines.

The folder is made by torch and diffusers themselves, with random weights: everything
that reads it is tested against the real layout, and the real models' outputs.
"""

import json
from pathlib import Path

import pytest

MAX_TOKENS = 16

# Linux gives a process 65,530 memory maps; XLA takes several for each program that it
# compiles for the CPU, and the process dies where there are none left. A test run
# compiles thousands.
MANY_MAPS = 30_000


@pytest.fixture(autouse=True)
def few_memory_maps():
    """Forgets the compiled programs once there are many."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MANY_MAPS:
        import jax

        jax.clear_caches()


@pytest.fixture(scope="module")
def one_thread():
    """One of PyTorch's: threads that wait for one another are slow on shared cores."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def diffusers_folder(tmp_path_factory) -> Path:
    """A Stable-Diffusion-like pipeline of random weights, 32x32 pixels, factor 4."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_random_pipeline(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(diffusers_folder):
    """The random pipeline, loaded by this library."""
    import jaxinv

    return jaxinv.load(diffusers_folder)


@pytest.fixture(scope="session")
def emoji64():
    """The embedded model."""
    import jaxinv

    return jaxinv.load("emoji64")


def write_random_pipeline(folder: Path, *, seed: int = 0) -> None:
    """Saves a small random text-to-image pipeline with diffusers' own classes."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    write_tokenizer(folder / "tokenizer")
    vocab = json.loads((folder / "tokenizer/vocab.json").read_text())
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocab),
            hidden_size=16,
            intermediate_size=32,
            projection_dim=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=MAX_TOKENS,
            hidden_act="quick_gelu",
            bos_token_id=vocab["<|startoftext|>"],
            eos_token_id=vocab["<|endoftext|>"],
            pad_token_id=vocab["<|endoftext|>"],
        )
    ).save_pretrained(folder / "text_encoder")
    AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        mid_block_add_attention=False,
        sample_size=32,
        scaling_factor=0.8,
        shift_factor=0.1,
    ).save_pretrained(folder / "vae")
    UNet2DConditionModel(
        sample_size=8,
        # As few layers as there can be: what is compiled many times over is this.
        block_out_channels=(16,),
        down_block_types=("CrossAttnDownBlock2D",),
        mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=16,
        attention_head_dim=2,
    ).save_pretrained(folder / "unet")
    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    ).save_pretrained(folder / "scheduler")
    write_model_index(folder)


def write_model_index(folder: Path) -> None:
    """Writes the file that names a pipeline's parts."""
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.36.0",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))


def write_tokenizer(folder: Path) -> None:
    """Writes a CLIP tokenizer of single letters and two merges, in CLIP's format."""
    folder.mkdir(parents=True)
    letters = [chr(c) for c in range(33, 127)]
    merges = ["r e", "re d</w>"]
    tokens = letters + [f"{c}</w>" for c in letters] + ["re", "red</w>"]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_TOKENS}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | special))
