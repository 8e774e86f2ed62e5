"""The benchmark of decoder inversion runs, and continues where it was."""

import pytest
from PIL import Image

from benchmarks.decoder import main

# Captions are longer than the small model's text.
pytestmark = [
    pytest.mark.slow,  # compiles some forty programs
    pytest.mark.filterwarnings("ignore:the prompt has"),
]


@pytest.fixture(scope="module")
def measured(diffusers_folder, tmp_path_factory):
    """All sections on a small random model: the arguments, and the report."""
    folder = tmp_path_factory.mktemp("decoder")
    arguments = [
        *("--model", str(diffusers_folder), "--samples", "2", "--iterations", "3"),
        *("--repeats", "1", "--size", "32", "--small"),
        "--full-size",
        *("--out", str(folder / "decoder.md"), "--resume", str(folder / "cells.jsonl")),
    ]
    main(arguments)
    return arguments, folder


def test_every_method_is_in_the_report_and_the_pictures_are_there(measured):
    _, folder = measured
    text = (folder / "decoder.md").read_text()
    for name in ("encoder", "gradient", "adam", "anderson", "gauss_newton"):
        assert f"| {name} |" in text
    for name in ("pareto", "cocoercivity"):
        with Image.open(folder / f"decoder-{name}.png") as picture:
            assert min(picture.size) > 300


def test_a_second_run_measures_nothing_again(measured):
    arguments, folder = measured
    before = (folder / "cells.jsonl").read_text()
    main(arguments)
    assert (folder / "cells.jsonl").read_text() == before
