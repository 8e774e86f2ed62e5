"""The contact sheets of the editing methods, at their smallest size."""

from benchmarks.editing_methods import __main__ as sheets
from jaxinv.files.image_reading import read_image


def test_a_sheet_and_a_report_are_written(diffusers_folder, tmp_path, monkeypatch):
    chosen = [sheets.COLUMNS[0], sheets.COLUMNS[3]]
    monkeypatch.setattr(sheets, "COLUMNS", chosen)
    monkeypatch.setattr(sheets, "PROMPTS", [("a red cat", "a red dog")])
    out = tmp_path / "methods.md"
    arguments = ["--model", str(diffusers_folder), "--steps", "2"]
    sheets.main([*arguments, "--out", str(out)])
    text = out.read_text()
    assert "1 of 1 inversions converged" in text
    assert "methods-2-steps.png" in text
    assert "| MasaCtrl |" in text
    assert read_image(tmp_path / "methods-2-steps.png").pixels.ndim == 3
