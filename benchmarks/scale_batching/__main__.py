"""Continuous batching against plain ``vmap``, on samples of mixed difficulty.

Both run the same stepwise inverse with the same number of lanes on one device. How many
evaluations were computed is exact: a lane that waits is computed with the others.
"""

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from benchmarks.report import print_section, table
from jaxinv.inversion import Stepwise
from jaxinv.mesh import make_mesh
from jaxinv.scale.batch import invert_batch, sample_batch
from jaxinv.scale.lanes import Lanes
from jaxinv.scale.stations import Station, flow
from jaxinv.scale.stream import inversion_stations, numbered

TITLE = "Continuous batching"
LANES = 8
GUIDANCE = (1.0, 2.0, 3.0, 5.0)
PROMPTS = (
    "red heart on a white background",
    "pizza on a green background",
    "dog face on a blue background",
    "soccer ball on a yellow background",
)


def run(small: bool) -> str:
    """Return the section."""
    count, repeats = (16, 1) if small else (48, 1)
    return section(measure(ji.load("emoji64"), count=count, repeats=repeats))


def measure(
    pipe: Any, *, count: int, repeats: int, steps: int = 20, iterations: int = 4
) -> dict[str, Any]:
    """Measure evaluations and seconds of both.

    Args:
        pipe: The model.
        count: Samples, a multiple of the lanes.
        repeats: Runs that are timed, in turn; medians are given.
        steps: Of DDIM.
        iterations: Of a turn.
    """
    sampler = ji.ddim(ji.time_grid(pipe.schedule, steps))
    # In an order in which a batch has easy and hard ones.
    rng = np.random.default_rng(0)
    scales = rng.permutation(np.resize(GUIDANCE, count))
    each = [
        pipe.condition(PROMPTS[k % len(PROMPTS)], "", scale)
        for k, scale in enumerate(scales)
    ]
    conditions = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    model = pipe.conditional_denoiser()
    noise = jax.random.normal(jax.random.key(5), (count, *pipe.latent_shape))
    mesh = make_mesh(devices=jax.devices()[:1])
    options = {"mesh": mesh, "batch_size": LANES}
    latents = np.asarray(sample_batch(sampler, model, noise, conditions, **options))
    samples = [
        (x0, jax.tree.map(lambda leaf, k=k: leaf[k], conditions))
        for k, x0 in enumerate(latents)
    ]

    def batches(first: int = count) -> Any:
        some = jax.tree.map(lambda leaf: leaf[:first], (latents, conditions))
        return jax.block_until_ready(
            invert_batch(
                sampler, model, *some, strategy="stepwise", verify=False, **options
            )
        )

    def stream(first: int = count) -> tuple[dict[int, Any], int]:
        station, way_out = inversion_stations(
            sampler,
            model,
            first=0,
            lanes=LANES,
            iterations=iterations,
            mesh=mesh,
            plan=(Stepwise(),),
            verify=False,
        )
        lanes: Lanes = station.lanes()
        stations = [Station(lambda: lanes, station.route), way_out]
        found = {
            k: value[0] for k, value in flow(stations, numbered(samples[:first], True))
        }
        return found, lanes.evaluated

    batches(LANES), stream(LANES)  # compiled now
    seconds: dict[str, list[float]] = {"vmap": [], "continuous": []}
    for _ in range(repeats):
        began = time.perf_counter()
        whole = batches()
        between = time.perf_counter()
        streamed, computed = stream()
        seconds["vmap"].append(between - began)
        seconds["continuous"].append(time.perf_counter() - between)
    evals = np.asarray(whole.num_evals)
    per_level = np.asarray(whole.iterations).reshape(-1, LANES, steps)
    difference = max(
        float(np.abs(streamed[k].noise - np.asarray(whole.noise[k])).max())
        for k in streamed
    )
    return {
        "count": count,
        "steps": steps,
        "iterations": iterations,
        "needed": float(evals.mean()),
        "range": (int(evals.min()), int(evals.max())),
        "levels in turn": float(per_level.max(1).sum(1).mean()),
        "vmap": float(evals.reshape(-1, LANES).max(1).mean()),
        "continuous": computed / count,
        "same evaluations": all(
            int(streamed[k].num_evals) == evals[k] for k in streamed
        ),
        "difference": difference,
        "ambiguous": float(jnp.max(whole.residual)),
        "seconds": {k: statistics.median(v) for k, v in seconds.items()},
    }


def section(found: dict[str, Any]) -> str:
    """Return what was measured, as a table."""
    count = found["count"]
    rate = {name: count / value for name, value in found["seconds"].items()}

    def row(name: str, computed: float, speed: float | None) -> list[str]:
        return [
            name,
            f"{computed:.0f}",
            f"{100 * found['needed'] / computed:.0f} %",
            "not run" if speed is None else f"{speed:.3f}",
            "" if speed is None else f"{speed / rate['vmap']:.2f}",
        ]

    rows = [
        row("`vmap`, every level waiting for all lanes", found["levels in turn"], None),
        row("`vmap` (`invert_batch`)", found["vmap"], rate["vmap"]),
        row("continuous (`invert_stream`)", found["continuous"], rate["continuous"]),
    ]
    low, high = found["range"]
    header = (
        "scheme | evaluations computed per image | of them needed | "
        "images per second | times `vmap`"
    )
    same = "the same" if found["same evaluations"] else "not always the same"
    return (
        f"{count} latents of emoji64, guidance {', '.join(map(str, GUIDANCE))} mixed, "
        f"DDIM, {found['steps']} steps, stepwise inverse, {LANES} lanes on one device, "
        f"{found['iterations']} iterations a turn. A sample needs {low} to {high} "
        f"evaluations, {found['needed']:.0f} on average; both schemes count {same} "
        f"for each, and their noises differ by {found['difference']:.1e} at most. The "
        "first row is counted, from the iterations of each level: what nested loops "
        "would compute, of which levels and iterations here are one.\n\n"
        + table(header, rows)
    )


if __name__ == "__main__":
    print_section(run, __doc__)
