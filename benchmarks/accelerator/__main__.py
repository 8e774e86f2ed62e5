"""What an accelerator makes of published sizes, beside compiled PyTorch.

    python -m benchmarks.accelerator [--small] [--models sd21 sd3 flux] [--batch 1 4 16]

The networks of Stable Diffusion 2.1, Stable Diffusion 3.5 medium and FLUX.1 dev with
random weights, the same in both frameworks, on whatever device there is: one call of
the network, and whole inversions. FLUX takes its guidance as a number; the others are
also called with both branches of classifier-free guidance. Cells are kept
beside the table as JSON lines; a later run measures what it is asked for again and
leaves the other cells of the same device. PyTorch shares the device's memory: with
``XLA_PYTHON_CLIENT_PREALLOCATE=false`` in the environment JAX takes what it needs only.
"""

import argparse
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks.accelerator.flops import peak_flops
from benchmarks.accelerator.jax_calls import (
    call_flops,
    inversion,
    model_call,
    ways,
)
from benchmarks.accelerator.model import SIZES, Size, jax_network
from benchmarks.accelerator.tables import report
from benchmarks.accelerator.torch_calls import torch_calls
from benchmarks.report import parse, parser, provenance, read_lines, save
from jaxinv.files import open_atomically
from jaxinv.models import with_options
from jaxinv.models.layers.flash import has_cudnn

PARTS = ("torch", "call", "naive", "stepwise", "trajectory")
#: What tells one cell from another; the rest of a cell was measured.
KEY = ("device", "size", "dtype", "framework", "what", "guided", "batch", "steps")


def arguments_of(argv: Sequence[str] | None) -> argparse.Namespace:
    found = parser("accelerator", __doc__)
    add, dtypes = found.add_argument, ("bfloat16", "float16", "float32")
    modes = ("default", "reduce-overhead", "max-autotune", "eager")
    add("--small", action="store_true", help="small networks of the same kinds")
    add("--models", nargs="+", choices=SIZES, default=[*SIZES])
    add("--dtype", nargs="+", choices=dtypes, default=["bfloat16"])
    add("--batch", type=int, nargs="+", default=[1, 4, 16, 32])
    add("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    add("--steps", type=int, default=20)
    add("--guidance", type=float, default=3.0, help="of inversions")
    add("--rows", type=int, default=64, help="latents in a call of the trajectory's")
    add("--torch", default="default", choices=modes, help="of torch.compile, or eager")
    add("--repeats", type=int, default=5)
    arguments = parse(found, argv)
    for name in ("batch", "steps", "rows", "repeats"):
        if np.min(getattr(arguments, name)) < 1:
            found.error(f"--{name} must be positive")
    return arguments


def measure(
    size: Size, dtype: str, arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Return all cells of one data type, each as soon as it is there."""
    outputs: dict[tuple[int, bool], np.ndarray] = {}
    # PyTorch first, so that its weights are gone before JAX's come.
    for cell in (
        torch_calls(size, dtype, arguments.batch, arguments.torch, arguments.repeats)
        if "torch" in arguments.parts
        else []
    ):
        output = cell.pop("output", None)
        if output is not None:
            outputs[cell["batch"], cell["guided"]] = output
        yield {"what": "call", **cell}
    if set(arguments.parts) == {"torch"}:
        return
    network = jax_network(size, dtype)
    branches = (False, True)[: 1 + size.kind.guidable]
    flops = {guided: call_flops(size, network, guided) for guided in branches}
    peak, source = peak_flops(dtype)
    kernels = ["xla"]
    if has_cudnn() and dtype != "float32":
        kernels.append("cudnn")
    for kernel in kernels:
        model = with_options(network, attention=kernel)  # type: ignore[arg-type]
        common = {"framework": f"JAX, {kernel}", "peak": peak, "peak_source": source}
        for batch in arguments.batch:
            for guided in branches if "call" in arguments.parts else ():
                options = size, model, batch, guided, arguments.repeats
                cell = fitting(model_call, *options)
                output, other = cell.pop("output", None), outputs.get((batch, guided))
                if output is not None and other is not None:
                    error = np.linalg.norm(output - other) / np.linalg.norm(other)
                    cell["to_torch"] = float(error)
                cell |= {"batch": batch, "guided": guided}
                yield {"what": "call", "flops": batch * flops[guided], **common, **cell}
            for name, way in ways(size, arguments.rows, arguments.steps).items():
                # Whole inversions with the best kernel that there is.
                if name.split(",")[0] not in arguments.parts or kernel != kernels[-1]:
                    continue
                options = batch, arguments.steps, way, arguments.guidance
                runs = min(3, arguments.repeats)
                cell = fitting(inversion, size, model, *options, runs)
                yield {
                    "what": name,
                    "guided": size.kind.guidable,
                    "batch": batch,
                    "steps": arguments.steps,
                    "flops": cell.get("evaluations", 0) * flops[branches[-1]],
                    **common,
                    **cell,
                }


def fitting(run: Callable[..., dict[str, Any]], *options: Any) -> dict[str, Any]:
    """Return a cell, or the reason that there is none where memory does not suffice."""
    try:
        return run(*options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"reason": "out of memory"}


def main(argv: Sequence[str] | None = None) -> None:
    arguments = arguments_of(argv)
    kept = arguments.out.with_name(f"{arguments.out.stem}-cells.jsonl")
    cells = {_key(cell): cell for cell in read_lines(kept)}
    made = provenance(arguments.command)  # of the code that runs, not of later commits
    for name, dtype in itertools.product(arguments.models, arguments.dtype):
        size = SIZES[name][arguments.small]
        for measured in measure(size, dtype, arguments):
            cell = {
                "device": jax.devices()[0].device_kind,
                "size": size.name,
                "dtype": dtype,
                "made": made,
                "load": os.getloadavg()[0] / (os.cpu_count() or 1),
                **measured,
            }
            cells[_key(cell)] = cell
            print("accelerator:", cell, flush=True)
            with open_atomically(kept) as file:
                lines = (json.dumps(cell) for cell in cells.values())
                file.write("".join(f"{line}\n" for line in lines).encode())
    save(arguments.out, report(list(cells.values())))


def _key(cell: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(cell.get(name) for name in KEY)


if __name__ == "__main__":
    main()
