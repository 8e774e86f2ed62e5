"""The command line: results, exit codes, and what it says about bad input."""

import io
import json
import os
import random
import subprocess
import sys

import jax
import numpy as np
import pytest
from cli_cases import (
    BAD_INPUT,
    NOT_CONVERGED,
    OK,
    encode_blocks_badly,
    expect_one_clear_line,
    only_json,
    picture,
    run,
    small,
    wide,
)
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image
from rich.console import Console

import jaxinv as ji
from jaxinv.cli import main
from jaxinv.cli.console import ExitCode, Output
from jaxinv.cli.programs import default_folder, keep_programs
from jaxinv.cli.progress import phase
from jaxinv.cli.samplers import SAMPLER_NAMES, SPACINGS, make_sampler
from jaxinv.decoder_inversion import METHODS
from jaxinv.files.image_reading import read_image
from jaxinv.inversion import Stepwise
from jaxinv.inversion.strategies import FINISH, STRATEGIES
from jaxinv.pipeline import images

__all__ = ["picture", "small", "wide"]  # fixtures
SCHEDULER = "scheduler/scheduler_config.json"


@pytest.fixture(scope="module")
def inverted(picture, diffusers_folder, tmp_path_factory):
    """The result of ``jaxinv invert`` on the random model, and its folder."""
    out = tmp_path_factory.mktemp("out") / "new" / "folder"
    common = ("--model", diffusers_folder, "--prompt", "red cat", "--out", out)
    return run("invert", picture, *common, "--json"), out


# --- demo ----------------------------------------------------------------------------


def test_demo_finds_the_noise_that_naive_inversion_misses_and_shows_it(wide, tmp_path):
    # README's first example is the demo on the embedded model, and is tested as that.
    out = tmp_path / "demo.png"
    result = run("demo", "--out", out, "--json")
    assert result.exit_code == OK, result.output
    record = only_json(result)
    naive, exact = record["naive"], record["exact"]
    assert exact["converged"]
    assert not naive["converged"]
    assert exact["residual"] < 1e-5 < 1e-2 < naive["residual"]
    assert exact["reconstruction_nmse_db"] < -90
    assert exact["noise_nmse_db"] < naive["noise_nmse_db"] - 20

    with Image.open(out) as image:
        assert image.format == "PNG"
        assert image.width > 1000
        assert len(image.convert("RGB").getcolors(1 << 24)) > 1000

    result = run("demo", "--out", out)  # for people
    assert result.exit_code == OK
    for word in ("noise NMSE", "reconstruction NMSE", "image PSNR", "converged", "dB"):
        assert word in result.stdout
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(result.stdout)


# --- invert --------------------------------------------------------------------------


def test_invert_writes_the_noise_and_its_certificate(inverted):
    result, out = inverted
    assert result.exit_code == OK, result.output
    record = only_json(result)
    assert sorted(path.name for path in out.iterdir()) == [
        "noise.npy",
        "panel.png",
        "reconstruction.png",
        "result.json",
    ]
    assert json.loads((out / "result.json").read_text()) == record
    certificate = record["certificate"]
    assert certificate["converged"] is True
    assert certificate["residual"] == max(certificate["step_residuals"]) <= 1e-6
    assert certificate["reconstruction"] <= 1e-4
    # The way back, once or (near the tolerance) twice.
    assert certificate["num_evals"] - sum(certificate["iterations"]) in (20, 40)
    assert certificate["depth"] == certificate["num_evals"]
    assert certificate["stages"] == ["stepwise"]
    assert (record["sampler"], record["strategy"]) == ("DDIMScheduler", "auto")
    assert len(certificate["iterations"]) == record["steps"] == 20


@pytest.mark.parametrize("name", ["PNDM", "HeunDiscrete"])
def test_the_steps_of_a_scheduler_are_inverted(
    name, picture, diffusers_folder, tmp_path
):
    """The file that a pipeline saves stands for the sampler of its images."""
    config = json.loads((diffusers_folder / SCHEDULER).read_text())
    config |= {"_class_name": f"{name}Scheduler", "skip_prk_steps": True}
    file = tmp_path / "scheduler_config.json"
    file.write_text(json.dumps(config))
    common = ("--model", diffusers_folder, "--prompt", "red cat", "--json")
    out = ("--out", tmp_path / "out", "--scheduler", file, "--steps", 5)
    result = run("invert", picture, *common, *out, "--decoder-inversion", "encoder")
    assert result.exit_code in (OK, NOT_CONVERGED), result.output
    record = only_json(result)
    assert (record["sampler"], record["spacing"]) == (config["_class_name"], None)
    assert record["scheduler"] == config
    rows = {"PNDM": 6, "HeunDiscrete": 9}[name]
    assert len(record["certificate"]["step_residuals"]) == rows


def test_other_noises_are_searched_and_counted(instaflow_folder, picture, tmp_path):
    common = ("--model", instaflow_folder, "--prompt", "red cat", "--json")
    out = ("--out", tmp_path / "out", "--decoder-inversion", "encoder")
    result = run("invert", picture, *common, *out, "--starts", 3, "--steps", 1)
    record = only_json(result)
    assert result.exit_code == OK, result.output
    found = record["preimages"]
    assert found["starts"] == 3
    assert 1 <= found["found"] <= found["converged"] <= 3
    assert found["num_evals"] > 3
    pair = ("--starts", 3, "--sampler", "o-belm", "--steps", 10)
    refused = run("invert", picture, *common, *out, *pair)
    expect_one_clear_line(refused, "one state for each image")


def test_a_model_s_own_scheduler_and_none_that_does_not_fit(diffusers_folder, tmp_path):
    common = ("sample", "--model", diffusers_folder, "--prompt", "red", "--steps", 3)
    common += ("--out", tmp_path / "a.png", "--json")
    own = run(*common, "--scheduler", "own")
    assert own.exit_code == OK, own.output
    assert only_json(own)["sampler"] == "DDIMScheduler"
    file = tmp_path / "scheduler_config.json"
    file.write_text(json.dumps({"_class_name": "EulerDiscreteScheduler"}))
    expect_one_clear_line(run(*common, "--scheduler", file), "does not fit the model")
    file.write_text(json.dumps({"_class_name": "LCMScheduler"}))
    expect_one_clear_line(run(*common, "--scheduler", file), "LCMScheduler")
    expect_one_clear_line(run(*common, "--scheduler", tmp_path / "none"), "none")


def test_the_written_noise_is_sampled_to_the_written_reconstruction(
    inverted, diffusers_folder, tmp_path
):
    _, out = inverted
    common = ("--model", diffusers_folder, "--prompt", "red cat")
    target = tmp_path / "again.png"
    noise = ("--noise", out / "noise.npy")
    result = run("sample", *common, *noise, "--out", target, "--json")
    assert result.exit_code == OK, result.output
    assert only_json(result)["noise"] == str(out / "noise.npy")
    again = read_image(target).pixels.astype(int)
    first = read_image(out / "reconstruction.png").pixels.astype(int)
    assert np.abs(again - first).max() <= 1


@pytest.mark.parametrize("method", METHODS)
def test_every_decoder_inversion_is_reported(
    picture, wide, tmp_path, monkeypatch, method
):
    monkeypatch.setattr(images, "encode", encode_blocks_badly)
    common = ("--prompt", "red", "--steps", 2, "--out", tmp_path, "--json")
    result = run("invert", picture, *common, "--decoder-inversion", method)
    record = only_json(result)["decoder_inversion"]
    assert record["method"] == method
    assert record["residual"] <= record["encoder_residual"]
    assert (record["iterations"] == 0) == (method == "encoder")
    assert record["num_decodes"] > record["iterations"]


@pytest.mark.usefixtures("wide")
def test_naive_inversion_is_reported_as_not_certified(picture, tmp_path):
    common = ("--prompt", "red cat", "--steps", 4, "--out", tmp_path)
    result = run("invert", picture, *common, "--strategy", "naive")
    assert result.exit_code == NOT_CONVERGED
    assert "solves no equation" in result.stderr
    assert "worst residual" in result.stdout
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["certificate"]["converged"] is False
    assert record["certificate"]["residual"] > 1e-4
    assert record["certificate"]["evals_per_step"] == 2  # one of them the way back
    assert (tmp_path / "noise.npy").exists()


@pytest.mark.usefixtures("wide")
def test_a_sampler_with_a_memory_is_inverted_all_steps_together(picture, tmp_path):
    common = ("--prompt", "red cat", "--out", tmp_path)
    few = ("--sampler", "dpmpp-2m", "--steps", 10, "--guidance", 1)
    result = run("invert", picture, *common, *few, "--json")
    assert result.exit_code == OK, result.output
    assert "less than 0.7" in result.stderr  # of the noise level: ten steps are few
    record = only_json(result)
    certificate = record["certificate"]
    assert record["sampler"] == "dpmpp_2m"
    assert certificate["stages"][0] == "trajectory"
    # Besides the way back, once or (near the tolerance) twice, a step at a time.
    depth, evals = certificate["depth"], certificate["num_evals"]
    sweeps = [(depth - n, evals - n) for n in (10, 20)]
    assert any(10 * calls == evals for calls, evals in sweeps)
    assert certificate["residual"] <= 5e-6  # the tolerance of all steps together
    assert record["reconstruction"]["latent_nmse_db"] < -70


@pytest.mark.parametrize("name", SAMPLER_NAMES)
@pytest.mark.usefixtures("wide")
def test_every_sampler_is_inverted_and_sampled_back(picture, tmp_path, name):
    steps = 4  # one program for all samplers whose tables have one shape
    common = ("--prompt", "red", "--sampler", name.replace("_", "-"), "--steps", steps)
    result = run("invert", picture, *common, "--out", tmp_path, "--json")
    assert result.exit_code == OK, result.output
    record = only_json(result)
    assert record["sampler"] == name
    assert record["certificate"]["state_converged"] is True
    # One rounding per step, at 6e-8 each, and the tolerance of 1e-6 of each solve;
    # undoing a mixture multiplies roundings.
    allowed = 20 * np.log10(steps * 1.1e-6) + (5 if name == "edict" else 0)
    assert record["reconstruction"]["latent_nmse_db"] < allowed

    image = tmp_path / "again.png"
    noise = ("--noise", tmp_path / "noise.npy")
    result = run("sample", *common, *noise, "--out", image, "--json")
    assert result.exit_code == OK, result.output
    assert only_json(result)["sampler"] == name
    again = read_image(image).pixels.astype(int)
    first = read_image(tmp_path / "reconstruction.png").pixels.astype(int)
    assert np.abs(again - first).max() <= 1


@pytest.mark.parametrize("sampler", ["o-belm", "edict"])
@pytest.mark.usefixtures("wide")
def test_a_sampler_that_is_exact_by_construction_keeps_both_arrays(
    picture, tmp_path, sampler
):
    common = ("--prompt", "red", "--sampler", sampler, "--steps", 4, "--out", tmp_path)
    record = only_json(run("invert", picture, *common, "--json"))
    assert record["certificate"]["stages"] == ["explicit"]
    # Two answers, two verdicts: both arrays are exact, one alone is not.
    assert record["certificate"]["state_converged"] is True
    assert record["certificate"]["state_reconstruction"] < 1e-4
    assert record["certificate"]["converged"] is False
    assert record["certificate"]["reconstruction"] > 1e-4
    assert record["noise"]["arrays"] == 2
    assert np.load(tmp_path / "noise.npy").shape == (2, 8, 8, 4)
    assert record["reconstruction"]["latent_nmse_db"] < -100
    for strategy in ("stepwise", "forwards"):
        result = run("invert", picture, *common, "--strategy", strategy)
        assert result.exit_code == BAD_INPUT
    wrong = ("--prompt", "red", "--steps", 4, "--noise", tmp_path / "noise.npy")
    result = run("sample", *wrong, "--out", tmp_path / "x.png")
    assert result.exit_code == BAD_INPUT
    assert "(2, 8, 8, 4)" in result.stderr


@pytest.mark.usefixtures("wide")
def test_explicit_inversion_is_refused_where_there_is_none(picture, tmp_path):
    options = ("--prompt", "red", "--strategy", "explicit", "--out", tmp_path)
    result = run("invert", picture, *options)
    assert result.exit_code == BAD_INPUT
    assert "not bidirectional" in result.stderr
    result = run("demo", "--sampler", "edict", "--out", tmp_path / "demo.png")
    assert result.exit_code == BAD_INPUT


@pytest.mark.parametrize("solver", [None, "newton-krylov"])
@pytest.mark.usefixtures("wide")
def test_algorithm_2_is_measured_and_certifies_nothing(picture, tmp_path, solver):
    common = ("--prompt", "red", "--sampler", "deis", "--steps", 4, "--out", tmp_path)
    options = ("--strategy", "stepwise", *(["--solver", solver] if solver else []))
    result = run("invert", picture, *common, *options, "--json")
    assert result.exit_code == NOT_CONVERGED, result.output
    assert "Algorithm 2" in result.stderr
    record = only_json(result)
    assert record["solver"] == (solver and "newton_krylov")
    assert record["certificate"]["converged"] is False
    assert 1e-6 < record["certificate"]["residual"] < 1
    assert len(record["certificate"]["step_residuals"]) == 4


@pytest.mark.usefixtures("wide")
def test_what_stepwise_leaves_is_finished_all_steps_together(
    monkeypatch, picture, tmp_path
):
    common = ("--prompt", "red", "--steps", 4, "--out", tmp_path, "--json")
    first = only_json(run("invert", picture, *common))["certificate"]
    weak = Stepwise(ji.Anderson(max_iterations=2))
    auto = STRATEGIES["auto"]._replace(plan=lambda *_: (weak, *FINISH))
    monkeypatch.setitem(STRATEGIES, "auto", auto)
    result = run("invert", picture, *common)
    assert result.exit_code == OK, result.output
    certificate = only_json(result)["certificate"]
    assert certificate["stages"] == ["stepwise", "trajectory"]
    assert certificate["num_evals"] > first["num_evals"]
    assert certificate["residual"] <= 5e-6  # the tolerance of all steps together


@pytest.mark.usefixtures("wide")
def test_an_inversion_stops_at_its_limit_and_says_so(monkeypatch, picture, tmp_path):
    common = ("--prompt", "red", "--steps", 4, "--out", tmp_path, "--json")
    weak = Stepwise(ji.Anderson(max_iterations=2))
    auto = STRATEGIES["auto"]._replace(plan=lambda *_: (weak, *FINISH))
    monkeypatch.setitem(STRATEGIES, "auto", auto)
    # Stepwise takes 8 and the way back 4: one sweep of 4 is left.
    result = run("invert", picture, *common, "--max-evals", 16)
    assert result.exit_code == NOT_CONVERGED, result.output
    assert "not converged so far: trajectory starts" in result.stderr
    assert "more --max-evals" in result.stderr
    certificate = only_json(result)["certificate"]
    assert certificate["stopped"] is True
    assert certificate["stages"] == ["stepwise", "trajectory"]
    assert certificate["num_evals"] == 20  # and the way back
    result = run("invert", picture, *common, "--max-evals", 3)
    expect_one_clear_line(result, "max_evals must be at least 4")


@pytest.mark.usefixtures("wide")
def test_another_size_is_resized_only_when_asked_and_said(picture, tmp_path):
    large = tmp_path / "large.png"
    Image.open(picture).resize((81, 60)).convert("RGBA").save(large)
    pixels = np.array(Image.open(large))
    pixels[:30, :, 3] = 0  # transparent above
    Image.fromarray(pixels).save(large)
    common = ("--prompt", "red cat", "--steps", 4, "--out", tmp_path)
    way = "center-crop 81x60 to 60x60 and resample to 32x32"

    refused = run("invert", large, *common)
    assert refused.exit_code == BAD_INPUT
    assert f"with --resize, it will {way}" in refused.stderr
    assert not (tmp_path / "noise.npy").exists()

    result = run("invert", large, *common, "--resize", "--json")
    assert result.exit_code == OK, result.output
    assert way in result.stderr
    assert "on white" in result.stderr
    white = "composited transparent pixels on white"
    assert only_json(result)["changes"] == [white, way]


# --- sample --------------------------------------------------------------------------


def test_a_seed_decides_the_image(diffusers_folder, tmp_path):
    def pixels(seed, name):
        common = ("--model", diffusers_folder, "--prompt", "red cat")
        path = tmp_path / name
        assert run("sample", *common, "--seed", seed, "-o", path).exit_code == OK
        return read_image(path).pixels

    first, same, other = pixels(1, "a.png"), pixels(1, "b.png"), pixels(2, "c.png")
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


# --- samplers ------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["invert", "sample", "demo"])
def test_help_names_every_sampler(command):
    text = "".join(run(command, "--help").stdout.split()).replace("│", "")
    assert not [n for n in SAMPLER_NAMES if n.replace("_", "-") not in text]


def test_help_shows_defaults_in_brackets():
    def words(*command):
        lines = run(*command, "--help").stdout.replace("│", " ")
        return " ".join(lines.split())

    assert "[own; for the embedded" in words("sample")
    assert "[o-belm, whatever made" in words("edit")
    assert "[the model's]" in words("watermark", "embed")


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize(
    ("name", "scheduler", "options"),
    [
        ("ddim", "DDIM", {"clip_sample": False, "set_alpha_to_one": False}),
        ("dpmpp_2m", "DPMSolverMultistep", {}),
        ("dpmpp_3m", "DPMSolverMultistep", {"solver_order": 3}),
        (
            "dpm_solver_2m",
            "DPMSolverMultistep",
            {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
        ),
        ("deis", "DEISMultistep", {}),
        ("unip", "UniPCMultistep", {"disable_corrector": [0, 1, 2]}),
        ("unipc", "UniPCMultistep", {}),
        ("dpm_solver_singlestep", "DPMSolverSinglestep", {}),
        ("euler", "EulerDiscrete", {}),
        ("heun", "HeunDiscrete", {}),
        ("kdpm2", "KDPM2Discrete", {}),
        ("lms", "LMSDiscrete", {}),
    ],
)
def test_on_diffusers_spacings_a_sampler_is_diffusers_scheduler(
    tiny, spacing, name, scheduler, options
):
    import diffusers
    import torch

    options = options | {"timestep_spacing": spacing, "steps_offset": 1}
    theirs = getattr(diffusers, f"{scheduler}Scheduler").from_config(
        {
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            **options,
        }
    )
    theirs.set_timesteps(4)
    x = torch.linspace(-1, 1, 5).reshape(1, 1, 1, 5) * theirs.init_noise_sigma
    for t in theirs.timesteps:
        seen = theirs.scale_model_input(x, t)
        x = theirs.step(torch.sin(3 * seen) + t / 1000, t, x).prev_sample

    sampler = make_sampler(tiny.schedule, name, 4, spacing)
    ours = ji.sample(
        sampler.table,
        lambda x, t: jax.numpy.sin(3 * x) + t / 1000,
        np.linspace(-1, 1, 5, dtype=np.float32),
    )
    # The parity that the core's own tests hold the tables to.
    np.testing.assert_allclose(ours, x.numpy().ravel(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_every_sampler_has_every_spacing(tiny, name, spacing):
    if spacing == "linspace" and name in ("o_belm", "o_belm_log_snr", "bdia"):
        # With this model's last noise level, linspace has that level twice.
        with pytest.raises(ValueError, match="distinct"):
            make_sampler(tiny.schedule, name, 3, spacing)
        return
    sampler = make_sampler(tiny.schedule, name, 3, spacing)
    assert sampler.table.num_steps == 3
    assert 0 <= sampler.worst_ratio < 1


# --- convert -------------------------------------------------------------------------


def test_convert_makes_a_folder_that_loads_and_never_overwrites_unasked(
    diffusers_folder, tiny, tmp_path
):
    target = tmp_path / "converted"
    result = run("convert", diffusers_folder, target, "--json")
    assert result.exit_code == OK, result.output
    assert only_json(result)["target"] == str(target)
    leaves = zip(jax.tree.leaves(ji.load(target)), jax.tree.leaves(tiny), strict=True)
    assert all((a == b).all() for a, b in leaves)

    refused = run("convert", diffusers_folder, target)
    assert refused.exit_code == BAD_INPUT
    assert "not empty" in refused.stderr
    assert run("convert", diffusers_folder, target, "--force").exit_code == OK


# --- bad input -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--steps", 0], ("between 1 and", "got 0")),
        (["--steps", 1001], ("between 1 and", "got 1001")),
        (["--spacing", "cubic"], ("unknown spacing 'cubic'", "log-snr")),
        (["--strategy", "magic"], ("unknown strategy 'magic'", "stepwise")),
        (["--sampler", "dpmp-2m"], ("did you mean dpmpp-2m?",)),
        (["--sampler", "magic"], ("unknown sampler 'magic'", "dpmpp-2m")),
        (["--solver", "magic"], ("unknown solver 'magic'", "newton-krylov")),
        (["--solver", "anderson"], ("--solver needs --strategy stepwise", "auto")),
        (
            ["--solver", "anderson", "--strategy", "naive"],
            ("--solver needs --strategy stepwise", "naive"),
        ),
        (["--decoder-inversion", "magic"], ("unknown decoder inversion", "anderson")),
        (["--guidance", "nan"], ("--guidance must be a finite number",)),
        (["--guidance", "inf"], ("--guidance must be a finite number",)),
    ],
)
@pytest.mark.usefixtures("small")
def test_a_bad_option_of_invert_is_explained(picture, tmp_path, options, words):
    common = ("--prompt", "red", "--out", tmp_path)
    result = run("invert", picture, *common, *options, "--json")
    expect_one_clear_line(result, *words)


def test_a_missing_model_is_explained(picture, tmp_path):
    options = ("--model", "no-such-model", "--prompt", "red", "--out", tmp_path)
    result = run("invert", picture, *options, "--json")
    expect_one_clear_line(result, "no model 'no-such-model'", "tried")


def test_a_missing_image_is_explained(tmp_path):
    result = run("invert", tmp_path / "no.png", "--prompt", "red", "--out", tmp_path)
    expect_one_clear_line(result, "no such image", "no.png")


def test_an_image_that_is_no_image_is_explained(tmp_path):
    (tmp_path / "text.png").write_text("this is text")
    image = tmp_path / "text.png"
    result = run("invert", image, "--prompt", "red", "--out", tmp_path)
    expect_one_clear_line(result, "is not an image")


@pytest.mark.parametrize("command", ["invert", "sample", "demo"])
def test_an_unwritable_output_is_explained_before_the_model_is_looked_for(
    monkeypatch, picture, tmp_path, command
):
    def never(*args, **kwargs):
        raise AssertionError("the model was loaded before the output was checked")

    monkeypatch.setattr("jaxinv.loading.load.load", never)
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "x.png"
    arguments = {
        "invert": ("invert", picture, "--prompt", "red"),
        "sample": ("sample", "--prompt", "red"),
        "demo": ("demo",),
    }[command]
    expect_one_clear_line(run(*arguments, "--out", out), "cannot write to")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--noise", "missing.npy"], ("no such file", "missing.npy")),
        (["--noise", "shape.npy"], ("shape (3, 3)", "(8, 8, 4)")),
        (["--noise", "nan.npy"], ("NaN",)),
        (["--noise", "text.npy"], ("text.npy is not a NumPy array",)),
        (["--noise", "nan.npy", "--seed", 1], ("exclude each other",)),
        (["--out", "a.xyz"], ("not an image format",)),
    ],
)
@pytest.mark.usefixtures("small")
def test_a_bad_option_of_sample_is_explained(monkeypatch, tmp_path, options, words):
    monkeypatch.chdir(tmp_path)
    np.save("shape.npy", np.zeros((3, 3)))
    np.save("nan.npy", np.full((8, 8, 4), np.nan))
    (tmp_path / "text.npy").write_text("this is text")
    result = run("sample", "--prompt", "red", *options)
    expect_one_clear_line(result, *words)


def test_converting_what_is_no_model_is_explained(tmp_path):
    (tmp_path / "empty").mkdir()
    result = run("convert", tmp_path / "empty", tmp_path / "out")
    expect_one_clear_line(result, "model_index.json")
    assert not (tmp_path / "out").exists()


def test_a_prompt_that_is_too_long_is_cut_and_it_is_said(diffusers_folder, tmp_path):
    long = "a b c d e f g h i j k l m n o p q r s"
    out = tmp_path / "a.png"
    result = run("sample", "--model", diffusers_folder, "--prompt", long, "--out", out)
    assert result.exit_code == OK
    assert "note: the prompt has 21 tokens" in result.stderr


def test_text_that_looks_like_markup_is_shown_as_it_is(capsys):
    text = "[bold]a[/nothing] :smile: " + 20 * "a/long/path/"
    Output(as_json=False).note(text)
    assert capsys.readouterr().err == f"note: {text}\n"


# --- progress ------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["stepwise", "trajectory", "naive"])
def test_steps_are_shown_while_they_are_taken(strategy):
    sampler = ji.ddim(ji.time_grid(ji.scaled_linear(), 20))
    denoise = jax.tree_util.Partial(lambda x, t: 0.9 * x)
    noise = jax.random.normal(jax.random.key(0), (4, 4, 3))
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=120)
    with phase(console, "sampling", 20) as running:
        data = ji.sample(sampler, denoise, noise, report=running.report)
    assert running.step == 20
    with phase(console, "inverting", 20) as running:
        ji.invert(sampler, denoise, data, strategy=strategy, report=running.report)
    assert running.step == 20
    assert running.seconds > 0
    assert "step 20 of 20" in shown.getvalue().split("inverting")[-1]


# --- compiled programs ---------------------------------------------------------------


@pytest.fixture
def programs_folder(monkeypatch):
    """JAX's settings as they were before, whatever a test makes of them."""
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    yield
    jax.config.update("jax_compilation_cache_dir", before)
    jax.config.update("jax_compilation_cache_max_size", -1)


@pytest.mark.usefixtures("programs_folder")
def test_programs_are_kept_where_one_asks(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert keep_programs() == tmp_path / "xdg" / "jaxinv"
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "xdg" / "jaxinv")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "jax"))
    assert keep_programs() == tmp_path / "jax"
    assert keep_programs(str(tmp_path / "asked")) == tmp_path / "asked"
    assert keep_programs("off") is None
    assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.usefixtures("programs_folder")
def test_what_is_said_of_programs_comes_first(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    no_command = ["sample", "--prompt", "red", "--model", str(tmp_path / "none")]
    for said, made in ((["--compilation-cache", "off"], False), ([], True)):
        monkeypatch.setattr("sys.argv", ["jaxinv", *said, *no_command])
        with pytest.raises(SystemExit):
            main()
        assert (tmp_path / "jaxinv").exists() is made


@pytest.mark.usefixtures("programs_folder")
@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_folder_that_cannot_be_written_is_an_error_if_it_was_given(
    name, tmp_path, monkeypatch
):
    (tmp_path / "file").touch()
    folder = str(tmp_path / name)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", folder)
    assert keep_programs() is None
    assert jax.config.jax_compilation_cache_dir is None
    with pytest.raises(ValueError, match="cannot write compiled programs to"):
        keep_programs(folder)
    result = run("--compilation-cache", folder, "sample", "--prompt", "red")
    assert result.exit_code == ExitCode.BAD_INPUT
    assert "cannot write compiled programs" in result.output


@pytest.mark.usefixtures("programs_folder")
def test_only_the_folder_of_the_command_line_has_a_limit(tmp_path, monkeypatch):
    """JAX writes nothing to a folder with a limit if it holds entries without."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr("sys.platform", "linux")
    rng = random.Random(0)  # any folder may follow any other
    for kind in rng.choices(["default", "variable", "given"], k=12):
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
        if kind == "variable":
            monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "jax"))
        keep_programs(str(tmp_path / "mine") if kind == "given" else None)
        limit = 2 * 2**30 if kind == "default" else -1
        assert jax.config.jax_compilation_cache_max_size == limit, kind


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_platforms_have_their_own_folder(platform, monkeypatch):
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setenv("LOCALAPPDATA", "local")
    expected = {"darwin": "Library/Caches/jaxinv", "win32": "local/jaxinv"}
    assert default_folder().as_posix().endswith(expected[platform])


def test_importing_the_library_keeps_no_programs():
    code = "import jax, jaxinv; print(jax.config.jax_compilation_cache_dir)"
    environment = {**os.environ}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "None"


@pytest.mark.usefixtures("programs_folder")
def test_programs_that_report_steps_can_be_kept(tmp_path):
    """A program that calls back is never kept: there would be no files."""
    keep_programs(str(tmp_path))
    compilation_cache.reset_cache()
    sampler = ji.ddim(ji.time_grid(ji.scaled_linear(), 20))
    denoise = jax.tree_util.Partial(lambda x, t: 0.8 * x)
    data = jax.random.normal(jax.random.key(0), (3, 5))
    jax.clear_caches()
    for strategy in ("stepwise", "naive"):
        ji.invert(sampler, denoise, data, strategy=strategy, report=lambda step: None)
    kept = {path.name for path in tmp_path.glob("*-cache")}
    assert {name.split("-")[0] for name in kept} >= {"jit__turn", "jit__begin"}
    # Naive inversion and all ways back run in the program of sampling.
    assert sum(name.startswith("jit__turn") for name in kept) == 2
    compilation_cache.reset_cache()
