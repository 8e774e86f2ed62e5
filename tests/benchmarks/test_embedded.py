"""The benchmark of the embedded model: its measures, and that it continues."""

import numpy as np
import pytest

from benchmarks.embedded import inversion, memorisation
from benchmarks.embedded.__main__ import parse


def test_pictures_that_ignore_the_noise_have_no_distance_between_seeds():
    rng = np.random.default_rng(0)
    of_prompts = rng.normal(size=(5, 1, 8, 8, 4))
    seeds, prompts = memorisation.distances(np.repeat(of_prompts, 3, axis=1))
    assert seeds == 0.0
    assert prompts == pytest.approx(2**0.5, rel=0.1)


def test_pictures_that_ignore_the_prompt_have_no_distance_between_prompts():
    rng = np.random.default_rng(1)
    of_seeds = rng.normal(size=(1, 6, 8, 8, 4))
    seeds, prompts = memorisation.distances(np.repeat(of_seeds, 3, axis=0))
    assert prompts == 0.0
    assert seeds == pytest.approx(2**0.5, rel=0.1)


def test_nearest_training_picture_is_found_by_its_distance():
    rng = np.random.default_rng(2)
    known = rng.normal(size=(7, 4, 4, 2))
    found = known[[[3, 3], [5, 0]]] + 0.01 * rng.normal(size=(2, 2, 4, 4, 2))
    indices = memorisation.nearest(found, known)
    np.testing.assert_array_equal(indices, [[3, 3], [5, 0]])
    assert memorisation.same_for_all(indices) == 0.5


def test_an_interrupted_run_measures_only_what_is_missing(tmp_path, monkeypatch):
    measured = []

    def once(pipe, arguments, cell):
        measured.append(cell)
        noise = -90.0 if cell.prompt else -10.0
        return {"noise_db": noise, "converged": True, "per_step": 6.0}

    monkeypatch.setattr(inversion, "_invert", once)
    command = ["--cells", str(tmp_path / "cells.jsonl"), "--prompts", "2"]
    some = parse([*command, "--guidance", "5"])
    inversion.measure(None, some)
    everything = parse([*command, "--guidance", "5", "7.5"])
    found = inversion.measure(None, everything)
    assert len(measured) == len(set(measured)) == len(found) == 2 * 2 * 2 * 2
    row = "| DDIM | 7.5 | exact | 1 of 2 | -50.0 | -10.0 | 2 of 2 | 6.0 |"
    assert row in inversion.report(found)
