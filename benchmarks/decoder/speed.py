"""Time per iteration, beside the published methods in PyTorch: same weights, one run.

PyTorch runs with as many threads as make it fastest.
"""

import os
from typing import Any

import torch

from benchmarks import torch_reference as ref
from benchmarks.decoder.setting import Setting, compiled, with_iterations
from benchmarks.report import body, table
from benchmarks.timing import seconds
from benchmarks.torch_reference import decoder as published
from jaxinv.decoder_inversion import METHODS
from jaxinv.loading.find import find_model

TITLE = "Time per iteration"
ITERATIONS = 20
IN_TORCH = {
    "gradient": published.gradient,
    "forward_step": published.forward_step,
    "adam": published.gradient_free_adam,
}


def run(setting: Setting) -> str:
    """Return the table."""
    arguments = setting.arguments
    image = setting.samples.images[0]
    model = ref.TorchAutoencoder(find_model(arguments.model))
    pixels = ref.to_channels_first(image[None]) / 255
    rows = []
    for name, method in METHODS.items():
        if name == "encoder":
            continue
        count = 5 if name == "gauss_newton" else ITERATIONS
        program = compiled(setting.pipe, image, with_iterations(method, count))
        spent = seconds(lambda run=program: run(setting.pipe, image), arguments.repeats)
        ours = spent / count
        theirs = _in_torch(name, model, pixels, arguments.repeats)
        rows.append(
            (
                name,
                f"{1000 * ours:.1f}",
                f"{1 / ours:.1f}",
                f"{1000 * theirs:.1f}" if theirs else "-",
                f"{theirs / ours:.2f}" if theirs else "-",
            )
        )
        print(f"time: {rows[-1]}", flush=True)
    header = "method | JAX, ms | JAX, per second | PyTorch, ms | PyTorch / JAX"
    size = "x".join(map(str, image.shape[:2]))
    return f"""{body(__doc__, 1)}

One image of {size}, medians of {arguments.repeats} runs of {ITERATIONS} iterations (5
of Gauss-Newton), divided by them.

{table(header, rows)}"""


def _in_torch(name: str, model: Any, pixels: Any, repeats: int) -> float:
    """Seconds per iteration of the published method; 0 if it is not published."""
    if name not in IN_TORCH:
        return 0.0
    best = float("inf")
    for threads in sorted({1, os.cpu_count() or 1}):
        torch.set_num_threads(threads)
        spent = seconds(
            lambda: IN_TORCH[name](model.encode, model.decode, pixels, ITERATIONS),
            repeats,
        )
        best = min(best, spent / ITERATIONS)
    return best
