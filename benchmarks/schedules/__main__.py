"""Random diffusers configurations: this library's samplers against diffusers' own.

    python -m benchmarks.schedules [--cases 6000] [--float32 300]

Every case is drawn at random (`benchmarks/schedules/draw.py`): a scheduler class, all
of its options, what another class left over, betas, 1 to 100 steps, and what a pipeline
passes to `set_timesteps`. Both sides take their steps in float64 with the same network,
a function of the state and of the time, and with the same noises where a scheduler adds
them (`benchmarks/schedules/compare.py`). A case agrees if every time told to the
network is the same and every state differs by at most 1e-4 of its RMS (or ten times
what one rounding changes, where that is more: of the noise to float32, because levels
are float32, and at zero terminal SNR of the roots in float32 that the levels are made
of, whose last bit depends on the machine); or this library refuses it, for a reason of
a fixed list; or diffusers itself raises or returns NaN. Anything else is a silent
difference.
"""

import collections
import dataclasses
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import diffusers
import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from benchmarks.report import body, parse, parser, provenance, save, table
from benchmarks.schedules.compare import (
    NOISE,
    TOLERANCE,
    Outcome,
    added_noise,
    compare,
    in_diffusers,
    in_their_units,
    network,
    read,
    relative_error,
)
from benchmarks.schedules.draw import Case, draw
from jaxinv.diffusion.limits import limited

# Of the cases in float32: programs are shared by the shape of a table.
FLOAT32_STEPS = (4, 20, 50)
HISTORY = 5

Results = list[tuple[Case, Outcome]]


def run(seeds: Iterable[int]) -> Results:
    """Compare the cases of some seeds."""
    diffusers.logging.set_verbosity_error()
    return [(case, compare(case)) for case in map(draw, seeds)]


def by(results: Results, title: str, key: Callable[[Case], str]) -> str:
    """Return a table of the outcomes by a property of the case."""
    groups = collections.defaultdict(list)
    for case, outcome in results:
        groups[key(case)].append(outcome)
    groups["all"] = [outcome for _, outcome in results]
    rows = []
    for name, outcomes in groups.items():
        errors = [o.error for o in outcomes if o.kind == "agrees"] or [np.nan]
        rows.append(
            [
                name,
                len(outcomes),
                len([o for o in outcomes if o.kind == "agrees"]),
                len([o for o in outcomes if o.kind == "refused"]),
                len([o for o in outcomes if o.kind.startswith("diffusers")]),
                len([o for o in outcomes if o.silent]),
                f"{np.median(errors):.0e}",
                f"{np.max(errors):.0e}",
            ]
        )
    rows[:-1] = sorted(rows[:-1])
    head = [title, "cases", "agree", "refused", "diffusers fails", "silent"]
    return table([*head, "median error", "largest"], rows)


def reasons(results: Results) -> str:
    """Return a table of the refusals."""
    refused = [o.detail for _, o in results if o.kind == "refused"]
    counts = collections.Counter(refused).most_common()
    return table(("refused for | cases"), [list(row) for row in counts])


def prediction(case: Case) -> str:
    """Return what the network predicts, as the configuration says it."""
    if "FlowMatch" in case.name:
        return "flow"
    unused = case.config.get("_use_default_values", ())
    given = {} if "prediction_type" in unused else case.config
    return str(given.get("prediction_type", "epsilon"))


def steps(case: Case) -> str:
    """Return a range of step counts."""
    for low, high in ((1, 4), (5, 14), (15, 49), (50, 100)):
        if low <= case.num_steps <= high:
            return f"{low:3d} to {high}"
    return "other"


def model(x: Any, t: Any) -> Any:
    """Return the network of the comparison, in JAX."""
    return network(jnp, x, t)


def float32_case(seed: int) -> tuple[str, float, float] | None:
    """Errors of a case in float32, here and in diffusers; None if there are none.

    Returns:
        What the network predicts; or that the case is refused in float32 only.
    """
    case = draw(seed)
    count = FLOAT32_STEPS[seed % len(FLOAT32_STEPS)]
    config = dict(case.config)
    if config.get("num_train_timesteps", 1000) != 1000:
        return None
    case = Case(case.name, config, count, {})
    with jax.enable_x64(True):
        if compare(case).kind != "agrees":
            return None
        _, truth = in_diffusers(case)
    _, theirs = in_diffusers(case, double=False)
    theirs_error = relative_error(theirs, truth)
    try:
        sampler, schedule = read(case)
    except ValueError:
        return "refused", np.nan, theirs_error
    if sampler.num_steps != count:
        return None
    denoise = ji.as_denoiser(model, schedule)
    if sampler.output is not None and sampler.output.is_limited:
        denoise = limited(denoise, schedule, sampler.output)
    ours = float32_trajectory(sampler, denoise)
    ours = in_their_units(case, sampler, ours)
    return schedule.prediction_type, relative_error(ours, truth), theirs_error


def float32_trajectory(sampler: ji.SamplerTable, denoise: Any) -> np.ndarray:
    """Return all states in float32, noise first, in a program shared by shape."""
    pad = ((0, 0), (0, max(0, HISTORY - sampler.history)))
    sampler = dataclasses.replace(
        sampler,
        a=np.pad(sampler.a, pad),
        b=np.pad(sampler.b, pad),
        name="shared",
        order=0,
        bidirectional=False,
    )
    if sampler.noise is not None:
        steps = reversed(range(sampler.num_rows))
        noises = np.stack([added_noise(step) for step in steps])
        sampler = sampler.with_noises(jnp.asarray(noises, jnp.float32))
    states = ji.sample_trajectory(sampler, denoise, jnp.asarray(NOISE, jnp.float32))
    return np.asarray(states, np.float64)[::-1]


def in_float32(count: int) -> str:
    """Return a table of errors in float32 by what the network predicts."""
    groups = collections.defaultdict(list)
    seed, total = 1_000_000, 0
    while total < count:
        if (found := float32_case(seed)) is not None:
            groups[found[0]].append(found[1:])
            total += 1
        seed += 1
    rows = []
    for name, errors in sorted(groups.items()):
        ours, theirs = np.array(errors).T
        silent = np.sum((ours > TOLERANCE) & (ours > 10 * theirs))
        shown = [
            f"{np.median(ours):.0e}, {np.max(ours):.0e}",
            f"{np.median(theirs):.0e}, {np.max(theirs):.0e}",
        ]
        above = int(np.sum(ours > TOLERANCE)), int(np.sum(theirs > TOLERANCE))
        rows.append([name, len(errors), *shown, *above, int(silent)])
    head = [
        "prediction",
        "cases",
        "here: median, largest",
        "diffusers: median, largest",
    ]
    above = [f"{who} above 1e-4" for who in ("here", "diffusers")]
    return table([*head, *above, "above 1e-4 and 10 times diffusers"], rows)


def report(results: Results, float32: str, command: str) -> str:
    """Return the text of the result."""
    silent = [(case, o) for case, o in results if o.silent]
    lines = [f"* {case}: {outcome}" for case, outcome in silent[:20]]
    return f"""# Samplers from diffusers' configurations, at random

{body(__doc__)}

**{len(silent)} of {len(results)} cases differ in silence.**
{chr(10).join(lines)}

{by(results, "class", lambda case: case.name)}

{by(results, "prediction", prediction)}

{by(results, "steps", steps)}

{reasons(results)}

## In float32

A sample of them as a user runs them: `ji.sample_trajectory` in float32, beside
diffusers in float32; errors against diffusers in float64. Odd betas lose digits on both
sides (noise levels up to 1e5). "Refused" are the cases that are refused in float32
only, because of what `jaxinv.diffusion.prediction` computes of their levels.

{float32}

{provenance(command)}
"""


def main() -> None:
    options = parser("schedules", __doc__)
    options.add_argument("--cases", type=int, default=6000)
    options.add_argument("--first", type=int, default=0, help="the first seed")
    options.add_argument("--float32", type=int, default=300)
    arguments = parse(options, None)
    warnings.simplefilter("ignore")
    results = run(range(arguments.first, arguments.first + arguments.cases))
    float32 = in_float32(arguments.float32)
    save(arguments.out, report(results, float32, arguments.command))


if __name__ == "__main__":
    main()
