"""The tables of the accelerator benchmark, from its cells."""

from collections.abc import Sequence
from typing import Any

from benchmarks.report import table

Cell = dict[str, Any]

INTRODUCTION = """\
Random weights, the same in both frameworks; activations channels last; the state of a
sampler in float32 whatever the network's data type. *Guided* calls evaluate two
branches for each image, in one batch. Times are medians with the device synchronised,
without compiling. The share of the peak counts the products alone (convolutions, dense
layers, attention), and of inversions only evaluations that some image needed; XLA's
count has the body of a loop over stacked blocks only once. A guided
call has less of them in JAX than two unguided ones, as PyTorch makes them: what comes
before the first look at the text is computed once for both branches."""

NOT_RUN = """\
**On an accelerator, at published sizes: not run.** The command without `--small` does
that."""

REDUCED = """\
**These are numbers of a CPU{small}: they show that the benchmark runs,
and say nothing about accelerators.**"""


def report(cells: Sequence[Cell]) -> str:
    """Return all tables, by device, size and data type.

    Args:
        cells: What ``benchmarks.accelerator`` measured.

    Returns:
        Markdown.
    """
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell["device"], cell["size"], cell["dtype"]), []).append(
            cell
        )
    parts = ["# Published sizes on an accelerator, beside PyTorch", INTRODUCTION]
    if all(device == "cpu" for device, *_ in groups):
        parts.append(NOT_RUN)
    parts += [_group(*key, members) for key, members in sorted(groups.items())]
    return "\n\n".join(parts) + "\n"


def _group(device: str, size: str, dtype: str, cells: list[Cell]) -> str:
    parts = [f"## {device}, {dtype}: {size}"]
    if device == "cpu":
        small = " at reduced size" if " with " in size else ""
        parts.append(REDUCED.format(small=small))
        load = max(cell["load"] for cell in cells)
        parts.append(
            f"Load of the machine while it ran: up to {load:.1f} processes for each "
            "core. Above 1, times are rough."
        )
    calls = [cell for cell in cells if cell["what"] == "call"]
    calls.sort(key=lambda c: (c["batch"], c["guided"], c["framework"]))
    if calls:
        parts += ["### One call of the model", _calls(calls)]
    inversions = [cell for cell in cells if cell["what"] != "call"]
    inversions.sort(key=lambda c: (c["batch"], c["what"]))
    if inversions:
        parts += ["### Inversions", _inversions(inversions, calls)]
    for peak, source in sorted(
        {(c["peak"], c["peak_source"]) for c in cells if "peak" in c}
    ):
        parts.append(f"Peak: {peak / 1e12:.3g} TFLOP/s ({source}).")
    parts += sorted({cell["made"] for cell in cells})
    return "\n\n".join(parts)


def _calls(cells: list[Cell]) -> str:
    header = (
        "framework | guided | images | ms | images/s | GFLOP, products | "
        "GFLOP, XLA | share of peak | program, MiB | parameters and data, MiB | "
        "device peak so far, MiB | difference to PyTorch"
    )
    flops = {(c["batch"], c["guided"]): c["flops"] for c in cells if "flops" in c}
    peaks = [cell["peak"] for cell in cells if "peak" in cell]
    rows: list[tuple[Any, ...]] = []
    for cell in cells:
        start = (cell["framework"], "yes" if cell["guided"] else "no", cell["batch"])
        if "reason" in cell:
            rows.append((*start, _missing(cell), *["-"] * 8))
            continue
        work, spent = cell.get("flops"), cell["seconds"]
        if work is None and (cell["batch"], False) in flops:
            work = flops[cell["batch"], False] * (2 if cell["guided"] else 1)
        share = f"{work / spent / peaks[0]:.1%}" if work and peaks else "-"
        difference = cell.get("to_torch")
        rows.append(
            (
                *start,
                f"{1000 * spent:.1f}",
                f"{cell['batch'] / spent:.3g}",
                _scaled(work, 1e9),
                _scaled(cell.get("xla_flops"), 1e9),
                share,
                _scaled(cell.get("program_bytes"), 2**20),
                _scaled(cell.get("argument_bytes"), 2**20),
                _scaled(cell.get("device_peak"), 2**20),
                "-" if difference is None else f"{difference:.1e}",
            )
        )
    return table(header, rows)


def _inversions(cells: list[Cell], calls: list[Cell]) -> str:
    header = (
        "strategy, sampler | framework | images | steps | evaluations per image | "
        "converged | seconds | images/s | over its evaluations | share of peak | "
        "program, MiB | device peak so far, MiB"
    )
    # What the evaluations of an image cost in the same calls of the same batch.
    known = {
        (c["framework"], c["batch"], c["guided"]): c["seconds"] / c["batch"]
        for c in calls
        if "seconds" in c
    }
    rows: list[tuple[Any, ...]] = []
    for cell in cells:
        start = (cell["what"], cell["framework"], cell["batch"], cell["steps"])
        if "reason" in cell:
            rows.append((*start, _missing(cell), *["-"] * 7))
            continue
        spent = cell["seconds"]
        each = known.get((cell["framework"], cell["batch"], cell["guided"]))
        over = spent / (cell["evaluations"] * each) if each else None
        naive = cell["what"].startswith("naive")
        rows.append(
            (
                *start,
                f"{cell['evaluations'] / cell['batch']:.1f}",
                "-" if naive else f"{cell['converged']:.0%}",
                f"{spent:.3g}",
                f"{cell['batch'] / spent:.3g}",
                "-" if over is None else f"{over:.2f}",
                f"{cell['flops'] / spent / cell['peak']:.1%}",
                _scaled(cell["program_bytes"], 2**20),
                _scaled(cell["device_peak"], 2**20),
            )
        )
    return table(header, rows)


def _missing(cell: Cell) -> str:
    return f"not measured: {cell['reason'].replace('|', '/')}"


def _scaled(value: float | None, unit: float) -> str:
    return "-" if value is None else f"{value / unit:.4g}"
