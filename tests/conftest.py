"""What test files share: programs, a model folder as diffusers writes it, pipelines.

The folder is made by torch and diffusers themselves, with random weights: everything
that reads it is tested against the real layout, and the real models' outputs.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
from programs import Compiler, Programs, forget_folder, share_programs

from benchmarks.papers.tiny_sdxl import MAX_TOKENS, write_tokenizer

# For PyTorch, before it is imported: threads that wait for one another at every small
# operator are slow on shared cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# --- compiled programs (cases/programs.py) ------------------------------------------

REPORTS = pytest.StashKey[list[dict[str, float]]]()
MADE_FOLDER = pytest.StashKey[str]()
PROGRAMS = pytest.StashKey[Programs]()


def pytest_configure(config):
    config.stash[REPORTS] = []
    folder = share_programs()
    if folder is not None:
        config.stash[MADE_FOLDER] = folder
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        config.stash[PROGRAMS] = Programs()
        config.pluginmanager.register(config.stash[PROGRAMS])
        config.pluginmanager.register(Compiler())


def pytest_unconfigure(config):
    folder = config.stash.get(MADE_FOLDER, None)
    if folder is not None:
        forget_folder(folder)


def pytest_sessionfinish(session):
    programs = session.config.stash.get(PROGRAMS, None)
    if programs is None:
        return
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["programs"] = programs.report()
    else:
        session.config.stash[REPORTS].append(programs.report())


# Long tests, by the beginnings of their names. Whoever is idle takes what others have
# queued last: with the longest first, all workers end together.
LONGEST = (
    "tests/test_readme.py::test_readme_python",
    "tests/benchmarks/test_editing_benchmark.py",
    "tests/scale/jobs/test_engine.py",
    "tests/benchmarks/test_scale",
    "tests/benchmarks/test_exactness.py",
    "tests/test_cli.py::test_demo",
    "tests/benchmarks/test_accelerator.py",
)


def pytest_collection_modifyitems(items):
    def place(item):
        # Those of the users' compiler together: programs are dropped between the two.
        users = item.get_closest_marker("users_compiler") is not None
        return not item.nodeid.startswith(LONGEST), users

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    report = getattr(node, "workeroutput", {}).get("programs")
    if report is not None:
        node.config.stash[REPORTS].append(report)


def pytest_terminal_summary(terminalreporter, config):
    reports = config.stash[REPORTS]
    if reports:
        total = {key: round(sum(r[key] for r in reports)) for key in reports[0]}
        text = ", ".join(f"{value} {key}" for key, value in total.items())
        terminalreporter.write_line(f"XLA programs: {text}")


# --- precision ----------------------------------------------------------------------
# Double precision is a property of one test, never of the session.


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Runs a test in both precisions of the states."""
    import jax

    with jax.enable_x64(request.param == "float64"):
        yield jax.numpy.dtype(request.param)


@pytest.fixture
def float64():
    """Runs a test in double precision."""
    import jax

    with jax.enable_x64(True):
        yield jax.numpy.dtype("float64")


# --- what tests share ---------------------------------------------------------------


@pytest.fixture(scope="session")
def diffusers_folder(tmp_path_factory) -> Path:
    """A Stable-Diffusion-like pipeline of random weights, 32x32 pixels, factor 4."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_random_pipeline(folder)
    return folder


@pytest.fixture(scope="session")
def instaflow_folder(diffusers_folder, tmp_path_factory) -> Path:
    """The random pipeline, as one of InstaFlow by its class."""
    folder = tmp_path_factory.mktemp("flows") / "fast"
    shutil.copytree(diffusers_folder, folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] = "RectifiedFlowPipeline"
    (folder / "model_index.json").write_text(json.dumps(index))
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
    unet = UNet2DConditionModel(
        sample_size=8,
        # As few layers as there can be: what is compiled many times over is this.
        block_out_channels=(16,),
        down_block_types=("CrossAttnDownBlock2D",),
        mid_block_type=None,
        up_block_types=("UpBlock2D",),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=16,
        attention_head_dim=2,
    )
    with torch.no_grad():  # gentle, so that few steps have an exact inverse
        unet.conv_out.weight *= 0.5
    unet.save_pretrained(folder / "unet")
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
