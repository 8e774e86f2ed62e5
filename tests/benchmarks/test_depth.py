"""The report on compile times by depth, on a model of a few features."""

import jax

from benchmarks.depth.__main__ import QUARTER, SIZES, WHOLE, main, programs
from jaxinv.models.parameters import parameters


def test_a_report_compares_the_depths_of_every_program(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "benchmarks.depth.__main__.programs",
        lambda *given: list(programs(*given))[:1],
    )
    before = jax.config.jax_enable_compilation_cache
    out = tmp_path / "depth.md"
    main(["--size", "tiny", "--repeats", "1", "--out", str(out)])
    text = out.read_text()
    assert "| one call | 5 + 10 |" in text
    assert "| one call | 19 + 38 |" in text
    assert "The largest ratio is" in text
    assert jax.config.jax_enable_compilation_cache == before


def test_the_depths_compared_differ_by_four_at_one_width():
    assert WHOLE.num_layers // 4 <= QUARTER.num_layers <= -(-WHOLE.num_layers // 4)
    assert WHOLE.features == QUARTER.features
    for size in SIZES.values():
        models = [
            next(iter(programs(config, size))).arguments for config in size.depths
        ]
        assert [x.shape for x in models[0][1:3]] == [x.shape for x in models[1][1:3]]
        assert {*parameters(models[0][0])} != {*parameters(models[1][0])}
