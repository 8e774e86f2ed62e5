"""Takes the README's pictures out of the notebooks: ``python docs/pictures.py``."""

import base64
import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: File in docs: notebook, and which of its pictures.
PICTURES = {
    "three-inverses.png": ("02_exact_inversion_of_dpm_solvers", 0),
    "watermark-spectra.png": ("05_watermarks", 1),
    "editing.png": ("06_editing_and_interpolation", 1),
}


def picture(notebook: str, index: int) -> bytes:
    """Return a picture of a notebook, as PNG."""
    cells = json.loads((ROOT / f"notebooks/{notebook}.ipynb").read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    pictures = [o["data"] for o in outputs if "image/png" in o.get("data", {})]
    return base64.b64decode(pictures[index]["image/png"])


if __name__ == "__main__":
    for name, place in PICTURES.items():
        (ROOT / "docs" / name).write_bytes(picture(*place))
        print(name)
