"""The same model call in PyTorch: diffusers' network, compiled, attention by SDPA."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import torch
from torch import Tensor

from benchmarks.accelerator.model import Inputs, Kind, Size, make_inputs, torch_network
from benchmarks.timing import seconds

GUIDANCE = 5.0


class Call(torch.nn.Module):
    """A model call: unguided, or guided with both branches in one batch."""

    def __init__(self, network: torch.nn.Module, kind: Kind, guided: bool) -> None:
        super().__init__()
        self.network, self.kind, self.guided = network, kind, guided

    def forward(self, x: Tensor, t: Tensor, conditions: Any, uncond: Any) -> Tensor:
        """Predictions for a batch, each sample at its own time."""
        if not self.guided:
            return self.predict(x, t, conditions)
        both = _both(uncond, conditions)
        x, t = torch.cat([x, x]), torch.cat([t, t])
        without, with_text = self.predict(x, t, both).chunk(2)
        return without + GUIDANCE * (with_text - without)

    def predict(self, x: Tensor, t: Tensor, condition: Any) -> Tensor:
        """Predictions of one branch, as diffusers' pipelines call the network."""
        given = self.kind.torch_inputs(condition, x)
        if not self.kind.packed:
            return self.network(x, timestep=t, **given, return_dict=False)[0]
        b, c, h, w = x.shape
        tokens = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
        tokens = tokens.reshape(b, h * w // 4, 4 * c)
        out = self.network(tokens, timestep=t / 1000, **given, return_dict=False)[0]
        out = out.view(b, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return out.reshape(b, c, h, w)


def _both(uncond: Any, conditions: Any) -> Any:
    """Return both branches' conditions; torch.compile traces no tree of JAX."""
    if isinstance(conditions, tuple):
        pairs = zip(uncond, conditions, strict=True)
        return type(conditions)(*(_both(*pair) for pair in pairs))  # type: ignore[misc]
    return torch.cat([uncond.expand_as(conditions), conditions])


def tensors(inputs: Inputs, device: str, dtype: torch.dtype) -> tuple[Any, ...]:
    """Return inputs channels first, latents strided channels last, float32 times."""
    x, t, *conditions = jax.tree.map(lambda a: torch.from_numpy(np.array(a)), inputs)
    x = (
        x.permute(0, 3, 1, 2)
        .to(device, dtype)
        .contiguous(memory_format=torch.channels_last)
    )
    conditions = jax.tree.map(lambda a: a.to(device, dtype), conditions)
    return x, t.to(device), *conditions


def torch_calls(
    size: Size, dtype: str, batches: Sequence[int], how: str, repeats: int
) -> list[dict[str, Any]]:
    """Time the model call, unguided and guided.

    Args:
        size: The model.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        batches: Numbers of images.
        how: A mode of ``torch.compile``, or ``"eager"``.
        repeats: Timed calls, of which the median counts.

    Returns:
        A cell for each: seconds and the first output, or why there are none.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")  # TF32, as JAX has by default
    kind = getattr(torch, dtype)
    network = torch_network(size, kind, device)
    cells = []
    for batch in batches:
        given = tensors(make_inputs(size, batch), device, kind)
        for guided in (False, True)[: 1 + size.kind.guidable]:
            call: Any = Call(network, size.kind, guided)
            if how != "eager":
                torch.compiler.reset()  # no dynamic shapes: a program for each batch
                call = torch.compile(call, mode=how, fullgraph=True, dynamic=False)
            cell = {"batch": batch, "guided": guided, "framework": f"PyTorch, {how}"}
            try:
                cells.append(cell | _timed(call, given, device, repeats))
            except torch._dynamo.exc.TorchDynamoException as error:
                # No C++ or Triton compiler here: said in the table, not hidden.
                reason = " ".join(str(error).strip().split("\n")[:2])
                cells.append(cell | {"reason": reason})
            except torch.OutOfMemoryError:
                cells.append(cell | {"reason": "out of memory"})
            print("accelerator:", {**cells[-1], "output": None}, flush=True)
    return cells


@torch.inference_mode()
def _timed(
    call: Any, given: tuple[Tensor, ...], device: str, repeats: int
) -> dict[str, Any]:
    outputs = []

    def run() -> None:
        outputs[:] = [call(*given)]
        if device == "cuda":
            torch.cuda.synchronize()

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    run()  # compiles
    spent = seconds(run, max(repeats, 2))
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    output = outputs[0].float().permute(0, 2, 3, 1).cpu().numpy()
    return {"seconds": spent, "device_peak": peak, "output": output}
