"""Which steps commands take by default, and at which size of the image."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from cli_cases import (
    OK,
    expect_one_clear_line,
    only_json,
    picture,
    run,
    small,
    wide,
)

from jaxinv.apps import watermark
from jaxinv.files.image_reading import read_image
from jaxinv.files.images import write_image
from jaxinv.samplers.scheduler_title import scheduler_title

__all__ = ["picture", "small", "wide"]  # fixtures

OWN = "DPM-Solver++ 2M Karras, 4 steps, from the model's folder"
DDIM = "DDIM, 4 steps, on the log-snr grid"
FEW = ("--steps", 4, "--guidance", 1)


def with_scheduler(pipe, monkeypatch, **changed):
    """Every model that is loaded has this scheduler in its folder."""
    scheduler = json.loads(pipe.scheduler) | changed
    pipe = dataclasses.replace(pipe, scheduler=json.dumps(scheduler), name="folder")
    monkeypatch.setattr("jaxinv.loading.load.load", lambda *_, **__: pipe)
    return scheduler


@pytest.fixture
def karras(wide, monkeypatch):
    """The model of formulas, in whose folder is DPM-Solver++ 2M Karras."""
    name = "DPMSolverMultistepScheduler"
    return with_scheduler(wide, monkeypatch, _class_name=name, use_karras_sigmas=True)


@pytest.fixture
def ancestral(wide, monkeypatch):
    """The model of formulas, in whose folder is a scheduler without an inverse."""
    name = "EulerAncestralDiscreteScheduler"
    return with_scheduler(wide, monkeypatch, _class_name=name)


def commands(picture, tmp_path):
    """Every command whose default is the scheduler of the model's folder."""
    key = tmp_path / "key.json"
    watermark.write_key(
        key, watermark.tree_ring_key(jax.random.key(0), (8, 8, 4), radius=2)
    )
    common = (*FEW, "--json")
    return {
        "sample": ("sample", "-p", "red", *common, "-o", tmp_path / "sample.png"),
        "invert": ("invert", picture, "-p", "red", *common, "-o", tmp_path / "out"),
        "embed": (
            *("watermark", "embed", "-p", "red", "-k", key, *common),
            *("-o", tmp_path / "marked.png"),
        ),
        "detect": ("watermark", "detect", picture, "-k", key, *common),
        "classify": ("watermark", "classify", picture, "-k", key, "-k", key, *common),
    }


COMMANDS = ("sample", "invert", "embed", "detect", "classify")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_default_is_the_scheduler_of_the_model_s_folder(
    name, picture, karras, tmp_path
):
    command = commands(picture, tmp_path)[name]
    record = only_json(run(*command, "--model", "folder"))
    assert record["sampler_description"] == OWN
    assert record["sampler"] == "DPMSolverMultistepScheduler"
    assert record["spacing"] is None
    assert record["scheduler"] == karras
    own = only_json(run(*command, "--model", "folder", "--scheduler", "own"))
    assert own["sampler_description"] == OWN
    ours = only_json(run(*command, "--model", "folder", "--sampler", "ddim"))
    assert ours["sampler_description"] == DDIM
    assert (ours["sampler"], ours["spacing"]) == ("ddim", "log_snr")
    assert "scheduler" not in ours


@pytest.mark.parametrize("name", COMMANDS)
def test_the_default_of_the_embedded_model_is_ddim_on_a_grid_that_keeps_the_noise(
    name, picture, karras, tmp_path
):
    record = only_json(run(*commands(picture, tmp_path)[name]))
    assert record["sampler_description"] == DDIM
    assert (record["sampler"], record["spacing"]) == ("ddim", "log_snr")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_scheduler_that_cannot_be_inverted_is_not_replaced_in_silence(
    name, picture, ancestral, tmp_path
):
    command = commands(picture, tmp_path)[name]
    before = sorted(tmp_path.iterdir())
    refused = run(*command, "--model", "folder")
    said = ("folder's own scheduler, 'EulerAncestralDiscreteScheduler', cannot be",)
    said += ("is stochastic", "Pass --sampler ddim", "--scheduler FILE")
    expect_one_clear_line(refused, *said)
    assert sorted(tmp_path.iterdir()) == before
    result = run(*command, "--model", "folder", "--spacing", "leading")
    description = only_json(result)["sampler_description"]
    assert description == "DDIM, 4 steps, on the leading grid"


def test_the_steps_are_said_to_people(picture, karras, tmp_path):
    for command in commands(picture, tmp_path).values():
        text = tuple(word for word in command if word != "--json")
        assert OWN in run(*text, "--model", "folder").stdout


@pytest.mark.usefixtures("karras")
def test_editing_and_interpolation_are_exact_by_construction_by_default(
    picture, tmp_path
):
    said = "O-BELM, 4 steps, on the log-snr grid"
    common = ("-p", "red", *FEW, "--model", "folder", "--json", "-o", tmp_path)
    edited = only_json(run("edit", picture, "-t", "blue", *common))
    assert edited["sampler_description"] == said
    own = run("edit", picture, "-t", "blue", *common, "--scheduler", "own")
    assert only_json(own)["sampler_description"] == OWN
    between = run("interpolate", picture, picture, *common, "--points", 2)
    assert only_json(between)["sampler_description"] == said
    own = run("interpolate", picture, picture, *common, "--scheduler", "own")
    expect_one_clear_line(own, "exact by construction")


@pytest.mark.parametrize("option", [("--sampler", "ddim"), ("--spacing", "leading")])
def test_a_scheduler_has_its_own_method_and_grid(wide, tmp_path, option):
    command = ("sample", "-p", "red", "--scheduler", "own", "-o", tmp_path / "a.png")
    expect_one_clear_line(run(*command, *option, "--json"), "--scheduler excludes")


@pytest.mark.parametrize(
    ("config", "title"),
    [
        (("DDIM",), "DDIM on leading timesteps"),
        (("PNDM", "skip_prk_steps"), "PNDM on leading timesteps"),
        (("PNDM",), "PNDM with Runge-Kutta steps on leading timesteps"),
        (("DPMSolverMultistep", "use_lu_lambdas"), "DPM-Solver++ 2M Lu"),
        (("DPMSolverSinglestep",), "DPM-Solver++ 2S on linspace timesteps"),
        (("DEISMultistep", "use_beta_sigmas"), "DEIS of order 2 Beta"),
        (("UniPCMultistep",), "UniPC of order 2 on linspace timesteps"),
        (("HeunDiscrete", "use_exponential_sigmas"), "Heun Exponential"),
        (("FlowMatchEulerDiscrete",), "Euler on a flow with shift 1"),
        (("EDMDPMSolverMultistep",), "EDM's DPM-Solver++ 2M Karras"),
        (("EulerAncestralDiscrete",), "Euler ancestral on linspace timesteps"),
        (("KDPM2AncestralDiscrete",), "KDPM2AncestralDiscreteScheduler"),
    ],
)
def test_schedulers_have_titles(config, title):
    name, *options = config
    given = {"_class_name": f"{name}Scheduler"} | dict.fromkeys(options, True)
    assert scheduler_title(given) == title


# --- sizes ---------------------------------------------------------------------------


def test_an_image_of_another_size_is_sampled_inverted_and_sampled_again(
    diffusers_folder, tmp_path
):
    common = ("--model", diffusers_folder, "--prompt", "red", "--sampler", "ddim")
    common += ("--steps", 20, "--guidance", 1, "--json")
    size = ("--height", 48, "--width", 20)
    image, out = tmp_path / "a.png", tmp_path / "out"
    made = run("sample", *common, *size, "--out", image)
    assert made.exit_code == OK, made.output
    assert only_json(made)["image_size"] == [48, 20]
    pixels = read_image(image).pixels
    assert pixels.shape == (48, 20, 3)

    found = run("invert", image, *common, "--out", out)
    assert found.exit_code == OK, found.output
    assert "is 20x48 and tiny was trained at 32x32; with --resize" in found.stderr
    assert np.load(out / "noise.npy").shape == (12, 5, 4)
    assert only_json(found)["certificate"]["residual"] < 1e-5

    again = ("sample", *common, "--noise", out / "noise.npy")
    again += ("--out", tmp_path / "again.png")
    expect_one_clear_line(run(*again), "pass --height 48 --width 20 for this noise")
    assert run(*again, *size).exit_code == OK
    rebuilt = read_image(tmp_path / "again.png").pixels.astype(int)
    written = read_image(out / "reconstruction.png").pixels.astype(int)
    assert np.abs(rebuilt - written).max() <= 1


def test_one_side_alone_leaves_the_other_as_it_is(wide, tmp_path):
    # At the model's own size the formulas of the autoencoder hold.
    out = ("-o", tmp_path / "a.png")
    made = run("sample", "-p", "red", *FEW, "--height", 32, *out, "--json")
    assert made.exit_code == OK, made.output
    assert "image_size" not in only_json(made)


@pytest.mark.parametrize("command", [("sample",), ("watermark", "embed")])
@pytest.mark.parametrize(
    ("size", "words"),
    [
        (("--height", 34), ("multiples of 4, got 34 and 32",)),
        (("--width", 31), ("multiples of 4, got 32 and 31",)),
        (("--height", 40000, "--width", 40000), ("40000x40000 has more than",)),
    ],
)
def test_a_size_that_cannot_be_is_refused_before_anything_runs(
    wide, tmp_path, command, size, words
):
    key = ("--key", tmp_path / "key.json") if len(command) > 1 else ()
    options = ("-p", "red", *key, *size, "-o", tmp_path / "a.png", "--json")
    expect_one_clear_line(run(*command, *options), *words)
    assert not list(tmp_path.iterdir())


def test_an_image_that_the_model_cannot_take_is_refused_with_what_it_takes(
    wide, tmp_path
):
    write_image(tmp_path / "odd.png", np.zeros((34, 32, 3), np.uint8))
    result = run("invert", tmp_path / "odd.png", "-p", "red", "--json")
    said = ("is 32x34 and", "works at 32x32 and at multiples of 4; with --resize")
    expect_one_clear_line(result, *said)


def test_a_mark_and_its_key_have_the_size_of_the_image(small, picture, tmp_path):
    key, image = tmp_path / "key.json", tmp_path / "marked.png"
    common = ("--key", key, *FEW, "--json")
    embed = ("watermark", "embed", "-p", "red", *common, "--out", image)
    made = run(*embed, "--height", 48, "--width", 64, "--pattern", "zeros")
    assert made.exit_code == OK, made.output
    assert watermark.read_key(key).shape == (12, 16, 4)
    assert read_image(image).pixels.shape == (48, 64, 3)
    found = run("watermark", "detect", image, *common, "--decoder-inversion", "encoder")
    assert only_json(found)["image_size"] == [48, 64]
    other = run("watermark", "detect", picture, *common)
    expect_one_clear_line(other, "images of 64x48", "for images of 32x32")
    again = run(*embed)
    expect_one_clear_line(again, "images of 64x48", "for images of 32x32")
