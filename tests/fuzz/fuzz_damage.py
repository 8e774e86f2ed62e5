"""Ways to damage a file, drawn from a random generator.

Each function takes a file, a ``random.Random`` (Hypothesis has one that it can shrink)
and returns in words what it did. ``KINDS`` put something else than a file in its place.
"""

import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

Rng = random.Random
_MARK = "@raw@"  # stands in JSON for the text that takes its place


# --- bytes --------------------------------------------------------------------------


def damage_bytes(path: Path, rng: Rng) -> str:
    """Truncate, flip, insert, splice, overwrite or empty a file."""
    data = bytearray(path.read_bytes())
    kind = rng.choice(["truncate", "flip", "insert", "splice", "overwrite", "empty"])
    place = rng.randrange(len(data) + 1)
    # What decides is mostly at the beginning.
    place = min(place, rng.choice([len(data), 16, 256, 2048]))
    if kind == "truncate":
        del data[place:]
    elif kind == "flip" and data:
        place = min(place, len(data) - 1)
        data[place] ^= 1 << rng.randrange(8)
    elif kind == "insert":
        data[place:place] = bytes(rng.randrange(256) for _ in range(rng.randrange(9)))
    elif kind == "splice":
        start = rng.randrange(len(data) + 1)
        data[place:place] = data[start : start + rng.randrange(1, 200)]
    elif kind == "overwrite":
        count = rng.randrange(1, 9)
        fill = rng.choice([0x00, 0xFF, 0x7F, 0x80])
        data[place : place + count] = bytes([fill]) * count
    else:
        data.clear()
    path.write_bytes(data)
    return f"{kind} of bytes at {place}"


# --- JSON ---------------------------------------------------------------------------

_VALUES = (
    "null", "[]", "{}", "[null]", '{"a": 1}', "NaN", "Infinity", "-Infinity", "1e400",
    "-1e400", "1e12", "1000000000000", "-1", "0", "1", "2", "3", "0.5", "-0.0",
    "1e-300", "1e300", "7", "64", "65536", "2147483648", "9223372036854775808",
    "true", "false",
    '""', '"x"', '"None"', '"\\ud800"', '"\\u0000"', '"../../etc/passwd"',
    '"/dev/zero"',
    "[[1, 2], [3]]", "[1, 2]", "[4, 8, 8]", '["x", 1]', "[[[]]]", "1" + "0" * 400,
    "1" * 5000,
)  # fmt: skip


def damage_json(path: Path, rng: Rng) -> str:
    """Change one or two values, keys or the structure of a JSON file."""
    text, what = damaged_json(path.read_text(), rng)
    path.write_text(text)
    return what


def damage_near(path: Path, rng: Rng) -> str:
    """Change one or two values to what somebody could have meant."""
    tree = {"": json.loads(path.read_text())}
    done = []
    for _ in range(rng.choice([1, 2])):
        places = [(p, key) for p, key in _places(tree) if key != ""]
        parent, key = places[rng.randrange(len(places))]
        small = rng.choice([0, 1, 2, 3, 4, 6, 8, 12, 16, 32, 0.5])
        number = isinstance(parent[key], int | float) and rng.random() < 0.5
        parent[key] = small if number else _near(parent[key], rng)
        done.append(f"{str(parent[key])[:40]} at {str(key)[:40]!r}")
    path.write_text(json.dumps(tree[""]))
    return "; ".join(done)


def damage_jsonl(path: Path, rng: Rng) -> str:
    """Change one line of a file with a JSON value in each."""
    lines = path.read_text().splitlines()
    place = rng.randrange(len(lines))
    lines[place], what = damaged_json(lines[place], rng)
    path.write_text("\n".join(lines) + "\n")
    return f"line {place + 1}: {what}"


def damaged_json(text: str, rng: Rng) -> tuple[str, str]:
    """Return a JSON text with another structure, and what was done."""
    tree = {"": json.loads(text)}
    raws: list[str] = []
    done = []
    for _ in range(rng.choice([1, 1, 1, 2])):
        places = list(_places(tree))
        parent, key = places[rng.randrange(len(places))]
        done.append(_change(parent, key, rng, raws))
    text = json.dumps(tree[""], indent=rng.choice([None, 1]))
    for number, raw in enumerate(raws):
        text = text.replace(f'"{_MARK}{number}@"', raw)
    return text, "; ".join(done)


def _raw(text: str, raws: list[str]) -> str:
    raws.append(text)
    return f"{_MARK}{len(raws) - 1}@"


def _places(node: Any):
    """Every (container, key) of a tree, the root's included."""
    for key, child in node.items() if isinstance(node, dict) else enumerate(node):
        yield node, key
        if isinstance(child, dict | list):
            yield from _places(child)


def _change(parent: Any, key: Any, rng: Rng, raws: list[str]) -> str:
    value = parent[key]
    kind = rng.choice(
        ["value"] * 6
        + ["near", "near", "long", "deep", "huge", "twice", "gone", "renamed", "more"]
    )
    inner = isinstance(parent, dict) and key != ""
    if kind == "near":
        parent[key] = _near(value, rng)
    elif kind == "long":
        parent[key] = "x" * rng.choice([300, 5000, 200_000])
    elif kind == "deep":
        depth = rng.choice([20, 40, 1000, 100_000])
        left, right = rng.choice(["[]", ('{"a":', "}")])
        inside = "" if left == "[" else "0"
        parent[key] = _raw(left * depth + inside + right * depth, raws)
    elif kind == "huge":
        count = rng.choice([100, 5000, 150_000])
        each = rng.choice(["0", "0.01", '"x"', "null"])
        parent[key] = _raw("[" + ",".join([each] * count) + "]", raws)
    elif kind == "twice" and inner:
        # Two keys of one spelling: the second is renamed while the text is made.
        other = _raw(json.dumps(key), raws)
        parent[other] = _raw(rng.choice(_VALUES), raws)
    elif kind == "gone" and inner:
        del parent[key]
    elif kind == "renamed" and inner:
        parent[rng.choice([f"{key}_", f" {key}", key.upper(), ""])] = parent.pop(key)
    elif kind == "more" and isinstance(parent, dict):
        parent[rng.choice(["unknown", "__class__", "\u202e", "x" * 500])] = value
    elif kind == "more":
        parent.insert(key, value)
    else:
        parent[key] = _raw(rng.choice(_VALUES), raws)
    return f"{kind} at {str(key)[:40]!r}"


def _near(value: Any, rng: Rng) -> Any:
    """A value that somebody could have meant."""
    if isinstance(value, bool) or value is None:
        return rng.choice([True, False, 0, 1, None, "true"])
    if isinstance(value, int | float):
        return rng.choice(
            [value + 1, value - 1, -value, value * 2, value * 1000, value / 2,
             float(value), str(value), [value], [value, value], value // 2]
        )  # fmt: skip
    if isinstance(value, str):
        return rng.choice([value.upper(), f" {value}", value[:-1], [value], 3])
    if isinstance(value, list):
        return rng.choice([value[:-1], value + value[:1], value * 2, value[::-1], None])
    return rng.choice([list(value), [value], None])


# --- something else than a file -----------------------------------------------------


def damage_kind(path: Path, rng: Rng) -> str:
    """Put something else in the place of a file; a link keeps its content readable.

    A link is to a copy of the file, so that whoever follows it finds all as it was.
    """
    kind = rng.choice(sorted(KINDS))
    KINDS[kind](path)
    return kind


def _moved(path: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"copy-of-{path.name}"
    shutil.move(path, target)
    return target


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link_out(path: Path) -> None:
    root = next(p for p in path.parents if p.name == "input")
    path.symlink_to(_moved(path, root.parent / "outside"))


def _link_inside(path: Path) -> None:
    target = _moved(path, path.parent / "blobs")
    path.symlink_to(os.path.relpath(target, path.parent))


def _link_to(target: str) -> Callable[[Path], None]:
    def link(path: Path) -> None:
        path.unlink()
        path.symlink_to(path.name if target == "itself" else target)

    return link


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _unreadable(path: Path) -> None:
    path.unlink()


KINDS: dict[str, Callable[[Path], None]] = {
    "a pipe": _fifo,
    "a folder": _directory,
    "a link out": _link_out,
    "a link inside": _link_inside,
    "a link to nothing": _link_to("gone"),
    "a link to itself": _link_to("itself"),
    "a link to a device": _link_to("/dev/zero"),
    "a link to a secret": _link_to("/etc/passwd"),
    "empty": _empty,
    "missing": _unreadable,
}
#: What a reader of a model's folder must refuse.
LEAVING = ("a link out", "a link to a device", "a link to a secret")


# --- safetensors --------------------------------------------------------------------


def damage_safetensors(path: Path, rng: Rng) -> str:
    """Damage the header of a safetensors file, its length, or the numbers."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + size].decode(), bytearray(data[8 + size :])
    kind = rng.choice(["json", "json", "offsets", "length", "twice", "number"])
    what = kind
    if kind == "json":
        header, what = damaged_json(header, rng)
    elif kind == "offsets":
        tree = json.loads(header)
        names = sorted(set(tree) - {"__metadata__"})
        one, other = rng.choice(names), rng.choice(names)
        offsets = rng.choice(
            [tree[other]["data_offsets"], [0, len(body) * 2], [-4, 0], [2**62, 2**63],
             tree[one]["data_offsets"][::-1]]
        )  # fmt: skip
        tree[one]["data_offsets"] = offsets
        header = json.dumps(tree)
    elif kind == "twice":
        name = rng.choice(sorted(set(json.loads(header)) - {"__metadata__"}))
        entry = json.dumps(json.loads(header)[name])
        header = header.rstrip()[:-1] + f", {json.dumps(name)}: {entry}}}"
    elif kind == "number":
        value = struct.pack("<f", rng.choice([float("nan"), float("inf"), 1e38, 0.0]))
        place = 4 * rng.randrange(len(body) // 4)
        body[place : place + 4] = value
        what = f"number {place // 4} is {struct.unpack('<f', value)[0]}"
    length = len(header.encode())
    if kind == "length":
        length = rng.choice([0, 1, length - 1, length + 1, 2**31, 2**63 - 1, 2**64 - 1])
    path.write_bytes(struct.pack("<Q", length) + header.encode() + bytes(body))
    return what


WAYS: dict[str, Callable[[Path, Rng], str]] = {
    "bytes": damage_bytes,
    "json": damage_json,
    "near": damage_near,
    "jsonl": damage_jsonl,
    "kind": damage_kind,
    "safetensors": damage_safetensors,
}
