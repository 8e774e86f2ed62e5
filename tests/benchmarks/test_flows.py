"""The benchmark of flows runs, continues, and its network was trained."""

import json

import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from benchmarks.flows.__main__ import main
from benchmarks.flows.network import KINDS, WEIGHTS
from benchmarks.flows.problems import flux_grid, guided_mixture, small_network

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
    assert "| 8 | Euler, Uni-Inv |" in out.read_text()
    assert (tmp_path / "flows-errors.png").exists()
    main(arguments)
    assert len(cells.read_text().splitlines()) == 2


def test_the_velocity_of_the_mixture_leads_to_its_condition():
    problem = guided_mixture(3)
    centers = problem.model.args[0]
    sampler = ji.euler(flux_grid(28))
    for k, noise in enumerate(problem.noises(0)):
        x0 = ji.sample(sampler, problem.denoiser(k, 1.0), noise)
        nearest = jnp.argmin(jnp.linalg.norm(centers - x0, axis=1))
        assert int(nearest) == k


def test_the_network_draws_what_its_condition_says():
    assert WEIGHTS.stat().st_size < 2**20
    problem = small_network(2)
    assert KINDS[0] == "red-heart"
    image = ji.sample(
        ji.euler(flux_grid(8)), problem.denoiser(0, 3.5), problem.noises(0)[0]
    )
    red, green, blue = np.asarray(image)[5:11, 5:11].mean((0, 1))
    assert red > max(green, blue) + 0.5
