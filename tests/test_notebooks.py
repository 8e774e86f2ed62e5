"""What is committed of the notebooks: pairs that agree, with outputs that are small.

That they run is seen by ``.ci/run``, which executes every one of them.
"""

import json
import re
from pathlib import Path

import jupytext
import pytest

from docs.pictures import PICTURES, picture

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "notebooks").glob("*.py"))


def test_there_are_eight():
    assert [path.name[:2] for path in SCRIPTS] == [f"0{k}" for k in range(1, 9)]


@pytest.fixture(params=SCRIPTS, ids=lambda path: path.stem)
def pair(request):
    script = request.param
    return jupytext.read(script), json.loads(script.with_suffix(".ipynb").read_text())


def test_the_notebook_is_its_script(pair):
    script, notebook = pair
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    assert cells == [(cell.cell_type, cell.source) for cell in script.cells]


def test_it_was_run_with_pictures_and_without_errors(pair):
    _, notebook = pair
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == [*range(1, len(code) + 1)]
    outputs = [o for cell in code for o in cell["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error"]
    assert [o for o in outputs if "image/png" in o.get("data", {})]
    # Nothing that a reader must wait for, and nothing of the machine that ran it.
    assert len(json.dumps(notebook)) < 1_000_000
    for output in outputs:
        output.get("data", {}).pop("image/png", None)
    assert not re.search(r"/(home|root|work|tmp|opt)/", json.dumps(outputs))


def test_it_opens_in_colab_and_its_links_lead_somewhere(pair):
    script, _ = pair
    text = "\n".join(cell.source for cell in script.cells)
    name = re.search(r"blob/main/notebooks/([\w.]+)\)", text).group(1)
    assert (ROOT / "notebooks" / name).exists()
    assert name[:2] == re.search(r"^# (\d)\.", text, re.MULTILINE).group(1).zfill(2)
    for link in re.findall(r"\]\((\w+\.ipynb)\)", text):
        assert (ROOT / "notebooks" / link).exists()


def test_it_has_the_switches_for_tests_and_for_real_models(pair):
    script, _ = pair
    text = "\n".join(cell.source for cell in script.cells)
    assert "JAXINV_FAST" in text
    if "ji.load(MODEL)" in text:
        assert "JAXINV_MODEL" in text


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_of_the_readme_are_those_of_the_notebooks(name):
    assert (ROOT / "docs" / name).read_bytes() == picture(*PICTURES[name])
    assert f"docs/{name}" in (ROOT / "README.md").read_text()
