"""What anybody expects of a Python package."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import jaxinv as ji
from jaxinv.cli import app

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# The core runs where nothing is installed but what these packages need themselves.
CORE = ("jax", "numpy", "optax", "jaxtyping")
WITHOUT_THE_REST = f"""
import importlib.metadata as metadata, re, sys
from importlib.machinery import PathFinder

def normal(name):
    return re.sub("[-_.]+", "-", name).lower()

def add(name):
    if name not in needed:
        needed.add(name)
        for line in metadata.requires(name) or ():
            if "extra ==" not in line:
                add(normal(re.match("[A-Za-z0-9._-]+", line)[0]))

needed = set()
for name in {CORE}:
    add(name)
modules = {{
    module
    for module, packages in metadata.packages_distributions().items()
    if needed & set(map(normal, packages))
}} | sys.stdlib_module_names | {{"jaxinv"}}

class Only:
    finders = list(sys.meta_path)
    find_distributions = staticmethod(PathFinder.find_distributions)

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in modules or top.startswith("_"):
            found = (each.find_spec(name, path, target) for each in self.finders)
            return next(filter(None, found), None)

sys.meta_path[:] = [Only()]
for blocked in ("flax", "transformers", "orbax", "PIL", "typer", "rich"):
    try:
        __import__(blocked)
    except ModuleNotFoundError:
        continue
    raise AssertionError(blocked)

import jaxinv as ji

needs_flax = {{"load", "merge_lora", "LatentDiffusion", "Pipeline"}}
needs_flax |= {{"add_textual_inversion", "save_prompts"}}
for name in set(ji.__all__) - needs_flax:
    getattr(ji, name)
sampler = ji.ddim(ji.time_grid(ji.scaled_linear(), 20))
model = lambda x, t: 0.9 * x
data = ji.sample(sampler, model, sampler.tau[:3].astype("float32"))
assert ji.invert(sampler, model, data, strategy="stepwise").converged
print("done")
"""


def test_the_core_runs_with_nothing_but_jax_numpy_optax_and_jaxtyping():
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_THE_REST]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout == "done\n", done.stderr


def test_the_version_is_written_once_and_said_by_all():
    assert ji.__version__ == PROJECT["version"]
    assert CliRunner().invoke(app, ["--version"]).stdout == f"jaxinv {ji.__version__}\n"
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(cited["version"]) == PROJECT["version"]
    assert cited["license"] == PROJECT["license"]


def test_the_three_papers_are_cited():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]
    found = {each["identifiers"][0]["value"] for each in cited}
    assert found == {"arXiv:2311.18387", "arXiv:2409.18442", "arXiv:2410.07273"}
    source = "\n".join(path.read_text() for path in (ROOT / "jaxinv").rglob("*.py"))
    assert all(each["title"] in " ".join(source.split()) for each in cited)


def test_type_checkers_are_told_that_there_are_types():
    assert (Path(ji.__file__).parent / "py.typed").exists()


def test_dir_lists_the_public_names_and_each_can_be_had():
    assert {"load", "LatentDiffusion", "invert", "__version__"} <= set(dir(ji))
    assert len(dir(ji)) == len(set(dir(ji)))
    assert all(getattr(ji, name) is not None for name in dir(ji))


@pytest.mark.parametrize("given", ["jaxinv in", "jaxinv watermark de"])
def test_the_shell_completes_commands(given, monkeypatch):
    words = {"COMP_WORDS": given, "COMP_CWORD": str(given.count(" "))}
    environment = words | {"_JAXINV_COMPLETE": "complete_bash"}
    result = CliRunner(env=environment).invoke(app, [], prog_name="jaxinv")
    assert (
        result.stdout.split()
        == {
            "jaxinv in": ["invert", "interpolate"],
            "jaxinv watermark de": ["detect"],
        }[given]
    )


# --- one line for each value that people print --------------------------------------

GRID = ji.time_grid(ji.scaled_linear(), 20)
RESULT = ji.InversionResult(
    noise=jnp.ones(3),
    state=jnp.ones(3),
    trajectory=None,
    residual=np.float32(1e-7),
    step_residuals=np.zeros(20),
    iterations=np.zeros(20),
    num_evals=np.int32(80),
    depth=np.int32(80),
    converged=np.bool(True),
    reconstruction=np.float32(2.5e-7),
    solved=np.bool(True),
    rounding=np.float32(0),
    state_converged=np.bool(True),
    state_reconstruction=np.float32(2.5e-7),
    stages=np.int32(1),
    stopped=np.bool(False),
)
LATENT = ji.DecoderInversion(
    jnp.ones(3), *np.float32([0.0012, 0.0145, 0]), *np.int32([23, 23, 24, 23, 0]),
    np.bool(False), np.zeros(24),
)  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (ji.dpmpp_2m(GRID), "dpmpp_2m: 20 steps, order 2"),
        (GRID, "TimeGrid: vp, 20 steps, tau 0.0292 to 14.6"),
        (
            ji.scaled_linear(),
            "NoiseSchedule: vp, 1000 levels, tau 0.0292 to 14.6, predicts epsilon",
        ),
        (
            RESULT,
            "InversionResult: converged, reconstruction 2.5e-07, residual 1.0e-07, "
            "80 evaluations",
        ),
        (
            LATENT,
            "DecoderInversion: not converged, residual 0.0012 (encoder 0.014), 23 "
            "iterations",
        ),
        (
            ji.SamplerState(jnp.ones((2, 3)), "o_belm", 20, "noise"),
            "SamplerState: noise end of 20 steps of o_belm, shape (2, 3), float",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_is_printed_as_one_line_without_its_arrays(value, text):
    assert repr(value) == text


def test_a_pipeline_is_printed_as_one_line(tiny):
    said = repr(tiny)
    assert said.startswith("Pipeline: ")
    assert "32x32 pixels, latents (8, 8, 4)" in said
    assert "\n" not in said


def test_a_batch_of_results_is_printed_by_its_ranges():
    other = RESULT._replace(converged=np.bool(False), num_evals=np.int32(90))
    batch = jax.tree.map(lambda *each: np.stack(each), RESULT, other)
    assert "1 of 2 converged" in repr(batch)
    assert "80 to 90 evaluations" in repr(batch)


def test_what_has_no_values_yet_can_be_printed_too():
    said = []
    jax.eval_shape(lambda result: said.append(repr(result)), RESULT)
    jax.tree.map(lambda leaf: None, ji.ddim(GRID)).__repr__()
    assert "convergence not known" in said[0]
