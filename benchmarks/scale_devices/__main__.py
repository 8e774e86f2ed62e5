"""Eight virtual devices against one: results, the compiled program, parameters.

What is simulated is the number of devices, not their speed: they share the cores of one
machine. That devices do not wait for one another is read from the compiled program.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxinv as ji
from benchmarks.report import print_section, table
from jaxinv.callables import Function
from jaxinv.diffusion.denoiser import with_condition
from jaxinv.inversion.strategies import make_plan
from jaxinv.mesh import make_mesh, place_model, shard_parameters
from jaxinv.models import UNet2DConditionConfig, UNet2DConditionModel
from jaxinv.pipeline.conditions import Condition, PromptedModel
from jaxinv.scale.batch import Inversion, invert_batch, on_mesh, sample_batch

TITLE = "Devices"
DEVICES = 8
COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)


def run(small: bool) -> str:
    """Return the section, measured in a process that has the devices."""
    return section(in_other_process(small))


def in_other_process(small: bool) -> dict[str, Any]:
    """Return what :func:`measure` returns in a process with the devices."""
    command = [sys.executable, "-m", "benchmarks.scale_devices", "--json"]
    found = subprocess.run(
        [*command, *["--small"] * small],
        stdout=subprocess.PIPE,
        check=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    return json.loads(found.stdout)


def section(found: dict[str, Any]) -> str:
    """Return what was measured, in words and a table."""
    rows = [
        [
            name,
            entry["mesh"],
            f"{entry['noise']:.1e}",
            f"{entry['residual']:.1e}",
            "yes" if entry["same evaluations"] else "no",
            entry["collectives"],
            entry["collectives in loops"],
            f"{entry['flops'] / found['one']['flops']:.3f}",
            f"{entry['parameter bytes'] / found['one']['parameter bytes']:.3f}",
        ]
        for name, entry in found["programs"].items()
    ]
    header = (
        "program | mesh (data x model) | noise, largest difference / RMS | "
        "residual, largest | same evaluations | collectives | of these in loops | "
        "FLOPs of a device, per sample and of one device's | "
        "parameter bytes of a device, of one device's"
    )
    return (
        f"{found['samples']} samples of {found['model']}, DDIM, {found['steps']} steps "
        f"at guidance 3, {DEVICES} virtual devices of one CPU, float32; the reference "
        "is one device with the same samples per call. *jit* is the same vmapped "
        "inverse under `jax.jit` with sharded arguments, for comparison: its one kind "
        "of collective in the loops over data is the stopping predicate.\n\n"
        + table(header, rows)
    )


def measure(small: bool) -> dict[str, Any]:
    """Return all numbers, as JSON holds them."""
    steps, count = 20, DEVICES if small else 2 * DEVICES
    model, shape, conditions, name, schedule = _model(small, count)
    sampler = ji.ddim(ji.time_grid(schedule, steps))
    noise = jax.random.normal(jax.random.key(1), (count, *shape))
    one = make_mesh(devices=jax.devices()[:1])
    per_call = count // DEVICES
    latents = np.asarray(
        sample_batch(sampler, model, noise, conditions, mesh=one, batch_size=per_call)
    )
    programs = _Programs(sampler, latents, conditions, per_call)
    reference = invert_batch(
        sampler,
        model,
        latents,
        conditions,
        mesh=one,
        strategy="stepwise",
        batch_size=per_call,
    )
    found: dict[str, Any] = {}
    for title, parts in (("data parallel", 1), ("parameters in two parts", 2)):
        mesh = make_mesh(parts)
        placed = shard_parameters(model, mesh)
        result = invert_batch(
            sampler, placed, latents, conditions, mesh=mesh, strategy="stepwise"
        )
        found[title] = {
            "mesh": f"{DEVICES // parts} x {parts}",
            **_compare(result, reference),
            **programs.report(placed, mesh, count),
            "parameter bytes": _bytes_per_device(placed),
        }
    title, mesh = "jit", make_mesh()
    placed = shard_parameters(model, mesh)
    found[title] = {
        "mesh": f"{DEVICES} x 1",
        **programs.plain_jit(placed, mesh, reference),
        "parameter bytes": _bytes_per_device(placed),
    }
    return {
        "samples": count,
        "steps": steps,
        "model": name,
        "one": {
            **programs.report(model, one, per_call),
            "parameter bytes": _bytes_per_device(shard_parameters(model, one)),
        },
        "programs": found,
    }


def _model(small: bool, count: int) -> Any:
    """Return a conditional model, its sample shape, conditions, name and schedule."""
    if small:
        config = UNet2DConditionConfig(
            sample_size=8,
            block_out_channels=(16,),
            down_block_types=("CrossAttnDownBlock2D",),
            mid_block_type=None,
            up_block_types=("CrossAttnUpBlock2D",),
            layers_per_block=1,
            norm_num_groups=8,
            cross_attention_dim=16,
            attention_head_dim=2,
        )
        unet = UNet2DConditionModel(config, rngs=nnx.Rngs(0))
        schedule = ji.scaled_linear()
        texts = jax.random.normal(jax.random.key(2), (2, count, 4, 16))
        conditions = Condition(texts[0], texts[1], jnp.full(count, 3.0))
        model = PromptedModel(unet, guided=True)
        return model, (8, 8, 4), conditions, "a small random UNet", schedule
    pipe = ji.load("emoji64")
    prompts = [f"{thing} on a white background" for thing in ("pizza", "red heart")]
    each = [pipe.condition(prompts[k % 2], "", 3.0) for k in range(count)]
    conditions = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    model = pipe.conditional_denoiser()
    return model, pipe.latent_shape, conditions, "emoji64", pipe.schedule


class _Programs:
    """The compiled programs, of which nothing is run here but plain jit's."""

    def __init__(
        self, sampler: Any, latents: np.ndarray, conditions: Any, per_call: int
    ) -> None:
        self.sampler, self.latents, self.conditions = sampler, latents, conditions
        self.task = Inversion(make_plan(sampler, "stepwise", None, None), False)

    def report(self, model: Any, mesh: Any, count: int) -> dict[str, Any]:
        """Count collectives and floating-point operations of a batch on a mesh."""
        x, conditions = self._placed(mesh, count)
        compiled = on_mesh.lower(
            self.sampler,
            place_model(Function.of(model), mesh),
            x,
            conditions,
            task=self.task,
            mesh=mesh,
        ).compile()
        return _read(compiled, count // mesh.shape["data"])

    def plain_jit(self, model: Any, mesh: Any, reference: Any) -> dict[str, Any]:
        """Return the same under jit alone."""
        x, conditions = self._placed(mesh, len(self.latents))

        def one(model: Any, x: Any, condition: Any) -> Any:
            return self.task(self.sampler, with_condition(model, condition), x)

        program = jax.jit(jax.vmap(one, (None, 0, 0)))
        compiled = program.lower(model, x, conditions).compile()
        result = compiled(model, x, conditions)
        each = len(self.latents) // mesh.shape["data"]
        return {**_compare(result, reference), **_read(compiled, each)}

    def _placed(self, mesh: Any, count: int) -> Any:
        spread = NamedSharding(mesh, P("data"))
        first = jax.tree.map(lambda a: a[:count], (self.latents, self.conditions))
        return jax.device_put(first, spread)


def _compare(result: Any, reference: Any) -> dict[str, Any]:
    noise, wanted = np.asarray(result.noise), np.asarray(reference.noise)
    return {
        "noise": float(np.abs(noise - wanted).max() / np.sqrt(np.mean(wanted**2))),
        "residual": float(jnp.max(result.residual)),
        "same evaluations": bool(
            np.array_equal(np.asarray(result.num_evals), reference.num_evals)
        ),
    }


def _read(compiled: Any, per_device: int) -> dict[str, Any]:
    """Count a program's collectives, also in its loops, and FLOPs per sample."""
    bodies = computations(compiled.as_text())
    inside = reached(bodies, loops(bodies))
    cost = compiled.cost_analysis()
    return {
        "collectives": sum(collectives(lines) for lines in bodies.values()),
        "collectives in loops": sum(collectives(bodies[name]) for name in inside),
        "flops": cost["flops"] / per_device,
    }


def computations(program: str) -> dict[str, list[str]]:
    """Return the computations of an HLO text by name, as lists of instructions."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in program.splitlines():
        opened = re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line)
        if opened and not line.startswith(" "):
            name = opened[1]
            found[name] = []
        elif name and line.startswith(" "):
            found[name].append(line)
    return found


def loops(bodies: dict[str, list[str]]) -> set[str]:
    """Conditions and bodies of the while loops."""
    pattern = r"\bwhile\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)"
    lines = (line for body in bodies.values() for line in body)
    return {
        name for line in lines for pair in re.findall(pattern, line) for name in pair
    }


def reached(bodies: dict[str, list[str]], names: set[str]) -> set[str]:
    """Return computations that are called from some, and these themselves."""
    found, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        if name in found or name not in bodies:
            continue
        found.add(name)
        words = set(re.findall(r"%?([\w.\-]+)", " ".join(bodies[name])))
        waiting += words & bodies.keys()
    return found


def collectives(lines: list[str]) -> int:
    """Return how many collective operations there are."""
    pattern = rf" (?:{'|'.join(COLLECTIVES)})(?:-start)?\("
    return sum(len(re.findall(pattern, line)) for line in lines)


def _bytes_per_device(model: Any) -> int:
    """Parameters on the device that holds most of them."""
    held: dict[Any, int] = {}
    for leaf in jax.tree.leaves(model):
        for shard in leaf.addressable_shards:
            held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
    return max(held.values())


def main() -> None:
    """Print the section; or the measurements as JSON, in a process with the devices."""
    if "--json" in sys.argv:
        jax.config.update("jax_num_cpu_devices", DEVICES)
        print(json.dumps(measure("--small" in sys.argv)))
    else:
        print_section(run, __doc__)


if __name__ == "__main__":
    main()
