"""The benchmark of watermarks counts what it measured, and continues where it was."""

import json

import numpy as np
import pytest

from benchmarks.report import share
from benchmarks.watermark.__main__ import main
from benchmarks.watermark.runs import Run
from benchmarks.watermark.tables import verdict


def test_images_are_inverted_once_and_counted(tmp_path, diffusers_folder):
    cells, out = tmp_path / "cells.jsonl", tmp_path / "watermark.md"
    few = "--per-key 1 --unmarked 1 --shading 1 --exact-images 2 --attacked 0"
    case = ["--cases", "20 steps, log_snr", "--methods", "naive", "--decoders"]
    files = [
        "--model",
        str(diffusers_folder),
        "--resume",
        str(cells),
        "--out",
        str(out),
    ]
    main([*few.split(), *case, "encoder", *files])
    lines = [json.loads(line) for line in cells.read_text().splitlines()]
    assert len(lines) == 5  # an image for each key, one without, one with a message
    assert all(line["found"]["evals"] == 20 for line in lines)
    text = out.read_text()
    (row,) = [
        line for line in text.splitlines() if line.startswith("| naive, encoder | 3")
    ]
    assert row.split("|")[2].strip() == "3, 1"
    assert "64 bits, each in 4 numbers" in text
    assert (tmp_path / "watermark-20-steps.png").exists()
    main([*few.split(), *case, "encoder", *files])
    assert len(cells.read_text().splitlines()) == 5


def cells(marked, unmarked):
    """Runs with these distances to three keys; p is a hundredth of the distance."""
    for n, (key, distances) in enumerate([*marked, *((-1, d) for d in unmarked)]):
        run = Run("case", "naive", "encoder", "none", "tree ring", key, n)
        p = [d / 100 for d in distances]
        numbers = {"noise_db": 0.0, "converged": True, "evals": 1, "seconds": 1.0}
        yield run, {**numbers, "distances": distances, "p": p}


def test_a_verdict_counts_what_is_near_to_its_own_key():
    nan = [float("nan")] * 3
    marked = [(0, [0.5, 2, 3]), (1, [2, 4, 3]), (2, [5, 6, 1]), (0, nan)]
    found = verdict([*cells(marked, [[7.0, 7.0, 7.0], [0.7, 0.7, 0.7]])])
    # Of what overflowed there is no nearest key, and it is not found.
    np.testing.assert_array_equal(found["confusion"], [[1, 0, 0], [1, 0, 0], [0, 0, 1]])
    assert (found["marked"], found["unmarked"], found["right"]) == (4, 2, 2)
    assert (found["true"], found["false"], found["wrong"]) == (2, 1, 0)
    # Below 7: 0.5, 4, 1; below 0.7: 0.5. Four of the eight pairs.
    assert found["auc"] == pytest.approx(4 / 8)
    assert found["near"] is None  # two unmarked images are too few for 1 %
    many = verdict([*cells(marked, [[d / 10] * 3 for d in range(1, 201)])])
    # Two of 200, 0.1 and 0.2, may pass: below 0.3 there is nothing; below 4, 0.5 and 1.
    assert many["near"] == 0
    assert verdict([*cells(marked, [[d + 2.0] * 3 for d in range(200)])])["near"] == 2


def test_shares_come_with_wilsons_interval():
    # Brown, Cai & DasGupta 2001: 0 of 10 is 0 to 0.2775; symmetric at one half.
    assert share(0, 10) == "0 % (0 to 28)"
    assert share(5, 10) == "50 % (24 to 76)"
    assert share(0, 0) == "-"


def test_what_is_unknown_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--methods", "magic"])
    assert "magic" in capsys.readouterr().err
