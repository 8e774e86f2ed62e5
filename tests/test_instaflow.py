"""InstaFlow by name: a rectified flow in the folder of a diffusion model."""

import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinv as ji
from jaxinv.cli import options
from jaxinv.cli.commands import batch
from jaxinv.cli.prepare import prepare
from jaxinv.loading.convert import convert
from jaxinv.pipeline.families.instaflow import is_instaflow

PROMPT = "red"


@pytest.fixture(scope="module")
def pipe(instaflow_folder):
    with warnings.catch_warnings(action="error"):
        return ji.load(instaflow_folder)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_steps_are_those_of_the_published_loop(pipe, steps):
    z = noise = jax.random.normal(jax.random.key(0), pipe.latent_shape)
    text = pipe.encode_prompt(PROMPT)
    run = jax.jit(lambda network, *args: network(*args))
    for i in range(steps):
        z = z + run(pipe.network, z, jnp.float32(1000 * (1 - i / steps)), text) / steps
    sampler = pipe.sampler(steps)
    made = ji.sample(sampler, pipe.denoiser(PROMPT), noise)
    np.testing.assert_allclose(made, z, atol=2e-5)
    found = ji.invert(sampler, pipe.denoiser(PROMPT), made)
    assert bool(found.converged)
    assert float(ji.nmse_db(found.noise, noise)) < -80


def test_a_name_says_it_with_a_warning_and_conversion_keeps_it(
    diffusers_folder, tmp_path
):
    folder = tmp_path / "instaflow_0_9B_from_sd_1_5"
    shutil.copytree(diffusers_folder, folder)
    with pytest.warns(UserWarning, match="InstaFlow by its name"):
        pipe = ji.load(folder)
    assert pipe.schedule.prediction_type == "rectified_flow"
    assert pipe.sampler(1).num_steps == 1
    with pytest.warns(UserWarning, match="InstaFlow by its name"):
        convert(folder, tmp_path / "converted")
    with warnings.catch_warnings(action="error"):
        again = ji.load(tmp_path / "converted")
    assert again.family == pipe.family
    # Who names the schedule gets it, whatever the folder is called.
    with warnings.catch_warnings(action="error"):
        other = ji.load(folder, schedule=ji.scaled_linear())
    assert other.schedule.family == "vp"
    assert other.family != pipe.family


def test_a_snapshot_in_the_hub_s_cache_has_the_name_of_its_repository(
    diffusers_folder, tmp_path
):
    folder = tmp_path / "models--XCLiu--instaflow_0_9B_from_sd_1_5/snapshots/17f2a1"
    shutil.copytree(diffusers_folder, folder)
    with pytest.warns(UserWarning, match="InstaFlow by its name"):
        pipe = ji.load(folder)
    assert pipe.name == "XCLiu/instaflow_0_9B_from_sd_1_5"


@pytest.mark.filterwarnings("ignore:.*InstaFlow by its name")
def test_a_job_is_another_one_if_only_the_folder_s_name_differs(
    diffusers_folder, tmp_path
):
    described = []
    for name in ("one", "other", "instaflow"):
        folder = shutil.copytree(diffusers_folder, tmp_path / name)
        sampling = batch.Sampling(model=str(folder), sampler="ddim")
        asked = batch.Options(
            manifest=tmp_path,
            out=tmp_path,
            sampling=sampling,
            size=options.Size(),
            reading=options.Reading(),
            hosts=batch.Processes(),
        )
        described.append(batch._settings(asked, prepare(sampling), "float32"))
    assert described[0] == described[1] != described[2]


def test_a_prediction_type_does_not_fit_a_flow(instaflow_folder):
    with pytest.raises(ValueError, match="'epsilon' does not fit this model of Insta"):
        ji.load(instaflow_folder, prediction_type="epsilon")


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("XCLiu/instaflow_0_9B_from_sd_1_5", True),
        ("XCLiu/2_rectified_flow_from_sd_1_5", True),
        ("models/InstaFlow/", True),
        ("instaflow/stable-diffusion-v1-5", False),
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", False),
    ],
)
def test_the_last_part_of_a_name_counts(name, known):
    assert is_instaflow(name) is known
