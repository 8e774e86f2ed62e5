"""Many images, many devices, many processes: what holds, and what it costs.

    python -m benchmarks.scale [--only devices job ...] [--small]

Everything is measured on one machine: devices and hosts are simulated, and what that
can and cannot show is said in each section. Each section is also a program of its own
(``python -m benchmarks.scale_devices``). With ``--only``, the other sections of the
written report stay as they are.
"""

import importlib
import re
from pathlib import Path
from typing import Any

from benchmarks.report import parse, parser, provenance, save

SECTIONS = ("devices", "processes", "job", "batching")


def main() -> None:
    """Run the sections and write the report."""
    options = parser("scale", __doc__)
    options.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    options.add_argument("--small", action="store_true", help="in minutes")
    arguments = parse(options, None)
    known = read(arguments.out) if arguments.out.exists() else {}
    for name in arguments.only:
        section, small = _section(name), arguments.small
        how = f"python -m benchmarks.scale --only {name}{' --small' * small}"
        known[section.TITLE] = f"{section.run(small)}\n\n{provenance(how, 'emoji64')}"
        save(arguments.out, report(known))


def _section(name: str) -> Any:
    return importlib.import_module(f"benchmarks.scale_{name}.__main__")


def report(sections: dict[str, str]) -> str:
    """Return the report of some sections, in their order."""
    titles = [_section(name).TITLE for name in SECTIONS]
    parts = [
        f"## {title}\n\n{sections[title]}" for title in titles if title in sections
    ]
    return "# Many images, many devices, many hosts\n\n" + "\n\n".join(parts) + "\n"


def read(path: Path) -> dict[str, str]:
    """Return the sections of a report by title."""
    pieces = re.split(r"^## (.*)$", path.read_text(), flags=re.MULTILINE)[1:]
    return {
        title: text.strip()
        for title, text in zip(pieces[::2], pieces[1::2], strict=True)
    }


if __name__ == "__main__":
    main()
