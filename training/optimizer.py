"""Muon for matrices and convolutions, AdamW for the rest.

Muon replaces the momentum of a weight matrix by its nearest semi-orthogonal matrix,
found with a quintic Newton-Schulz iteration. All directions of the update then move
at one speed, which needs fewer steps than Adam on small convolutional networks; with
a fixed wall time on a CPU, steps are what is scarce.

References:
    Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
    Liu et al., "Muon is scalable for LLM training", 2025 (the update scale).
"""

from __future__ import annotations

from collections import defaultdict

import torch
import torch.distributed as dist

# The quintic of Jordan et al.: steep at zero, so that few iterations suffice; it
# brings singular values into about [0.7, 1.2], not exactly to one.
_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalise(matrices: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """Nearest semi-orthogonal matrices, approximately.

    The iterate is always ``Q X`` with ``Q`` a polynomial in ``X X^T``, so the loop runs
    on the small Gram matrix and the wide matrix is touched twice: on a CPU that is
    several times cheaper than the textbook form.

    Args:
        matrices: Shape (n, rows, columns).
        iterations: Newton-Schulz iterations.

    Returns:
        Same shape; singular values near one.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    gram = x @ x.transpose(1, 2)
    eye = torch.eye(x.shape[1]).expand_as(gram)
    q = eye
    for _ in range(iterations):
        poly = _A * eye + _B * gram + _C * (gram @ gram)
        q = poly @ q
        gram = poly @ gram @ poly
        # Rounding breaks the symmetry that the recursion rests on.
        gram = 0.5 * (gram + gram.transpose(1, 2))
    x = q @ x
    return x.transpose(1, 2) if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised per weight matrix.

    The update is scaled by ``0.2 sqrt(max(rows, columns))`` so that its RMS equals
    that of AdamW and both share one learning rate. Convolutions are matrices of shape
    (out, in * kh * kw).
    """

    def __init__(
        self, params, lr: float = 1e-3, momentum: float = 0.95, decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure=None):
        """One update; matrices of one shape are orthogonalised together.

        With several processes each takes its share of the matrices, and the updates
        are exchanged in one message: the iteration is not repeated everywhere.
        """
        world, rank = (
            (dist.get_world_size(), dist.get_rank())
            if dist.is_initialized()
            else (1, 0)
        )
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            grads = [p.grad.reshape(p.shape[0], -1) for p in params]
            for p, g in zip(params, grads, strict=True):
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(g)
            momenta = [self.state[p]["momentum"] for p in params]
            torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
            # Nesterov: look one step ahead of the momentum.
            ahead = torch._foreach_lerp(grads, momenta, group["momentum"])
            updates = [torch.zeros_like(g) for g in grads]
            for indices in _shares(grads, world)[rank]:
                results = orthogonalise(torch.stack([ahead[i] for i in indices]))
                scale = 0.2 * max(results.shape[1:]) ** 0.5
                for i, result in zip(indices, results, strict=True):
                    updates[i] = result * scale
            if world > 1:
                flat = torch.cat([u.flatten() for u in updates])
                dist.all_reduce(flat)
                updates = flat.split([u.numel() for u in updates])
            for p, update in zip(params, updates, strict=True):
                p.mul_(1 - group["lr"] * group["decay"])
                p.sub_(update.view(p.shape), alpha=group["lr"])


def _shares(matrices: list[torch.Tensor], world: int) -> list[list[list[int]]]:
    """Deal matrices out to processes by cost, then group each hand by shape."""
    order = sorted(
        range(len(matrices)),
        key=lambda i: (-matrices[i].numel() * min(matrices[i].shape), i),
    )
    loads = [0.0] * world
    hands: list[dict[tuple[int, ...], list[int]]] = [defaultdict(list) for _ in loads]
    for i in order:
        least = loads.index(min(loads))
        rows, columns = matrices[i].shape
        small = min(rows, columns)
        # Two passes over the wide matrix, five rounds of four small products.
        loads[least] += 2.0 * small * rows * columns + 20.0 * small**3
        hands[least][tuple(matrices[i].shape)].append(i)
    return [list(hand.values()) for hand in hands]


class Pair:
    """Several optimizers under one learning rate."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self.optimizers = optimizers

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of every group (times its ``scale`` if it has one)."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * group.get("scale", 1.0)

    def step(self) -> None:
        """Step all of them."""
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self) -> None:
        """Clear all gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> list:
        """State for a checkpoint."""
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load_state_dict(self, states: list) -> None:
        """Restore a state made by ``state_dict``."""
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)


def make_optimizer(
    module: torch.nn.Module,
    kind: str,
    edges: tuple[str, ...] = ("conv_in", "conv_out", "embedding"),
) -> Pair:
    """Build the optimizer of a module.

    Args:
        module: The network.
        kind: ``"muon"`` or ``"adamw"``.
        edges: Parts of the names of the first and last layers and of embeddings.

    Returns:
        Muon on inner matrices and convolutions, AdamW on the first and last
        convolution, embeddings, norms and biases; or AdamW on everything.

    Raises:
        ValueError: If ``kind`` is neither.
    """
    if kind == "adamw":
        return Pair(
            torch.optim.AdamW(
                module.parameters(), betas=(0.9, 0.99), weight_decay=0.01, fused=True
            )
        )
    if kind != "muon":
        raise ValueError(f"optimizer {kind!r} is unknown: use 'muon' or 'adamw'")
    matrices, rest = [], []
    for name, p in module.named_parameters():
        edge = any(part in name for part in edges)
        (rest if p.ndim < 2 or edge else matrices).append(p)
    adam = torch.optim.AdamW(rest, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    return Pair(Muon(matrices), adam)
