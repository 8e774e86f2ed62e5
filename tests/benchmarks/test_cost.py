"""The benchmark of costs prints what it was asked for, and keeps what it has."""

import json

from benchmarks.cost.__main__ import main


def test_a_section_is_measured_and_the_others_are_kept(tmp_path):
    out = tmp_path / "cost.md"
    earlier = "## Memory\n\n| strategy |\n|---|\n| of an earlier run |"
    out.with_suffix(".json").write_text(json.dumps({"memory": earlier}))
    arguments = "--sections batch --call-batches 1 2 --repeats 1 --out"
    main([*arguments.split(), str(out)])
    text = out.read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    first = [row.split("|")[1].strip() for row in rows]
    assert first == ["strategy", "of an earlier run", "batch", "1", "2"]
    assert set(json.loads(out.with_suffix(".json").read_text())) == {"memory", "batch"}
