"""The benchmark of editing keeps what it has to, and says what it needs."""

import json

import numpy as np
import pytest

from benchmarks.editing.__main__ import main
from benchmarks.editing.runs import Setting


def disc() -> tuple[str, np.ndarray]:
    """A gray disc, 32x32 pixels, and its phrase."""
    y, x = np.mgrid[-16:16, -16:16]
    alpha = (np.hypot(x, y) < 10).astype(np.float32)
    return "disc", alpha[..., None] * np.float32([0.5, 0.5, 0.5, 1.0])


def test_both_edits_are_made_by_all_methods(tmp_path, diffusers_folder, monkeypatch):
    monkeypatch.setattr(Setting, "drawings", [disc()])
    cells, out = tmp_path / "cells.jsonl", tmp_path / "editing.md"
    few = ["--pictures", "1", "--shown", "1", "--steps", "4", "--data", "unused"]
    files = [
        "--model",
        str(diffusers_folder),
        "--resume",
        str(cells),
        "--out",
        str(out),
    ]
    main([*few, *files])
    found = [json.loads(line) for line in cells.read_text().splitlines()]
    assert len(found) == 2 * 3 * 2
    names = ("kept_psnr", "kept_ssim", "changed_rms", "gain")
    assert np.all(
        np.isfinite([[line["found"][name] for name in names] for line in found])
    )
    text = out.read_text()
    assert text.count("| DDIM, naive, mask | 1 |") == 2
    assert text.count("| O-BELM, mask | 1 |") == 2
    assert (tmp_path / "editing-panel.png").exists()


def test_without_the_pictures_it_says_what_is_needed(capsys):
    with pytest.raises(SystemExit):
        main([])
    assert "npm pack @iconify-json/noto" in capsys.readouterr().err
