"""What people mistype on the command line, and what the answer tells them to type."""

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from jaxinv.cli import app

BAD_INPUT = 2

MISTAKES = {
    "command": ("invrt a.png", "Did you mean 'invert'"),
    "no picture": ("invert", "Missing argument 'image'"),
    "picture that is not there": ("invert b.png -p heart", "no such image: b.png"),
    "text for a picture": ("invert m.csv -p heart", "expected one of PNG, JPEG, WEBP"),
    "array for a picture": ("invert bad.npy -p heart", "expected one of PNG, JPEG"),
    "size": ("invert big.png -p heart", "with --resize, it will center-crop 101x80"),
    "prompt without its option": ("invert a.png heart", "unexpected extra argument"),
    "no prompt": ("sample --steps 2", "Missing option '--prompt'"),
    "sampler": ("invert a.png -p x --sampler dpm++2m", "did you mean dpmpp-2m?"),
    "sampler in capitals": ("invert a.png -p x --sampler DDIM2", "did you mean ddim?"),
    "strategy": ("invert a.png -p x --strategy step-wise", "did you mean stepwise?"),
    "spacing": ("invert a.png -p x --spacing logsnr", "did you mean log-snr?"),
    "decoder inversion": (
        "invert a.png -p x --decoder-inversion gausnewto", "did you mean gauss-newton?",
    ),
    "steps in words": ("invert a.png -p x --steps ten", "'--steps'"),
    "no steps": ("invert a.png -p x --steps 0", "--steps must be between 1 and 1000"),
    "seed": ("sample -p x --seed 99999999999999999999", "'--seed'"),
    "picture for a noise": ("sample -p x --noise a.png", "expected a .npy file"),
    "shape of a noise": ("sample -p x --noise bad.npy", "this model's is (16, 16, 4)"),
    "new folder": ("sample -p x --steps 0 --out new/x.png", "--steps must be"),
    "new folders of a watermark": (
        "watermark embed -p x --sampler best --key new/k.json --out other/x.png",
        "unknown sampler 'best'",
    ),
    "ending": ("sample -p x --out x.xyz", "use .png"),
    "option": ("sample --promt heart", "--prompt"),
    "column": ("batch m.csv out", "did you mean 'prompt'?"),
    "model": ("convert nowhere out", "no model 'nowhere'"),
    "guidance": ("sample -p x --guidance nan", "--guidance must be a finite number"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files to be mistaken for one another."""
    folder = tmp_path_factory.mktemp("mistakes")
    Image.new("RGB", (64, 64)).save(folder / "a.png")
    Image.new("RGB", (101, 80)).save(folder / "big.png")
    np.save(folder / "bad.npy", np.zeros((3, 3), np.float32))
    (folder / "m.csv").write_text("path,promt\na.png,heart\n")
    return folder


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_with_what_to_type(monkeypatch, folder, mistake):
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    command, expected = MISTAKES[mistake]
    result = CliRunner(env={"COLUMNS": "500"}).invoke(app, command.split())
    assert result.exit_code == BAD_INPUT, result.output
    assert expected in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert sorted(folder.iterdir()) == before
