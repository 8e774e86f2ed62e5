"""The benchmark of watermarks counts what it measured, and continues where it was."""

import json

import pytest

from benchmarks.watermark import main
from benchmarks.watermark_report import share


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


def test_shares_come_with_wilsons_interval():
    # Brown, Cai & DasGupta 2001: 0 of 10 is 0 to 0.2775; symmetric at one half.
    assert share(0, 10) == "0 % (0 to 28)"
    assert share(5, 10) == "50 % (24 to 76)"
    assert share(0, 0) == "-"


def test_what_is_unknown_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--methods", "magic"])
    assert "magic" in capsys.readouterr().err
