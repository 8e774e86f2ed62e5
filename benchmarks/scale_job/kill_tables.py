"""What killed jobs came to, as tables."""

from typing import Any

from benchmarks.report import table


def section(found: dict[str, Any]) -> str:
    """What was measured, as tables."""
    pace, count = found["pace"], found["count"]
    runs = found["runs"]
    header = (
        "kill",
        "waited for",
        "seconds after its start",
        "processor seconds",
        "still running",
        "images done before",
        "images done after",
        "temporary files left",
        "partial files visible",
    )
    kills = table(
        header,
        [
            [
                f"{name}, {number}",
                each.aim,
                f"{each.seconds:.1f}",
                f"{each.processor:.1f}" if each.killed else "-",
                "yes" if each.killed else "no",
                each.before,
                each.done,
                len(each.left),
                len(each.flaws),
            ]
            for name, run in runs.items()
            for number, each in enumerate(run["kills"], 1)
        ],
    )
    rows: list[tuple[str, Any]] = [
        ("kills that were planned", lambda r: len(r["kills"])),
        ("starts that were killed", lambda r: sum(k.killed for k in r["kills"])),
        ("of these, with images still to do", lambda r: _with_work(r, count)),
        ("of these, with temporary files left", _in_writing),
        ("looks of the watcher", lambda r: r["looks"]),
        ("new or changed files that it read", lambda r: r["read"]),
        ("partial files that were visible", _partial),
        ("commits", lambda r: r["commits"]),
        ("images with exactly one result", lambda r: f"{count} of {count}"),
        ("certificates that differ", _with_fields),
        ("noises that differ in any bit", lambda r: r["different noises"]),
        ("largest difference of noises", lambda r: f"{r['largest difference']:.1e}"),
        ("temporary files left at the end", lambda r: len(r["left"])),
    ]
    outcome = table(
        ["", *(f"killed at {name}" for name in runs)],
        [[name, *(value(run) for run in runs.values())] for name, value in rows],
    )
    return (
        f"{count} images. Undisturbed, the job takes {pace.seconds:.0f} s with its "
        f"programs compiled before, or {pace.whole:.1f} s of processor time, of which "
        f"{pace.start_up:.1f} s are start-up and {pace.per_image:.3f} s each image. "
        "Results are committed every 64 images or 30 s (the defaults), and a start "
        "that is killed before its first commit does those images again. Random "
        "moments are uniform over the undisturbed run's processor time: one within the "
        "start-up kills a start at that second, a later one kills it when the job has "
        "come, by the undisturbed run's pace, as far as that run had come then; the "
        "last ones may come too late, when the job is done. Kills at writing come as "
        "soon as a temporary file is seen, of the array, of a commit's records or of "
        "the merged certificates; one that is too quick is missed.\n\n"
        f"{outcome}\n\n{kills}"
    )


def _with_work(run: dict[str, Any], count: int) -> int:
    return sum(each.killed and each.before < count for each in run["kills"])


def _in_writing(run: dict[str, Any]) -> int:
    return sum(bool(each.left) for each in run["kills"])


def _partial(run: dict[str, Any]) -> int:
    names = set(run["flaws"]).union(*(each.flaws for each in run["kills"]))
    return len(names)


def _with_fields(run: dict[str, Any]) -> str:
    fields = f" ({', '.join(run['fields'])})" if run["fields"] else ""
    return f"{run['different certificates']}{fields}"
