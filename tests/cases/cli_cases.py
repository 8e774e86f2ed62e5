"""What tests of the command line share: a runner, pictures, and models of formulas.

Commands run in this process, on models that are formulas: what is compiled is then next
to nothing, and as the formulas are module-level functions whose numbers are arguments,
every test that runs the same program finds it compiled.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

from jaxinv.cli import app
from jaxinv.files.images import write_image

OK, BAD_INPUT, NOT_CONVERGED = 0, 2, 3


def run(*arguments):
    """Runs a command in this process, so that programs are compiled only once."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def only_json(result):
    """Parses standard output, which must be one JSON object on one line."""
    lines = result.stdout.splitlines()
    assert len(lines) == 1, result.stdout
    return json.loads(lines[0])


def expect_one_clear_line(result, *words):
    assert result.exit_code == BAD_INPUT, result.output
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A smooth 32x32 image file."""
    x, y = np.meshgrid(*[np.linspace(0, 1, 32)] * 2)
    path = tmp_path_factory.mktemp("images") / "cat.png"
    write_image(path, np.stack([x, y, 0.5 + 0.4 * np.sin(6 * x * y)], -1))
    return path


def predict_noise(times, taus, scale, x, t):
    """The noise prediction for data of standard deviation 1/2, times a number."""
    tau = jnp.interp(t, times, taus)
    return scale * x * tau * jnp.sqrt(1 + tau**2) / (0.25 + tau**2)


@pytest.fixture
def small(monkeypatch, tiny):
    """Replaces every model by the tiny one with a formula for its network.

    The guidance scales the formula a little, so that it matters.
    """
    levels = (tiny.schedule.model_times, tiny.schedule.taus)

    def denoiser(_self, _prompt, _negative_prompt="", guidance_scale=1.0):
        scale = jnp.asarray(1 + 0.01 * (guidance_scale - 1), jnp.float32)
        return jax.tree_util.Partial(predict_noise, *levels, scale)

    monkeypatch.setattr(type(tiny), "denoiser", denoiser)
    monkeypatch.setattr("jaxinv.loading.load.load", lambda *_, **__: tiny)
    return tiny


def decode_blocks(vae, latent):
    """Blocks of 4 x 4 pixels: three channels in the upper half, the last below."""
    upper, lower = latent[..., :3], jnp.repeat(latent[..., 3:], 3, -1)
    halves = jnp.stack([upper, upper, lower, lower], 1).reshape(32, 8, 3)
    return 0.5 + jnp.repeat(halves, 4, 1) / 10


def encode_blocks(vae, image):
    """The inverse of :func:`decode_blocks`, for images that it made."""
    values = jnp.asarray(image, jnp.float32)
    values = values / 255 if image.dtype == jnp.uint8 else values
    halves = values.reshape(8, 2, 2, 8, 4, 3).mean((2, 4))
    upper, lower = halves[:, 0], halves[:, 1].mean(-1, keepdims=True)
    return 10 * (jnp.concatenate([upper, lower], -1) - 0.5)


def encode_blocks_badly(vae, image):
    """As :func:`encode_blocks`, but a tenth too small: something is left to find."""
    return 0.9 * encode_blocks(vae, image)


@pytest.fixture
def wide(small, monkeypatch):
    """The small model, whose autoencoder is an exact pair of formulas."""
    from jaxinv.pipeline import images

    monkeypatch.setattr(images, "decode", decode_blocks)
    monkeypatch.setattr(images, "encode", encode_blocks)
    return small
