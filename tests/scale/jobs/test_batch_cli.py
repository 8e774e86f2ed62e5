"""``jaxinv batch``: results, exit codes, and what it says."""

import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest
from cli_cases import run, small, wide
from job_cases import one_by_one, read_lines

import jaxinv as ji
from jaxinv.apps import watermark
from jaxinv.cli.samplers import make_sampler
from jaxinv.files.image_reading import read_image
from jaxinv.files.images import write_image
from jaxinv.scale import jobs
from jaxinv.scale.jobs import read_array

__all__ = ["small", "wide"]  # fixtures

OK, GIVEN_UP, BAD_INPUT, NOT_CONVERGED = range(4)


def noise(out):
    return np.asarray(read_array(out / "noise.zarr").read().result())


@pytest.fixture(autouse=True)
def one_at_a_time(monkeypatch, wide):
    """Replaces the engine of many images, which is tested elsewhere, and the model."""

    monkeypatch.setattr(jobs, "continuous", one_by_one)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three smooth 32x32 images, and a fourth file that is none."""
    folder = tmp_path_factory.mktemp("pictures")
    x, y = np.meshgrid(*[np.linspace(0, 1, 32)] * 2)
    for index in range(3):
        image = np.stack([x, y, 0.5 + 0.4 * np.sin(3 * index * x * y)], -1)
        write_image(folder / f"{index}.png", image)
    (folder / "3.png").write_bytes(b"")
    (folder / "three.csv").write_text(
        "path,prompt,guidance\n0.png,red,\n1.png,,5\n2.png,,\n"
    )
    return folder


# What compiles soonest.
METHODS = ("--decoder-inversion", "encoder", "--strategy", "stepwise")
FEW = ("--steps", 4, "--prompt", "cat", *METHODS)


@pytest.fixture(scope="module")
def alone(pictures):
    """Exit code 0: a manifest of images that are all good."""
    return pictures / "three.csv"


def test_every_noise_is_that_of_invert_with_the_settings_of_its_row(
    pictures, alone, tmp_path
):
    out = tmp_path / "out"
    result = run("batch", alone, out, *FEW, "--guidance", 2, "--json")
    assert result.exit_code == OK, result.output
    summary = json.loads(result.stdout)
    said = {
        "out": str(out),
        "sampler_description": "DDIM, 4 steps, on the log-snr grid",
    }
    assert summary == json.loads((out / "summary.json").read_text()) | said
    assert (summary["converged"], summary["failed"]) == (3, 0)
    rows = read_lines(out / "manifest.jsonl")
    assert [row["guidance"] for row in rows] == [2.0, 5.0, 2.0]
    assert [row["prompt"] for row in rows] == ["red", "cat", "cat"]
    for index, row in enumerate(rows):
        one = tmp_path / str(index)
        options = (*FEW, "--guidance", row["guidance"], "--out", one)
        assert run("invert", pictures / row["path"], *options).exit_code == OK
        np.testing.assert_array_equal(noise(out)[index], np.load(one / "noise.npy"))
        certificate = json.loads((one / "result.json").read_text())["certificate"]
        line = read_lines(out / "certificates.jsonl")[index]
        assert line["residual"] == certificate["residual"]
        assert line["num_evals"] == certificate["num_evals"]


def test_a_folder_with_a_bad_file_is_done_and_says_what_failed(pictures, tmp_path):
    result = run("batch", pictures, tmp_path / "out", *FEW)
    assert result.exit_code == NOT_CONVERGED
    assert "1 failed: the file is not an image that can be read" in result.stdout
    assert np.isnan(noise(tmp_path / "out")[3]).all()
    again = run("batch", pictures, tmp_path / "out", *FEW)
    assert again.exit_code == NOT_CONVERGED


def test_a_picture_that_was_overwritten_is_inverted_again_with_a_note(alone, tmp_path):
    folder = shutil.copytree(alone.parent, tmp_path / "pictures")
    arguments = ("batch", folder / alone.name, tmp_path / "out", *FEW)
    assert run(*arguments).exit_code == OK
    before = noise(tmp_path / "out")
    shutil.copy2(folder / "0.png", folder / "1.png")
    (folder / "2.png").unlink()
    result = run(*arguments)
    assert result.exit_code == OK
    assert "1 picture has changed since the inversion" in result.stderr
    assert "1 picture has become unreadable since the inversion" in result.stderr
    after = noise(tmp_path / "out")
    assert [np.array_equal(*pair) for pair in zip(before, after, strict=True)] == [
        True, False, True,
    ]  # fmt: skip


def test_it_is_given_up_after_too_many_failures(pictures, tmp_path):
    result = run("batch", pictures, tmp_path / "out", *FEW, "--max-failures", 0)
    assert result.exit_code == GIVEN_UP
    assert "1 images failed, more than the allowed 0" in result.stderr
    assert "--retry-failures" in result.stderr


def test_other_options_are_refused_by_name(alone, tmp_path):
    out = tmp_path / "out"
    assert run("batch", alone, out, *FEW).exit_code == OK
    before = (out / "summary.json").stat().st_mtime_ns
    options = ("--steps", 5, "--prompt", "dog", *METHODS)
    result = run("batch", alone, out, *options, "--sampler", "euler")
    assert result.exit_code == BAD_INPUT
    for difference in (
        "settings.steps is 4 there and 5 now",
        "settings.prompt is 'cat' there and 'dog' now",
        "settings.sampler is 'ddim' there and 'euler' now",
    ):
        assert difference in result.stderr
    assert (out / "summary.json").stat().st_mtime_ns == before


def test_the_default_is_the_scheduler_of_the_model_s_folder(
    alone, diffusers_folder, tmp_path
):
    # Its images are reconstructed, but its grid loses noise: not all may converge.
    out, model = tmp_path / "out", ("--model", diffusers_folder)
    result = run("batch", alone, out, *FEW, *model)
    assert result.exit_code in (OK, NOT_CONVERGED), result.output
    said = "DDIM on leading timesteps, 4 steps, from the model's folder"
    assert said in result.stdout
    job = json.loads((out / "job.json").read_text())
    assert job["about"]["sampler_description"] == said
    assert job["settings"]["scheduler"]["timestep_spacing"] == "leading"
    other = run("batch", alone, out, *FEW, *model, "--sampler", "ddim")
    assert other.exit_code == BAD_INPUT
    assert "settings.sampler is 'DDIMScheduler' there and 'ddim' now" in other.stderr


def test_a_job_at_another_size_takes_images_of_that_size_alone(alone, tmp_path):
    out, size = tmp_path / "out", ("--height", 48)
    result = run("batch", alone, out, *FEW, *size, "--no-noise")
    assert result.exit_code == NOT_CONVERGED
    assert "3 failed" in result.stdout
    reasons = [line["failure"] for line in read_lines(out / "certificates.jsonl")]
    assert all("is 32x32 and tiny works at 32x48" in reason for reason in reasons)
    other = run("batch", alone, out, *FEW, "--no-noise")
    assert other.exit_code == BAD_INPUT
    assert "settings.image_size" in other.stderr


@pytest.mark.parametrize("name", ["o-belm", "edict"])
def test_a_state_of_two_arrays_is_kept_and_sampled_back(alone, tiny, tmp_path, name):
    options = (*FEW, "--strategy", "explicit", "--sampler", name)
    result = run("batch", alone, tmp_path / "out", *options)
    assert result.exit_code == OK, result.output
    states = noise(tmp_path / "out")
    assert states.shape == (3, 2, *tiny.latent_shape)
    sampler = make_sampler(tiny.schedule, name.replace("-", "_"), 4, "log_snr").table
    state = ji.SamplerState(states[1], sampler.name, sampler.num_steps, "noise")
    again = ji.sample(sampler, tiny.denoiser("cat", "", 5.0), state)
    pixels = read_image(alone.parent / "1.png").pixels
    assert float(ji.nmse_db(again, tiny.encode(pixels))) < -80


def test_watermarks_are_looked_for_in_the_whole_data_set(alone, tiny, tmp_path):
    keys = [tmp_path / f"{index}.key" for index in range(2)]
    for index, path in enumerate(keys):
        key = watermark.tree_ring_key(
            jax.random.key(index), tiny.latent_shape, radius=2, pattern="random"
        )
        watermark.write_key(path, key)
    out = tmp_path / "out"
    options = ("--detect", keys[0], "--detect", keys[1], "--rate", 0.01, "--no-noise")
    result = run("batch", alone, out, *FEW, *options)
    assert result.exit_code == OK, result.output
    assert "0.03 of 3 unmarked images are called marked" in result.stdout
    assert not (out / "noise.zarr").exists()
    lines = read_lines(out / "certificates.jsonl")
    one = ("--key", keys[1], "--guidance", 5, *FEW, "--json")
    single = json.loads(run("watermark", "detect", alone.parent / "1.png", *one).stdout)
    verdict = lines[1]["watermarks"][1]
    assert verdict["p_value"] == pytest.approx(single["p_value"], rel=1e-4)
    assert verdict["distance"] == pytest.approx(single["distance"], rel=1e-5)
    # What is not known is not guided, unless the row or the option says so.
    assert [r["guidance"] for r in read_lines(out / "manifest.jsonl")] == [1, 5, 1]
    result = run("batch", alone, tmp_path / "x", *FEW, *options, "--sampler", "edict")
    assert result.exit_code == BAD_INPUT


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_signal_leaves_what_is_done_and_the_same_command_goes_on(
    pictures, tmp_path, monkeypatch, number, code
):
    out, asked, handler = tmp_path / "out", [], signal.getsignal(number)
    plain = jobs.continuous

    def signalled(*arguments, **options):
        def engine(requests):
            for answer in plain(*arguments, **options)(requests):
                asked.append(answer.index)
                if len(asked) == 3:
                    os.kill(os.getpid(), number)
                yield answer

        return engine

    monkeypatch.setattr(jobs, "continuous", signalled)
    result = run("batch", pictures / "three.csv", out, *FEW)
    assert result.exit_code == code
    assert "stopped by SIG" in result.stderr
    assert "2 of 3 images done; the same command resumes" in result.stderr
    assert signal.getsignal(number) is handler
    result = run("batch", pictures / "three.csv", out, *FEW)
    assert result.exit_code == OK
    assert asked == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--sampler", "best"), "unknown sampler"),
        (("--dtype", "float16"), "unknown dtype"),
        (("--strategy", "explicit"), "not bidirectional"),
        (("--guidance", "nan"), "must be a finite number"),
        (("--detect", "gone.key"), "no such key file"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(
    alone, tmp_path, options, reason
):
    result = run("batch", alone, tmp_path / "out", *FEW, *options)
    assert result.exit_code == BAD_INPUT
    assert reason in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_wrong_manifest_is_refused_by_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"path": "a.png"}\n{"prompt": "red"}\n')
    result = run("batch", tmp_path / "a.jsonl", tmp_path / "out")
    assert result.exit_code == BAD_INPUT
    assert "line 2: path is missing" in result.stderr
