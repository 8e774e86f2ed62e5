"""The README's Python works when pasted."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_readme_python_blocks_run_in_order():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert blocks
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), namespace)
    assert bool(namespace["result"].state_converged)
    assert namespace["image"].shape == (64, 64, 3)


def test_readme_links_point_to_files():
    links = re.findall(r"\]\(([^)]+)\)", README.read_text())
    assert links
    missing = [
        link
        for link in links
        if "://" not in link and not (README.parent / link.split("#")[0]).exists()
    ]
    assert not missing
