"""The benchmark runs, continues, and what its tables say of one small case is true."""

import json

import pytest

from benchmarks.exactness.__main__ import main

SMALL = (
    "--samples 1 --samplers 2M --methods naive trajectory --grids log_snr --steps 20 "
    "--guidance 1 --cases"
)


@pytest.mark.filterwarnings("ignore:the prompt has")  # for the small model's text
def test_the_whole_trajectory_beats_naive_inversion_and_is_not_measured_twice(
    tmp_path, diffusers_folder
):
    out, cells = tmp_path / "exactness.md", tmp_path / "cells.jsonl"
    arguments = [*SMALL.split(), "--model", str(diffusers_folder)]
    arguments += ["--out", str(out), "--resume", str(cells)]
    main(arguments)
    found = {
        cell["method"]: cell for cell in map(json.loads, cells.read_text().splitlines())
    }
    naive, exact = found["naive"], found["trajectory"]
    assert exact["converged"] == [True]
    assert exact["noise_db"][0] < naive["noise_db"][0] - 40
    # All levels in one call per sweep, and one sweep per unit of depth. The way back is
    # the benchmark's own.
    assert exact["evals"][0] == 20 * exact["depth"][0]
    assert naive["evals"] == [20]
    assert "trajectory" in out.read_text()
    # Of one guidance scale there is no picture against guidance.
    assert [p.name for p in tmp_path.glob("*.png")] == ["exactness-evaluations.png"]

    main(arguments)
    assert len(cells.read_text().splitlines()) == 2
