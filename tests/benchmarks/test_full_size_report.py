"""The report of full-size programs, on a model of a few channels."""

import jax

from benchmarks.full_size import flux
from benchmarks.full_size.__main__ import (
    MODELS,
    main,
    programs,
    read_sections,
    report,
)
from benchmarks.full_size.measure import measured
from jaxinv.models import abstract_component
from jaxinv.models.parameters import parameters


def test_a_report_has_a_row_per_program(tmp_path, monkeypatch):
    calls = "UNet, one call", "one call"
    monkeypatch.setattr(
        "benchmarks.full_size.__main__.programs",
        lambda *given: (p for p in programs(*given) if p.name in calls),
    )
    before = jax.config.jax_enable_compilation_cache
    out = tmp_path / "full_size.md"
    for name, dtype in (("tiny", "float32"), ("flux_tiny", "bfloat16")):
        main(["--models", name, "--dtype", dtype, "--out", str(out)])
        # The second run keeps the section of the first.
        for call, kept in zip(calls, (True, name == "flux_tiny"), strict=True):
            assert (f"| {call} | " in out.read_text()) == kept
    again = out.read_text()
    assert report(read_sections(out)) == again
    assert jax.config.jax_enable_compilation_cache == before


def test_every_program_of_flux_is_traced_without_values():
    """Networks of shapes alone, as at full size; states are float32."""
    config = MODELS["flux_tiny"]
    for program in flux.programs(config, "bfloat16", size=4, steps=3):
        found = jax.eval_shape(program.function, *program.arguments)
        assert jax.tree.leaves(found)[0].dtype == "float32", program.name


def test_parameters_and_operations_are_those_of_the_model():
    call, twice = (
        measured(program)
        for program, _ in zip(programs("tiny", "float32"), range(2), strict=False)
    )
    unet = abstract_component(MODELS["tiny"].unet)
    size = 4 * sum(x.size for x in parameters(unet).values())
    assert call[2].parameters == size
    assert twice[2].parameters == size
    assert 1.5 < twice[3] / call[3] < 2.1  # guidance evaluates the network twice
    assert call[0] > 0
    assert call[1] > 0
