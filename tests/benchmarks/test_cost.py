"""The benchmark of costs runs and prints what it was asked for."""

from benchmarks.cost import main


def test_the_table_has_a_row_for_each_batch_size(tmp_path):
    out = tmp_path / "cost.md"
    arguments = "--sections batch --call-batches 1 2 --repeats 1 --out"
    main([*arguments.split(), str(out)])
    rows = [line for line in out.read_text().splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows] == ["batch", "1", "2"]
