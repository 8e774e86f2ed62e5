"""The report of full-size programs, on a model of a few channels."""

import jax

from benchmarks.full_size.__main__ import MODELS, main, measured, programs
from jaxinv.models import abstract_component
from jaxinv.models.parameters import parameters


def test_a_report_has_a_row_per_program(tmp_path, monkeypatch):
    one = "UNet, one call"
    monkeypatch.setattr(
        "benchmarks.full_size.__main__.programs",
        lambda *given: (p for p in programs(*given) if p.name == one),
    )
    before = jax.config.jax_enable_compilation_cache
    out = tmp_path / "full_size.md"
    main(["--models", "tiny", "--dtype", "float32", "--out", str(out)])
    assert f"| {one} | float32 |" in out.read_text()
    assert jax.config.jax_enable_compilation_cache == before


def test_parameters_and_operations_are_those_of_the_model():
    call, twice = (
        measured(program)
        for program, _ in zip(
            programs(MODELS["tiny"], "float32"), range(2), strict=False
        )
    )
    unet = abstract_component(MODELS["tiny"].unet)
    size = 4 * sum(x.size for x in parameters(unet).values())
    assert call[2].parameters == size
    assert twice[2].parameters == size
    assert 1.5 < twice[3] / call[3] < 2.1  # guidance evaluates the network twice
    assert call[0] > 0
    assert call[1] > 0
