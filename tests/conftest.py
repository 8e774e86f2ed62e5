"""What test files share: programs, a model folder as diffusers writes it, pipelines.

The folder is made by torch and diffusers themselves, with random weights: everything
that reads it is tested against the real layout, and the real models' outputs.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

MAX_TOKENS = 16

# Linux gives a process 65,530 memory maps; XLA takes several for each program that it
# compiles for the CPU, and the process dies where there are none left. A test run
# makes thousands.
MANY_MAPS = 30_000
PROGRAMS_BETWEEN_LOOKS = 300


# --- compiled programs --------------------------------------------------------------

# Nearly all of a run's time is compiling, and many tests need the same programs: the
# workers and the processes that tests start share a folder of them. It is made for one
# run, so each run compiles everything once; a caller's own folder is left as it is.
# What is executed is what XLA compiles for users, with its default flags.
SHARED_PROGRAMS = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
PROGRAMS_FOLDER = "JAX_COMPILATION_CACHE_DIR"

COMPILED = "/jax/core/compile/backend_compile_duration"
FOUND = "/jax/compilation_cache/cache_hits"
FOUND_IN = "/jax/compilation_cache/cache_retrieval_time_sec"
RETRACED = ("/jax/core/compile/jaxpr_trace_duration", "jaxpr_to_mlir_module_duration")


class Programs:
    """How many programs this process asked XLA for, and the seconds spent on them."""

    def __init__(self):
        import jax.monitoring

        self.asked = self.found = self.looked = self.forgotten = 0
        self.seconds = self.seconds_found = self.seconds_traced = 0.0
        jax.monitoring.register_event_listener(self._on_event)
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)

    def _on_event(self, event, **_):
        self.found += event == FOUND

    def _on_duration(self, event, seconds, **_):
        if event == COMPILED:
            self.asked += 1
            self.seconds += seconds
        elif event == FOUND_IN:
            self.seconds_found += seconds
        elif event.endswith(RETRACED):
            self.seconds_traced += seconds

    def report(self) -> dict[str, float]:
        """The counts and seconds, of which found programs are counted apart."""
        return {
            "compiled": self.asked - self.found,
            "seconds compiling": self.seconds - self.seconds_found,
            "found": self.found,
            "seconds loading": self.seconds_found,
            "seconds tracing": self.seconds_traced,
            "times forgotten": self.forgotten,
        }


REPORTS = pytest.StashKey[list[dict[str, float]]]()
MADE_FOLDER = pytest.StashKey[str]()
PROGRAMS = pytest.StashKey[Programs]()


def pytest_configure(config):
    config.stash[REPORTS] = []
    if PROGRAMS_FOLDER not in os.environ:
        folder = tempfile.mkdtemp(prefix="jaxinv-programs-")
        config.stash[MADE_FOLDER] = folder
        os.environ |= SHARED_PROGRAMS | {PROGRAMS_FOLDER: folder}
        if "jax" in sys.modules:
            import jax

            jax.config.update("jax_compilation_cache_dir", folder)
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
            jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        config.stash[PROGRAMS] = Programs()


def pytest_unconfigure(config):
    folder = config.stash.get(MADE_FOLDER, None)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
        del os.environ[PROGRAMS_FOLDER]


def pytest_sessionfinish(session):
    programs = session.config.stash.get(PROGRAMS, None)
    if programs is None:
        return
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["programs"] = programs.report()
    else:
        session.config.stash[REPORTS].append(programs.report())


# Tests of a minute or so, by the beginnings of their names. Whoever is idle takes what
# others have queued last: with the longest first, all workers end together.
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
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


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


@pytest.fixture(autouse=True)
def few_memory_maps(pytestconfig):
    """Forgets the compiled programs once there are many."""
    yield
    programs = pytestconfig.stash[PROGRAMS]
    if programs.asked - programs.looked < PROGRAMS_BETWEEN_LOOKS:
        return
    programs.looked = programs.asked
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MANY_MAPS:
        import jax

        jax.clear_caches()
        programs.forgotten += 1


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
