"""A search for false certificates: results that say converged and are not.

    python -m benchmarks.certificates [--tries 12000] [--seed 0]

Denoisers and data are drawn at random (`benchmarks/certificates/models.py`): mixtures
of Gaussians with sharp, broad and close modes, guided ones, networks from gentle to
steep, discontinuous and constant denoisers; data that the sampler made, means of two
samples, white noise, and samples of another model, a third of them in units from 1e-30
to 1e30 and a third multiplied by such a number. Every sampler and strategy below
inverts them, in float32, and every answer of every result is sampled from again in
float64, with the table's own float64 coefficients.

A certificate is false if `converged` (or `state_converged`) is true and the error of
the data in float64 is above the tolerance of 4e-4. "Solved" is the verdict without the
way back (`verify=False`): each step's equation holds to its tolerance. It is lost where
it was true, the error in float64 is at most 4e-4, and `converged` is false all the
same; it is repaired where `converged` is true and the noise that the same strategy
finds without the way back misses the data.
"""

import collections
import functools
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from benchmarks.certificates.models import DATA, MODELS, SCHEDULE, Try, draw, make_data
from benchmarks.report import body, parse, parser, provenance, save, table

STEPS, BATCH, RTOL = 8, 128, 4e-4

#: Short, so that what cannot be inverted does not take all of the time.
SWEEPS = ji.Trajectory(history=5, max_sweeps=20, restarts=1)
NEWTON = ji.NewtonTrajectory(max_iterations=2, krylov=10)


class Method(NamedTuple):
    """A sampler and how it is inverted.

    Attributes:
        sampler: Of a grid.
        options: Of :func:`jaxinv.invert`.
        share: Of the tries, relative to the others.
    """

    sampler: Callable[[ji.TimeGrid], Any]
    options: dict[str, Any]
    share: int = 1


def _stepwise(solver: Any) -> dict[str, Any]:
    return {"strategy": "stepwise", "solver": solver}


METHODS = {
    "ddim, auto": Method(ji.ddim, {"strategy": "auto"}),
    "ddim, stepwise and refined": Method(
        ji.ddim, {"strategy": (ji.inversion.Stepwise(), SWEEPS, NEWTON)}
    ),
    "ddim, anderson": Method(ji.ddim, _stepwise("anderson"), 4),
    "ddim, fixed_point": Method(ji.ddim, _stepwise("fixed_point"), 2),
    "ddim, forward_step": Method(ji.ddim, _stepwise("forward_step")),
    "ddim, gradient": Method(ji.ddim, _stepwise("gradient")),
    "ddim, newton_krylov": Method(ji.ddim, _stepwise("newton_krylov")),
    "ddim, trajectory": Method(ji.ddim, {"strategy": SWEEPS}, 2),
    "ddim, naive": Method(ji.ddim, {"strategy": "naive"}),
    "ddim, Algorithm 1": Method(ji.ddim, {"strategy": ji.Algorithm1()}),
    "2M, auto": Method(ji.dpmpp_2m, {"strategy": "auto"}),
    "2M, trajectory": Method(ji.dpmpp_2m, {"strategy": SWEEPS}, 4),
    "2M, trajectory and newton": Method(ji.dpmpp_2m, {"strategy": (SWEEPS, NEWTON)}),
    "2M, Algorithm 2": Method(
        ji.dpmpp_2m, {"strategy": "stepwise", "schedule": SCHEDULE}
    ),
    "UniP-2, trajectory": Method(ji.unip, {"strategy": SWEEPS}),
    "3M, trajectory": Method(ji.dpmpp_3m, {"strategy": SWEEPS}, 2),
    "DEIS-3, trajectory": Method(
        lambda grid: ji.deis(grid, order=3), {"strategy": SWEEPS}
    ),
    "O-BELM, explicit": Method(ji.o_belm, {"strategy": "explicit"}, 2),
    "O-BELM, trajectory": Method(ji.o_belm, {"strategy": SWEEPS}),
    "O-BELM, bits": Method(ji.o_belm, {"arithmetic": "bits"}),
    "BDIA, explicit": Method(ji.bdia, {"strategy": "explicit"}),
    "EDICT, explicit": Method(ji.edict, {"strategy": "explicit"}),
}


class Found(NamedTuple):
    """What one try came to; all of one try.

    Attributes:
        method: which.
        mode: ``"vmap"``, ``"eager"``, ``"jit"`` or ``"lanes"``.
        model: Which kind.
        data: Which kind.
        answer: ``"noise"`` or ``"state"``.
        converged: The verdict.
        claimed: Its reconstruction error.
        error: The one in float64.
        solved: The verdict without the way back.
        solved_error: The error in float64 of that run's answer.
        evals: Evaluations, and those without the way back.
    """

    method: str
    mode: str
    model: str
    data: str
    answer: str
    converged: bool
    claimed: float
    error: float
    solved: bool
    solved_error: float
    evals: tuple[int, int]


@jax.jit
def _data(sampler: Any, tries: Try) -> Any:
    return jax.vmap(make_data, (None, 0))(sampler, tries)


@jax.jit
def _again(sampler: Any, models: Any, starts: Any) -> Any:
    return jax.vmap(ji.sample, (None, 0, 0))(sampler, models, starts)


def in_float64(sampler: Any, models: Any, starts: Any, x0: np.ndarray) -> np.ndarray:
    """Return the relative errors of sampling from noises or states in float64."""
    starts = jax.tree.map(lambda x: np.asarray(x, np.float64), starts)
    with jax.enable_x64(True):
        # What overflowed is no start: it is an error of its own.
        finite = jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, 0.0), starts)
        again = np.asarray(_again(sampler, models, finite), np.float64)
    x0 = np.asarray(x0, np.float64)
    error = np.linalg.norm(again - x0, axis=1) / np.linalg.norm(x0, axis=1)
    (values,) = jax.tree.leaves(starts)
    bad = ~np.isfinite(values).reshape(len(x0), -1).all(1)
    return np.where(bad | ~np.isfinite(error), np.inf, error)


@functools.cache
def program(name: str, verify: bool, batched: bool) -> Callable[..., Any]:
    """Return a compiled inversion of one try, or of a batch of them."""

    def one(sampler: Any, model: Any, x: Any) -> Any:
        return ji.invert(sampler, model, x, verify=verify, **METHODS[name].options)

    return jax.jit(jax.vmap(one, (None, 0, 0)) if batched else one)


def invert_all(
    name: str, mode: str, sampler: Any, models: Any, x0: Any, verify: bool
) -> Any:
    """Return the results of a batch, stacked."""
    options = {"verify": verify, **METHODS[name].options}
    if mode == "vmap":
        return program(name, verify, True)(sampler, models, x0)
    places = range(len(x0))
    own = [jax.tree.map(lambda leaf, k=k: leaf[k], (models, x0)) for k in places]
    if mode == "lanes":
        stream = ji.invert_stream(
            sampler,
            _conditional,
            ((x, model) for model, x in own),
            conditional=True,
            **options,
        )
        found = [result for _, result in sorted(stream, key=lambda pair: pair[0])]
    elif mode == "jit":
        found = [program(name, verify, False)(sampler, *pair) for pair in own]
    else:
        found = [ji.invert(sampler, model, x, **options) for model, x in own]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *found)


def _conditional(x: Any, t: Any, model: Any) -> Any:
    return model(x, t)


def run_batch(
    name: str, mode: str, kind: str, rng: np.random.Generator, count: int
) -> Iterator[Found]:
    """Invert a batch of tries of one kind of model by one method."""
    method = METHODS[name]
    sampler = method.sampler(ji.time_grid(SCHEDULE, STEPS))
    drawn = [draw(rng, kind) for _ in range(count)]
    tries = jax.tree.map(lambda *leaves: np.stack(leaves), *drawn)
    x0 = np.asarray(_data(sampler, tries))
    # Data that are not finite are refused, and those below 1e-34 have no digits.
    size = np.linalg.norm(x0.astype(np.float64), axis=1)
    good = np.flatnonzero(np.isfinite(size) & (size > 1e-34) & (size < 1e33))
    good = np.resize(good, count)  # batches of one size share their program
    models, x0 = jax.tree.map(lambda leaf: leaf[good], (tries.model, x0))
    new, old = (
        invert_all(name, mode, sampler, models, x0, verify) for verify in (True, False)
    )
    answers = {"noise": (new.noise, old.noise, new.converged, new.reconstruction)}
    # What integers retrace is no claim on their values in other numbers.
    if isinstance(new.state, ji.SamplerState) and "arithmetic" not in method.options:
        both = new.state_converged, new.state_reconstruction
        answers["state"] = (new.state, old.state, *both)
    for answer, (start, before, converged, claimed) in answers.items():
        if isinstance(start, ji.SamplerState):
            start, before = (_plain(s, sampler) for s in (start, before))
        error = in_float64(sampler, models, start, x0)
        error_before = in_float64(sampler, models, before, x0)
        # Without the way back, a state's verdict is on its own rows, which are exact.
        solved = old.solved if answer == "noise" else np.ones(count, bool)
        for k in range(len(np.unique(good))):
            yield Found(
                name,
                mode,
                kind,
                DATA[int(tries.data[good[k]])],
                answer,
                bool(converged[k]),
                float(claimed[k]),
                float(error[k]),
                bool(solved[k]),
                float(error_before[k]),
                (int(new.num_evals[k]), int(old.num_evals[k])),
            )


def _plain(state: Any, sampler: Any) -> Any:
    """Return a batch of states in floats, whatever arithmetic they were found in."""
    values = np.asarray(state.values)
    return ji.SamplerState(values, sampler.name, sampler.num_steps, "noise")


def plan(tries: int, seed: int) -> list[tuple[str, str, str, int]]:
    """Batches: method, mode, kind of model, and how many tries."""
    rng = np.random.default_rng(seed)
    names = [name for name, method in METHODS.items() for _ in range(method.share)]
    batches, count = [], 0
    for k in range(10**6):
        name = names[k % len(names)]
        kind = MODELS[(k + k // len(names)) % len(MODELS)]
        mode = "vmap"
        if name == "O-BELM, bits" or k % 13 == 4:
            mode = "eager"
        elif k % 13 == 8:
            mode = ("lanes", "jit")[int(rng.integers(2))]
        if isinstance(METHODS[name].options.get("strategy"), tuple) or "auto" in name:
            mode = "eager"  # as one program all stages run for the hardest of a batch
        size = BATCH if mode == "vmap" else 8
        batches.append((name, mode, kind, size))
        count += size
        if count >= tries:
            break
    return batches


def search(tries: int, seed: int) -> list[Found]:
    """Run the whole plan."""
    found: list[Found] = []
    began = time.monotonic()
    batches = plan(tries, seed)
    for k, (name, mode, kind, count) in enumerate(batches):
        rng = np.random.default_rng([seed, k])
        found += run_batch(name, mode, kind, rng, count)
        false = [f for f in found if is_false(f)]
        print(
            f"{k + 1}/{len(batches)} {name}, {mode}, {kind}: {len(found)} answers, "
            f"{len(false)} false, {time.monotonic() - began:.0f} s",
            flush=True,
        )
        for f in false:
            print("FALSE", f, flush=True)
    return found


def is_false(found: Found) -> bool:
    """Return whether a verdict is good and the answer is not."""
    return found.converged and not found.error <= RTOL


def report(found: list[Found], by: Callable[[Found], str], title: str) -> str:
    """Return a table of the verdicts by a property."""
    groups: dict[str, list[Found]] = collections.defaultdict(list)
    for f in found:
        groups[by(f)].append(f)
    groups["all"] = found
    rows = []
    for key, group in groups.items():
        true_before = [f for f in group if f.solved and f.solved_error <= RTOL]
        false_before = [f for f in group if f.solved and not f.solved_error <= RTOL]
        lost = [f for f in true_before if not f.converged]
        repaired = [f for f in group if f.converged and not f.solved_error <= RTOL]
        converged = [f for f in group if f.converged]
        costs = np.array([f.evals for f in converged]) if converged else np.ones((1, 2))
        rows.append(
            (
                key,
                len(group),
                sum(f.solved for f in group),
                len(false_before),
                len(converged),
                sum(map(is_false, group)),
                f"{len(lost)} ({len(lost) / max(len(true_before), 1):.1%})",
                len(repaired),
                f"{max((f.error for f in converged), default=0):.1e}",
                f"{np.median(costs[:, 1]):.0f}",
                f"{np.median(costs[:, 0]):.0f}",
            )
        )
    header = (
        title,
        "answers",
        "solved",
        "of them false",
        "converged",
        "of them false",
        "true ones lost",
        "repaired",
        "worst error of a converged one",
        "evaluations, solved",
        "converged",
    )
    return table(header, rows)


def tolerances(found: list[Found]) -> str:
    """Return what other tolerances would say: where the default stands."""
    rows = []
    solved = [f for f in found if f.answer == "noise" and f.solved]
    for rtol in (1e-6, 1e-5, 2.5e-5, 1e-4, 4e-4, 1e-3, 1e-2):
        good = [f for f in solved if f.claimed <= rtol]
        worse = [f.error / max(f.claimed, 1e-7) for f in good]
        rows.append(
            (
                f"{rtol:.0e}",
                f"{len(good) / max(len(solved), 1):.1%}",
                sum(not f.error <= rtol for f in good),
                f"{max(worse, default=0):.1f}",
            )
        )
    header = (
        "tolerance | solved results within | of them above it in float64 | "
        "largest error in float64 / float32"
    )
    return table(header, rows)


def main() -> None:
    """Search, and write the tables."""
    options = parser("certificates", __doc__)
    options.add_argument("--tries", type=int, default=12_000)
    options.add_argument("--seed", type=int, default=0)
    arguments = parse(options, None)
    warnings.simplefilter("ignore", ji.LossyGridWarning)
    found = search(arguments.tries, arguments.seed)
    text = f"""# A search for false certificates

{body(__doc__)}

{provenance(arguments.command)} Float32, {STEPS} steps, uniform in log-SNR, seed
{arguments.seed}.

{report(found, lambda f: f"{f.method}, {f.answer}", "sampler and strategy, answer")}

{report(found, lambda f: f.model, "model")}

{report(found, lambda f: f.data, "data")}

{report(found, lambda f: f.mode, "how it was called")}

## The default tolerance

Of the results whose equations are solved, noise only.

{tolerances(found)}
"""
    save(arguments.out, text)


if __name__ == "__main__":
    main()
