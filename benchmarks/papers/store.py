"""Results of the papers' tables: one JSON line per image and cell."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from benchmarks.papers.protocol import Cell, Found, Measures, Table
from benchmarks.papers.setting import RANDOM, Setting
from benchmarks.report import append_line, commit, cut_torn_line, read_lines
from benchmarks.samples import weights_of

GIVEN = ("model", "weights", "seed", "prompts", "device")
#: Of lines without a device. It decides times, memory and which 16 bits there are.
DEVICE = {"device": "cpu"}
MADE = ("command", "commit")


@dataclasses.dataclass(eq=False)
class Store:
    """The results of one table on one model, in one file.

    Lines of other weights, seeds, prompts or devices in the same file are left alone.

    Attributes:
        path: The file.
        given: What all results depend on.
        made: How results are made, command and commit; of a stored run, sets of both.
        lines: Results by cell and image.
    """

    path: Path
    given: dict[str, Any]
    made: dict[str, Any]
    lines: dict[tuple[str, int], Measures] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, table: Table, setting: Setting, folder: Path, command: str) -> Store:
        """Return the store of a table on a model, with what it has already."""
        name = setting.label.replace("/", "--")
        folder.mkdir(parents=True, exist_ok=True)
        given = {
            "model": setting.label,
            "weights": _weights(setting.model),
            "seed": setting.seed,
            "prompts": list(setting.prompts),
            "device": jax.default_backend(),
        }
        path = folder / f"{table.name}-{name}.jsonl"
        cut_torn_line(path)
        made = {"command": command, "commit": commit()}
        return cls(path, given, made, _read(path, given))

    def __call__(
        self, cell: Cell, index: int, measure: Callable[[], Measures]
    ) -> Measures:
        """Return the result of a cell and an image, from the file or measured now."""
        key = (name_of(cell), index)
        if key not in self.lines:
            began = time.monotonic()
            measures = dict(measure())
            line = {"cell": dict(cell), "image": index, "found": measures}
            append_line(self.path, line | self.given | self.made)
            # What is read again later is what was written.
            self.lines[key] = json.loads(json.dumps(measures))
            seconds = time.monotonic() - began
            print(f"image {index}, {name_of(cell)}: {seconds:.1f} s", flush=True)
        return self.lines[key]

    def setting(self) -> dict[str, Any]:
        """Return the arguments of the setting, as far as results depend on it."""
        names = {"model": str, "prompts": tuple, "seed": int}
        return {name: make(self.given[name]) for name, make in names.items()}

    def how(self) -> str:
        """Return how the results were made, in words."""
        commands = " and ".join(f"`{text}`" for text in sorted(self.made["command"]))
        commits = ", ".join(sorted(self.made["commit"]))
        made = f"Made by {commands} at {commits}"
        return f"{made}; seed {self.given['seed']}, {self.given['device']}."

    def found(self, table: Table, setting: Setting) -> Found:
        """Return the results of all cells of a table."""
        cells = []
        for cell in table.cells(setting):
            name = name_of(cell)
            images = sorted(k for other, k in self.lines if other == name)
            if images:
                cells.append((cell, [self.lines[name, k] for k in images]))
        return Found(cells, setting)


def runs(table: Table, folder: Path) -> list[Store]:
    """Return the stored runs of a table: one for each model, seed and prompts."""
    found: dict[str, Store] = {}
    for path in sorted(folder.glob(f"{table.name}-*.jsonl")):
        for line in read_lines(path):
            given = {name: (DEVICE | line)[name] for name in GIVEN}
            made: dict[str, Any] = {name: set() for name in MADE}
            name = json.dumps([path.name, given])
            store = found.setdefault(name, Store(path, given, made))
            store.lines[name_of(line["cell"]), line["image"]] = line["found"]
            for key in MADE:
                store.made[key].add(line[key])
    return list(found.values())


def name_of(cell: Cell) -> str:
    """Return a cell in words: its values by name."""
    return ", ".join(f"{name} {json.dumps(cell[name])}" for name in sorted(cell))


def _weights(model: str) -> str:
    """Return a digest of the model's weights."""
    return "random" if model in RANDOM else weights_of(model)


def _read(path: Path, given: dict[str, Any]) -> dict[tuple[str, int], Measures]:
    return {
        (name_of(line["cell"]), line["image"]): line["found"]
        for line in read_lines(path)
        if all((DEVICE | line)[key] == value for key, value in given.items())
    }
