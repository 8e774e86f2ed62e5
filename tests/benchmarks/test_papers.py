"""The command of the papers' tables: it resumes, refuses, and reports."""

import json

import numpy as np
import pytest

from benchmarks.papers.__main__ import TABLES, command_of, measure, parser
from benchmarks.papers.collect import report
from benchmarks.papers.protocol import Table, needs_autoencoder, needs_prompts
from benchmarks.papers.setting import Setting, read_prompts
from benchmarks.papers.store import Store
from benchmarks.report import interval, read_lines

CELLS = [{"steps": steps, "method": name} for name in "ab" for steps in (1, 2)]


def counting(calls, **options):
    def one(setting, cell, index):
        calls.append((cell["method"], cell["steps"], index))
        return {"value": 10 * cell["steps"] + index, "none": None}

    def show(found):
        return " ".join(str(x["value"]) for x in found.of(method="b"))

    given = {"published": "theirs", "remarks": "another model", "images": 100}
    return Table(
        "dpm-x", "Table 9", "a title", cells=lambda setting: CELLS, measure=one,
        show=show, **(given | options),
    )  # fmt: skip


@pytest.fixture(scope="module")
def setting():
    return Setting("emoji16")


def test_an_interrupted_run_continues_and_measures_nothing_twice(setting, tmp_path):
    calls = []
    table = counting(calls)
    store = Store.of(table, setting, tmp_path, "command")
    measure(table, setting, store, images=2)
    assert calls[:4] == [("a", 1, 0), ("a", 2, 0), ("b", 1, 0), ("b", 2, 0)]
    with store.path.open("a") as file:
        file.write('{"cell": {"st')  # killed while it wrote
    store = Store.of(table, setting, tmp_path, "command")
    found = measure(table, setting, store, images=3)
    assert len(calls) == len(set(calls)) == 12
    assert table.show(found) == "10 11 12 20 21 22"
    assert len(read_lines(store.path)) == 12
    other = Store.of(table, Setting("emoji16", seed=1), tmp_path, "command")
    assert not other.lines


def test_results_of_another_device_are_measured_again(setting, tmp_path, monkeypatch):
    table, calls = counting([]), []
    measure(table, setting, Store.of(table, setting, tmp_path, "here"), images=1)
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    table = counting(calls)
    measure(table, setting, Store.of(table, setting, tmp_path, "there"), images=1)
    assert len(calls) == len(CELLS)
    text = report([table], tmp_path)
    assert text.index("`here`") < text.index("0, cpu.") < text.index("`there`")
    assert "seed 0, gpu." in text


def test_only_some_cells(setting, tmp_path):
    calls = []
    table = counting(calls)
    store = Store.of(table, setting, tmp_path, "command")
    measure(table, setting, store, 1, ["steps=2", "method=a,b"])
    assert calls == [("a", 2, 0), ("b", 2, 0)]
    for wrong, message in (
        ("steps=3", "there are 1, 2"),
        ("size=3", "cells have method, steps"),
        ("steps", "expected NAME=VALUE"),
    ):
        with pytest.raises(ValueError, match=message):
            measure(table, setting, store, 1, [wrong])
    assert len(calls) == 2


def test_a_model_that_does_not_fit_is_refused_before_anything_is_measured(
    setting, tmp_path
):
    calls = []
    table = counting(calls, refuse=needs_prompts)
    store = Store.of(table, setting, tmp_path, "command")
    with pytest.raises(ValueError, match="emoji16: it makes images without prompts"):
        measure(table, setting, store, images=1)
    assert not calls
    assert not store.path.exists()
    assert needs_autoencoder(setting.pipe) == "it has no autoencoder"


def test_the_report_has_theirs_ours_and_the_command(setting, tmp_path):
    table = counting([])
    assert "Not measured yet" in report([table], tmp_path)
    store = Store.of(table, setting, tmp_path, "a command")
    measure(table, setting, store, images=2)
    text = report([table], tmp_path)
    for part in ("theirs", "10 11 20 21", "another model", "`a command`", "emoji16"):
        assert part in text


def test_every_table_says_what_it_is():
    for table in TABLES.values():
        assert table.published
        assert table.remarks
        assert table.title
        assert table.name.split("-")[0] in {"dpm", "decoder", "belm"}
        for cell in table.cells(Setting()):
            assert json.loads(json.dumps(dict(cell))) == cell


def test_stored_commands_do_not_name_private_folders():
    words = ["dpm-table-1", "--data", "/private/a/", "--out=/private/b", "--seed=1"]
    found = command_of(parser().parse_args(words), words)
    assert found.endswith("dpm-table-1 --data FOLDER --out=FOLDER --seed=1")


def test_noises_depend_on_the_image_alone(setting):
    again = Setting("emoji16")
    assert np.array_equal(setting.noise(3), again.noise(3))
    assert not np.array_equal(setting.noise(3), setting.noise(2))


def test_prompts_of_a_file(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("red cat\n\n  a dog \n")
    assert read_prompts(path) == ("red cat", "a dog")
    path.write_text("\n")
    with pytest.raises(ValueError, match="no prompts"):
        read_prompts(path)


def test_intervals_cover_the_mean_as_often_as_they_say():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(100):
        low, high = interval(rng.normal(size=40), 3).split("(")[1][:-1].split(" to ")
        covered += float(low) <= 0 <= float(high)
    assert 87 <= covered <= 99
    assert interval([1.0, np.inf]) == "1 of 2 not finite"
    assert interval([2.0]) == "2.0"
    assert interval([2.0, None, 2.0]) == "2.0 [2 of 3]"
