"""The benchmark of attacks keeps noises, and counts what their keys find in them."""

import json

import jax
import numpy as np
import pytest

from benchmarks.watermark_attacks.__main__ import main
from benchmarks.watermark_attacks.runs import MARKS, make_key, read_noise, write_noise
from benchmarks.watermark_attacks.scores import Scored


def test_images_are_inverted_once_and_their_marks_are_found(tmp_path, diffusers_folder):
    cells, out = tmp_path / "cells.jsonl", tmp_path / "attacks.md"
    few = "--side 8 --images 1 --few-steps 2 --many-steps 3 --other-keys 2"
    chosen = "--inverses naive --attacks none --hard-attack none"
    files = ["--model", str(diffusers_folder), "--resume", str(cells), "--out"]
    main([*few.split(), *chosen.split(), *files, str(out)])
    lines = [json.loads(line) for line in cells.read_text().splitlines()]
    # Each scheme; one of them by two latents and with the prompt, too.
    assert len(lines) == 4 + 3
    assert all(line["found"]["evals"] == 2 for line in lines)
    text = out.read_text()
    rows = [line for line in text.splitlines() if line.startswith("| none | ")]
    assert [row.split("|")[2].strip() for row in rows] == [*MARKS]
    # Four noises against two keys; three more of the first scheme.
    assert "| PRC | 8 |" in text
    assert "| tree ring | 14 |" in text
    assert out.with_suffix(".png").exists()
    before = cells.read_bytes()
    main([*few.split(), *chosen.split(), *files, str(out), "--report-only"])
    assert cells.read_bytes() == before


@pytest.mark.parametrize("mark", MARKS)
def test_a_key_is_of_its_scheme_and_another_for_another_number(mark):
    shape = (8, 8, 4)
    noise = jax.random.normal(jax.random.key(0), shape)
    own, other = (make_key(mark, shape, number) for number in (1, 2))
    marked = own.embed(noise)
    again = make_key(mark, shape, 1).embed(noise)
    np.testing.assert_array_equal(marked, again)
    assert not np.array_equal(marked, other.embed(noise))


def test_a_noise_is_kept_in_16_bits():
    noise = np.random.default_rng(0).standard_normal((4, 4, 2)).astype(np.float32)
    np.testing.assert_allclose(
        read_noise(write_noise(noise), noise.shape), noise, atol=2e-3
    )


def test_thresholds_are_p_values_or_those_of_the_negatives():
    own, others = np.array([1e-5, 0.005, 0.02, 0.5]), np.linspace(0.01, 1, 100)
    blank = np.zeros(4)
    scored = Scored(blank, own, blank, blank, blank, blank, None, others)
    assert scored.found(0.01) == 2
    # One of 100 negatives, at 0.01, is allowed: the limit is the next, at 0.02.
    assert scored.found_empirically(0.01) == 2
    assert scored.found_empirically(0.05) == 3
    assert scored.found_empirically(0.001) is None
