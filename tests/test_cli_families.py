"""The commands on small folders of other families, as a new user would run them."""

import json
from typing import NamedTuple

import pytest
from cli_cases import NOT_CONVERGED, OK, only_json, run
from sdxl_cases import write_sdxl_pipeline

import jaxinv as ji
from jaxinv.files.image_reading import read_image

#: What writes a family's folder, and the options of prompts that it has.
FAMILIES = {"sdxl": (write_sdxl_pipeline, ("--prompt", "red cat", "--guidance", 2))}
# What compiles soonest.
METHODS = ("--decoder-inversion", "encoder", "--strategy", "stepwise")


class Case(NamedTuple):
    """A model's folder, the options of its prompts, and an image that it made."""

    options: tuple
    folder: object
    image: object


@pytest.fixture(scope="module", params=FAMILIES)
def case(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("families")
    write, prompt = FAMILIES[request.param]
    write(out / "model")
    image = out / "images/sampled.png"
    options = ("--model", out / "model", *prompt, "--steps", 10)
    result = run("sample", *options, "--seed", 3, "--out", image, "--json")
    assert result.exit_code == OK, result.output
    assert only_json(result)["steps"] == 10
    return Case(options, out / "model", image)


def test_sample_writes_an_image_of_the_size_of_training(case):
    height, width = ji.load(case.folder).image_size
    assert read_image(case.image).pixels.shape == (height, width, 3)


def test_invert_certifies_the_noise(case, tmp_path):
    result = run("invert", case.image, *case.options, *METHODS, "--out", tmp_path / "i")
    assert result.exit_code == OK, result.output
    record = json.loads((tmp_path / "i/result.json").read_text())
    assert record["certificate"]["converged"] is True
    assert record["certificate"]["reconstruction"] <= 1e-4


def test_edit_changes_the_image(case, tmp_path):
    options = ("--target", "blue", *METHODS[:2], "--out", tmp_path / "edited", "--json")
    result = run("edit", case.image, *case.options, *options)
    assert result.exit_code == OK, result.output
    assert only_json(result)["latent_change_db"] > -80


def test_batch_certifies_every_image(case, tmp_path):
    out = tmp_path / "out"
    result = run("batch", case.image.parent, out, *case.options, *METHODS)
    assert result.exit_code == OK, result.output
    lines = (out / "certificates.jsonl").read_text().splitlines()
    assert [json.loads(line)["converged"] for line in lines] == [True]


def test_a_converted_model_draws_the_same_image(case, tmp_path):
    target, image = tmp_path / "converted", tmp_path / "again.png"
    result = run("convert", case.folder, target)
    assert result.exit_code == OK, result.output
    options = (*case.options, "--model", target, "--seed", 3, "--out", image)
    assert run("sample", *options).exit_code == OK
    assert (read_image(image).pixels == read_image(case.image).pixels).all()


def test_a_watermark_is_embedded_and_searched(case, tmp_path):
    key, image = tmp_path / "key.json", tmp_path / "marked.png"
    options = (*case.options, "--key", key, "--json")
    made = run("watermark", "embed", *options, "--out", image)
    assert made.exit_code == OK, made.output
    result = run("watermark", "detect", image, *options, *METHODS)
    assert result.exit_code in (OK, 1, NOT_CONVERGED), result.output
    assert 0 <= only_json(result)["p_value"] <= 1
