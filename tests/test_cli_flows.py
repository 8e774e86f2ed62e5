"""Commands that invert in order to change images, on a flow, with their defaults."""

import json

import pytest
from cli_cases import OK, only_json, run
from sd3_cases import write_sd3_pipeline

DECODER = ("--decoder-inversion", "encoder")


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    """Options that name a small flow and a prompt, and an image that it made."""
    out = tmp_path_factory.mktemp("flow")
    write_sd3_pipeline(out / "model")
    options = ("--model", out / "model", "--prompt", "red cat", "--steps", 6)
    image = out / "sampled.png"
    result = run("sample", *options, "--out", image, "--json")
    assert result.exit_code == OK, result.output
    return options, image


def test_an_edit_takes_the_flows_own_steps_and_converges(flow, tmp_path):
    options, image = flow
    changed = ("--target", "blue", *DECODER, "--out", tmp_path / "edited", "--json")
    result = run("edit", image, *options, *changed)
    assert result.exit_code == OK, result.output
    report = only_json(result)
    assert report["sampler"] == "FlowMatchEulerDiscreteScheduler"
    assert report["converged"] is True
    assert report["latent_change_db"] > -80


def test_an_interpolation_returns_to_both_ends(flow, tmp_path):
    options, image = flow
    more = ("--points", 2, *DECODER, "--out", tmp_path / "between", "--json")
    result = run("interpolate", image, image, *options, *more)
    assert result.exit_code == OK, result.output
    report = json.loads((tmp_path / "between/result.json").read_text())
    assert (report["sampler"], report["spacing"]) == ("o_belm", "linspace")
    assert all(report["state_converged"])
    assert max(report["state_reconstruction"]) < 1e-4
