"""The benchmark of flows runs and continues, and diffusers runs its trained flow."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinv as ji
from benchmarks.flows.__main__ import fate_of, main
from benchmarks.flows.problems import (
    EMOFLOW,
    EMOJI64,
    emoji_latents,
    guided_mixture,
    load_emoflow,
)
from benchmarks.mixture import COMPONENTS, DIMENSIONS
from training.flow_folder import complete_folder

SMALL = (
    "--samples 2 --steps 8 --guidance 3.5 --problems guided_mixture "
    "--methods uni_inv euler_exact"
)


def test_exact_inversion_beats_a_rival_and_is_not_measured_twice(tmp_path):
    out, cells = tmp_path / "flows.md", tmp_path / "cells.jsonl"
    arguments = [*SMALL.split(), "--out", str(out), "--resume", str(cells)]
    main(arguments)
    lines = list(map(json.loads, cells.read_text().splitlines()))
    found = {line["cell"][1]: line["found"] for line in lines}
    assert max(found["euler_exact"]["noise"]) < min(found["uni_inv"]["noise"]) - 40
    assert found["euler_exact"]["converged"] == [1.0, 1.0]
    assert found["uni_inv"]["evals"] == [9, 9]
    assert min(found["uni_inv"]["seconds"]) > 0
    assert "| 8 | Euler, Uni-Inv |" in out.read_text()
    assert "| 8 | Euler, exact | 2 recovered |" in out.read_text()
    assert (tmp_path / "flows-guided-mixture-errors.png").exists()
    main(arguments)
    assert len(cells.read_text().splitlines()) == 2


def test_samples_are_counted_once_by_what_became_of_them():
    found = {
        "noise": [-90.0, -61.0, -10.0, -80.0, 3.0],
        "solved": [1.0, 1.0, 1.0, 1.0, 0.0],
        "converged": [1.0, 1.0, 1.0, 0.0, 0.0],
    }
    expected = "2 recovered, 1 another noise, 1 amplified, 1 unsolved"
    assert fate_of(found) == expected


def test_the_velocity_of_the_mixture_leads_to_its_condition():
    problem = guided_mixture(3)
    centers = np.random.default_rng(0).standard_normal((COMPONENTS, DIMENSIONS))
    sampler = ji.euler(problem.grid(28))
    for k, noise in enumerate(problem.noises(0)):
        x0 = ji.sample(sampler, problem.denoiser(k, 1.0), noise)
        nearest = jnp.argmin(jnp.linalg.norm(centers - x0, axis=1))
        assert int(nearest) == k


def test_the_flow_draws_what_its_prompt_says():
    size = sum(file.stat().st_size for file in EMOFLOW.rglob("*"))
    assert size < 12 * 2**20
    problem = emoji_latents(1)
    assert problem.decode is not None
    denoise = problem.denoiser(0, 3.5)  # a red heart on light blue
    x0 = ji.sample(ji.euler(problem.grid(8)), denoise, problem.noises(0)[0])
    image = np.asarray(jax.jit(problem.decode)(x0))
    middle = image[24:40, 24:40].mean((0, 1))
    corner = np.concatenate([image[:4, :4], image[-4:, -4:]]).mean((0, 1))
    assert middle[0] > max(middle[1:]) + 0.3
    assert corner[2] > corner[0] + 0.1


def test_the_flow_gives_the_latents_of_diffusers(tmp_path):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    complete_folder(EMOFLOW, EMOJI64, tmp_path / "flow")
    theirs = diffusers.StableDiffusion3Pipeline.from_pretrained(
        tmp_path / "flow",
        text_encoder_3=None,
        tokenizer_3=None,
        torch_dtype=torch.float32,
    )
    theirs.set_progress_bar_config(disable=True)
    pipe, prompt = load_emoflow(), "pizza on a white background"
    noise = np.random.default_rng(0).standard_normal(pipe.latent_shape, np.float32)
    expected = theirs(
        prompt,
        num_inference_steps=3,
        guidance_scale=3.5,
        latents=torch.from_numpy(noise.transpose(2, 0, 1)[None]),
        max_sequence_length=0,
        output_type="latent",
        height=64,
        width=64,
    ).images[0]
    denoise = pipe.denoiser(prompt, guidance_scale=3.5, max_sequence_length=0)
    found = ji.sample(pipe.sampler(3), denoise, jnp.asarray(noise))
    expected = expected.numpy().transpose(1, 2, 0)
    rms = np.sqrt(np.mean(expected**2))
    assert np.max(np.abs(np.asarray(found) - expected)) <= 1e-4 * rms
