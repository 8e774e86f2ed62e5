"""The README's Python works when pasted."""

import re
from pathlib import Path
from typing import Any

import jaxinv as ji

README = Path(__file__).parents[1] / "README.md"


def test_readme_python_blocks_run_in_order():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    namespace: dict[str, Any] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, str(README), "exec"), namespace)
        if number == 0:  # what "jaxinv demo" does with the embedded model
            assert namespace["result"].converged
            found, noise = namespace["result"].noise, namespace["noise"]
            assert ji.nmse_db(found, noise) < -60
    assert namespace["batch"].converged.all()
    video = namespace["found"]  # two frames; the decoder cannot make the second exactly
    assert video.residual < video.encoder_residual
    assert namespace["result"].state_converged
    assert namespace["edited"].inversion.converged
    assert namespace["image"].shape == namespace["picture"].shape == (64, 64, 3)


def test_readme_links_point_to_files():
    links = re.findall(r"\]\(([^)]+)\)", README.read_text())
    assert links
    missing = [
        link
        for link in links
        if "://" not in link and not (README.parent / link.split("#")[0]).exists()
    ]
    assert not missing
