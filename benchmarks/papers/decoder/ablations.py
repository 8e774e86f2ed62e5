"""Table S2: the optimizer and the learning rates of the gradient-free method."""

from __future__ import annotations

import functools
from typing import Any

import optax

from benchmarks.papers.decoder.iterates import CLIPPED, Descent, Variant, measure
from benchmarks.papers.decoder.pictures import GUIDANCE, STEPS
from benchmarks.papers.protocol import Cell, Found, Table, needs_autoencoder
from benchmarks.report import interval, table
from jaxinv.decoder_inversion import Adam, ForwardStep, InertialKM

ITERATIONS = (20, 30, 50, 100, 200)
#: The rate of the methods without Adam in the code of the authors (main_fsm.py, the
#: default), and the momentum of Section 3.4.
RATE, MOMENTUM = 0.01, 0.9


@functools.cache
def fixed(rate: float, iterations: int) -> Descent:
    """Return Adam at a fixed learning rate."""
    return Descent(optax.adam(rate), iterations)


@functools.cache
def without_warm_up(iterations: int) -> Descent:
    """Return Adam with a cosine from its first iteration to zero."""
    return Descent(
        optax.adam(optax.cosine_decay_schedule(0.01, iterations)), iterations
    )


@functools.cache
def without_cosine(iterations: int) -> Descent:
    """Return Adam with a warm-up over a tenth of the iterations, then constant."""
    warm_up = max(iterations // 10, 1)
    rate = optax.linear_schedule(0.01 / warm_up, 0.01, warm_up - 1)
    return Descent(optax.adam(rate), iterations)


def forward(step: float, **options: Any) -> Variant:
    """Return the forward step method with a step size."""
    return Variant(lambda n: ForwardStep(step, iterations=n), **options)


def inertial(step: float, momentum: float, **options: Any) -> Variant:
    """Return the inertial KM iteration with a step size and a momentum."""
    return Variant(lambda n: InertialKM(step, momentum, iterations=n), **options)


OPTIMIZERS = {
    "forward step": forward(RATE),
    "inertial KM": inertial(RATE, MOMENTUM),
    "Adam scheduled": Variant(lambda n: Adam(iterations=n), True),
}
RATES = {
    "Adam 0.01 fixed": Variant(lambda n: fixed(0.01, n), longest=200),
    "Adam 0.002 fixed": Variant(lambda n: fixed(0.002, n), longest=200),
}
#: Not in the paper.
OURS = {
    "Adam 0.01 without cosine": Variant(without_cosine, True),
    "Adam 0.01 without warm-up": Variant(without_warm_up, True),
    "forward step 0.1": forward(0.1, limits=CLIPPED),
    "forward step 0.5": forward(0.5, limits=CLIPPED),
    "forward step 1": forward(1.0, limits=CLIPPED),
    "forward step 1.5": forward(1.5, limits=CLIPPED),
    "inertial KM 1 momentum 0.3": inertial(1.0, 0.3, limits=CLIPPED),
    "inertial KM 1 momentum 0.6": inertial(1.0, 0.6, limits=CLIPPED),
    "inertial KM 1 momentum 0.9": inertial(1.0, 0.9, limits=CLIPPED),
}
VARIANTS = OPTIMIZERS | RATES | OURS


def numbers(name: str) -> tuple[int, ...]:
    """Return the numbers of iterations of a row."""
    if VARIANTS[name].longest == 200 or name == "Adam scheduled":
        return ITERATIONS
    # Every schedule is a run of its own.
    return (20, 100) if VARIANTS[name].scheduled else ITERATIONS[:4]


def cells(setting: Any) -> list[Cell]:
    return [
        {"method": name, "iterations": n} for name in VARIANTS for n in numbers(name)
    ]


def one(setting: Any, cell: Cell, index: int) -> dict[str, Any]:
    name = cell["method"]
    found = measure(setting, index, name, VARIANTS[name], cell["iterations"])
    return {"nmse": found["nmse"]}


def show(found: Found) -> str:
    groups = {
        "the optimizer": OPTIMIZERS,
        "the learning rate": RATES,
        "not in the paper": OURS,
    }
    parts = []
    for title, group in groups.items():
        measured = [name for name in group if found.of(method=name)]
        rows = [(name, *(_error(found, name, n) for n in ITERATIONS))
                for name in measured]  # fmt: skip
        header = [f"{title}: NMSE, dB; iterations:", *map(str, ITERATIONS)]
        if rows:
            parts.append(table(header, rows))
    count = max(len(x) for _, x in found.cells) if found.cells else 0
    text = f"""{count} images; means with 95 % intervals (bootstrap), last iterates.
DDIM, {STEPS} steps, guidance {GUIDANCE:g}. Forward step and inertial KM: step size
{RATE:g}, momentum {MOMENTUM:g}, as far as the paper and its code say. The rows without
Adam of the last table know which pixels were clipped."""
    return "\n\n".join([*parts, text])


def _error(found: Found, name: str, iterations: int) -> str:
    all_ = found.of(method=name, iterations=iterations)
    return interval([x["nmse"] for x in all_], 2)


PUBLISHED = """Table S2 (SD 2.1, 32 bits, 100 images; NMSE in dB, 95 % intervals):

| (a) optimizer; iterations: | 20 | 30 | 50 | 100 |
|---|---:|---:|---:|---:|
| vanilla (forward step) | -16.87 ± 0.38 | -17.42 ± 0.41 | -18.21 ± 0.46 | -19.35 ± 0.54 |
| KM iterations | -18.99 ± 0.53 | -20.72 ± 0.73 | -21.46 ± 0.96 | -20.91 ± 1.20 |
| Adam (orig.) | -19.39 ± 0.54 | -20.84 ± 0.66 | -21.71 ± 0.77 | -21.85 ± 0.82 |

| (b) learning rate of Adam; iterations: | 20 | 50 | 100 | 200 |
|---|---:|---:|---:|---:|
| 0.01 fixed | -20.05 ± 0.58 | -21.07 ± 0.70 | -21.22 ± 0.74 | -20.61 ± 0.79 |
| 0.002 fixed | -17.85 ± 0.43 | -19.28 ± 0.53 | -20.59 ± 0.64 | -21.57 ± 0.74 |
| scheduled (orig.) | -19.39 ± 0.54 | -20.84 ± 0.66 | -21.71 ± 0.77 | -21.85 ± 0.82 |

The rows of Adam are equal in (a) and (b), under other headings: by Table S1, those of
(b) are right."""  # noqa: E501
REMARKS = """Another autoencoder: the order of the methods only. The step size and the
momentum of the first two rows are not in the paper's table; these are the ones of its
code and of its Section 3.4."""
TABLES = (
    Table(
        "decoder-table-s2", "Table S2",
        "ablation of the optimizer and of the learning rate", 100,
        cells, one, show, PUBLISHED, REMARKS, "--prompts FILE --images 100",
        refuse=needs_autoencoder,
    ),
)  # fmt: skip
