"""Checkpoints that are either old or new, never half."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint beside its place, then move it there.

    Args:
        path: Where it goes.
        state: Anything that ``torch.load`` reads back with weights only.
    """
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)
