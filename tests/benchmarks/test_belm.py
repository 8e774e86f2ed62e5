"""The benchmark of bidirectional samplers runs, continues, and skips what it lacks."""

import json

import numpy as np
import pytest

from benchmarks.belm.__main__ import SECTIONS, main
from training.drawings import HELD_OUT, KINDS, STYLES

# Captions are longer than the small model's text.
pytestmark = [
    pytest.mark.slow,  # compiles some forty programs
    pytest.mark.filterwarnings("ignore:the prompt has"),
]

# Equal numbers of steps share their compiled programs.
TINY = """
--order-samplers O-BELM --order-steps 10 20 40 --stability-steps 10
--trip-steps 8 --trip-images 1 --trip-guidance 2 --trip-samplers O-BELM DDIM
--quality-samples 1 --quality-evaluations 4 8 --quality-guidance 1 --reference-steps 16
--quality-samplers O-BELM DDIM
--gradient-samplers O-BELM --gradient-steps 4 8
--between-steps 8 --between-points 2 --sheet-evaluations 4 --sheet-samples 1
--sheet-converged 4
--frechet-samples 6 --frechet-training 8 --frechet-components 2
--frechet-evaluations 4 --frechet-samplers O-BELM
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Squares of random colors in the layout of the packages of drawings."""
    pytest.importorskip("resvg_py")
    folder = tmp_path_factory.mktemp("drawings")
    rng = np.random.default_rng(0)
    for style in STYLES:
        square = '<path fill="#{:02x}{:02x}{:02x}" d="M4 4h8v8H4z"/>'
        colors = rng.integers(0, 256, (len(KINDS) + len(HELD_OUT), 3))
        icons = {
            name: {"body": square.format(*color)}
            for name, color in zip((*KINDS, *HELD_OUT), colors, strict=True)
        }
        (folder / style / "package").mkdir(parents=True)
        (folder / style / "package" / "icons.json").write_text(
            json.dumps({"icons": icons, "width": 16, "height": 16})
        )
    return folder


@pytest.fixture(scope="module")
def measured(package, diffusers_folder, tmp_path_factory):
    """All sections on a small random model: the lines, and the report."""
    folder = tmp_path_factory.mktemp("belm")
    arguments = [
        *TINY.split(),
        "--model",
        str(diffusers_folder),
        "--data",
        str(package),
    ]
    arguments += ["--out", str(folder / "belm.md")]
    arguments += ["--resume", str(folder / "cells.jsonl")]
    main(arguments)
    lines = (folder / "cells.jsonl").read_text().splitlines()
    main(arguments)
    again = (folder / "cells.jsonl").read_text().splitlines()
    assert again == lines  # nothing is measured twice
    return [json.loads(line) for line in lines], (folder / "belm.md").read_text()


def test_all_sections_are_measured_and_reported(measured):
    lines, text = measured
    assert {line["section"] for line in lines} == set(SECTIONS)
    assert all(f"## {section.TITLE}" in text for section in SECTIONS.values())
    assert "not measured" not in text


def test_the_round_trip_is_exact_as_its_arithmetic_promises(measured):
    trips = {
        tuple(line["what"][2:4]): line["found"]
        for line in measured[0]
        if line["section"] == "round_trip"
    }
    assert trips["O-BELM", "bits"]["bits"] == [0]
    assert trips["O-BELM", "compensated"]["state_db"][0] < -120
    assert trips["O-BELM", "float"]["state_db"][0] < -60
    assert trips["DDIM", "float"]["state_db"][0] > -60


def test_more_evaluations_come_nearer_to_the_converged_solution(measured):
    nmse = {
        tuple(line["what"][:3:2]): line["found"]["nmse_db"][0]
        for line in measured[0]
        if line["section"] == "quality" and "nmse_db" in line["found"]
    }
    assert nmse["O-BELM", 8] < nmse["O-BELM", 4]
    assert nmse["DDIM", 8] < nmse["DDIM", 4]


def test_reversible_gradients_equal_autodiff_and_need_no_more_memory(measured):
    found = {
        line["what"][1]: line["found"]
        for line in measured[0]
        if line["section"] == "gradients"
    }
    assert max(found[8]["errors"]["reversible"]) < 1e-4
    fewer, more = found[4]["bytes"], found[8]["bytes"]
    growth = {way: more[way] / fewer[way] for way in more}
    assert growth["reversible"] < 1.1
    assert growth["autodiff"] > 1.3


def test_real_pictures_are_asked_for_where_they_are_needed(tmp_path):
    main(["--sections", "round_trip", "--out", str(tmp_path / "belm.md")])
    assert "npm pack" in (tmp_path / "belm.md").read_text()
