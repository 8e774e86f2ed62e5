"""What exactness buys in editing: the comparison measures what it says."""

import numpy as np
import pytest

import jaxinv as ji
from benchmarks.editing_exactness import tables
from benchmarks.editing_exactness.__main__ import given, main, plan
from benchmarks.editing_exactness.cells import LINKS, Bench, Cell
from benchmarks.editing_exactness.setting import Model, background
from benchmarks.report import append_line

CELL = Cell("tiny", "edit", "far", 2, 1.5, "exact")


@pytest.fixture(scope="module")
def bench(tiny):
    def make(steps):
        sampler = ji.ddim(ji.time_grid(tiny.schedule, steps))
        return sampler, {"naive": "naive", "exact": "stepwise"}

    with pytest.warns(ji.LossyGridWarning):
        return Bench(Model("tiny", tiny, make, {}), CELL.steps, 0, None)


def test_the_exact_inversion_finds_the_edit_of_the_true_noise(bench):
    exact, naive = (
        bench.measure(CELL._replace(inversion=name), 0) for name in ("exact", "naive")
    )
    assert exact["to_truth"] < -80 < naive["to_truth"]
    assert exact["round_trip"] < -80 < naive["round_trip"]


def test_exact_edits_there_and_back_return_to_the_first_picture(bench):
    exact, naive = (
        bench.measure(CELL._replace(what="chain", inversion=name), 0)
        for name in ("exact", "naive")
    )
    assert len(exact["distance"]) == LINKS
    assert max(exact["distance"][1::2]) < -80 < min(naive["distance"][1::2])
    assert min(exact["distance"][::2]) > -80  # the other prompt's picture is another


def test_a_background_is_what_is_near_the_color_of_the_frame():
    picture = np.full((16, 16, 3), 0.8, np.float32)
    picture[6:9, 6:9] = 0.1
    wanted = np.ones((16, 16), bool)
    wanted[6:9, 6:9] = False
    np.testing.assert_array_equal(background(picture), wanted)


def test_an_interval_of_equal_differences_is_their_value():
    found = tables.difference([(1.0, 3.0), (5.0, 7.0), (0.0, 2.0)])
    assert found == (2.0, 2.0, 2.0, 3)
    assert str(found) == "**+2.0 (+2.0 to +2.0)**"


def test_differences_are_of_the_same_picture_and_unknown_ones_are_left_out():
    first = {0: {"x": 1.0}, 1: {"x": None}, 2: {"x": 9.0}}
    second = {0: {"x": 0.0}, 1: {"x": 5.0}, 3: {"x": 9.0}}
    assert tables.paired(first, second, "x") == (-1.0, -1.0, -1.0, 1)


def test_every_cell_of_the_plan_is_there_once_and_has_a_rival():
    cells = list(plan())
    assert len(set(cells)) == len(cells)
    assert all(cell._replace(inversion="naive") in cells for cell in cells)


def test_the_report_says_what_was_not_run(tmp_path):
    edit = Cell("emoflow", "edit", "near", 8, 3.0, "exact")
    figures = {"round_trip": -90.0, "noise": -80.0, "to_truth": -85.0, "evals": 40}
    figures |= {"background": 25.0, "gain": 0.1}
    chain = {"distance": [0.0, -90.0] * 2, "background": [20.0] * LINKS, "evals": 9}
    worse = {"round_trip": -9.0, "background": 22.0, "gain": -0.1}
    lines = [
        (edit, figures),
        (edit._replace(inversion="naive"), figures | worse),
        (edit._replace(what="chain", kind="far"), chain),
    ]
    kept = tmp_path / "cells.jsonl"
    for cell, found in lines:
        append_line(kept, {"cell": [*cell, 0], "given": given(0), "found": found})
    out = tmp_path / "report.md"
    main(["--report-only", "--resume", str(kept), "--out", str(out), "--pictures", "1"])
    text = out.read_text()
    assert "| small SD3, Euler; 8 steps, guidance 3, near | 1 | **+3.0 (+3.0" in text
    assert "| 1 exact, 0 other |" in text
    assert "| -90.0 / -90.0 |" in text
    left_out = text.split("Planned, and not run on all 1 pictures:")[1]
    assert "emoji64, 2M, edit, far, 20 steps" in left_out
    assert (tmp_path / "report-drift.png").exists()
