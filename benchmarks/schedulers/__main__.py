"""Compare the scheduler configurations of published models with diffusers.

    python -m benchmarks.schedulers --data CONFIGURATIONS.json

The file maps titles to configurations, as ``scheduler_config.json`` holds them. Each is
read as its users load it, for several numbers of steps, and every state of the
trajectory and every time given to the network is compared with diffusers' own
scheduler, with a smooth function in place of the network.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import body, parse, parser, provenance, save, table
from benchmarks.schedules.compare import Outcome, compare
from benchmarks.schedules.draw import Case

STEPS = (1, 2, 4, 8, 20, 28, 50, 61)


def outcomes(config: Mapping[str, Any]) -> dict[int, Outcome]:
    """Return what becomes of a configuration, by the number of steps."""
    request = {"mu": 0.8} if config.get("use_dynamic_shifting") else {}
    name, config = config["_class_name"], dict(config)
    if config.get("lambda_min_clipped") == "-inf":
        # As text in a file that is strict JSON; diffusers needs the number.
        config["lambda_min_clipped"] = -math.inf
    return {n: compare(Case(name, config, n, request)) for n in STEPS}


def row(title: str, config: Mapping[str, Any]) -> tuple[list[str], str]:
    """Return the row of a configuration, and its verdict."""
    found = outcomes(config)
    agree = [n for n, each in found.items() if each.kind == "agrees"]
    others = {
        f"{each.kind} {each.detail}".strip(): n
        for n, each in found.items()
        if each.kind != "agrees"
    }
    silent = [n for n, each in found.items() if each.silent]
    verdict = "differs" if silent else "exact" if agree else "refused"
    error = max((found[n].error for n in agree), default=float("nan"))
    return [
        title,
        config["_class_name"],
        verdict,
        f"{len(agree)} of {len(found)}",
        f"{error:.0e}" if agree else "-",
        "; ".join(f"{text} ({n} steps)" for text, n in others.items()) or "-",
    ], verdict


def main(argv: Sequence[str] | None = None) -> None:
    """Compare all configurations and write the report."""
    found = parser("schedulers", __doc__)
    found.add_argument("--data", type=Path, required=True, help="the JSON file")
    arguments = parse(found, argv)
    configs = json.loads(arguments.data.read_text())
    rows, verdicts = zip(*(row(*each) for each in configs.items()), strict=True)
    counts = {kind: verdicts.count(kind) for kind in ("exact", "refused", "differs")}
    header = "model | class | verdict | step counts | largest error / RMS | otherwise"
    text = f"""# Schedulers of published models

{provenance(arguments.command)}

{body(__doc__)}

{len(rows)} configurations, {", ".join(map(str, STEPS))} steps: {counts["exact"]} exact
(at some number of steps at least, refused with a reason at the others),
{counts["refused"]} refused, {counts["differs"]} different in silence.

{table(header, rows)}
"""
    save(arguments.out, text)


if __name__ == "__main__":
    main()
