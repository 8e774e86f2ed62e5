"""The benchmark of networks in 16 bits, on a network of a few numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinv as ji
from benchmarks.precision import __main__ as precision
from benchmarks.precision.models import Model


def tiny(dtype):
    weights = jnp.asarray(np.random.default_rng(0).standard_normal((8, 8)) / 8, dtype)

    def network(weights, scale, x, t):
        del t
        h = x.astype(weights.dtype)
        return scale * (h + jnp.tanh(h @ weights)).astype(x.dtype)

    tau = np.linspace(0, 1, 3)
    grid = ji.TimeGrid(tau, np.ones_like(tau), 1000 * tau, family="flow")
    return Model(
        lambda steps: ji.euler(grid),
        lambda k, scale: jax.tree_util.Partial(network, weights, jnp.float32(scale)),
        lambda k: jax.random.normal(jax.random.key(k), (8,)),
    )


def test_a_report_is_made_and_continued(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "MODELS", {"tiny": tiny})
    monkeypatch.setattr(precision, "BATCHES", (2,))
    out, kept = tmp_path / "precision.md", tmp_path / "cells.jsonl"
    command = ["--models", "tiny", "--dtypes", "bfloat16", "--steps", "2"]
    command += ["--guidance", "1", "--samples", "1"]
    command += ["--out", str(out), "--resume", str(kept)]
    precision.main(command)
    text = out.read_text()
    assert "| tiny | bfloat16 | 2 | 1 |" in text
    assert "| tiny | bfloat16 | 0e+00 |" in text  # a repeated call is the same

    def measured(*given):
        raise AssertionError("measured again")

    measured.__name__ = "inverted"
    monkeypatch.setattr(precision, "inverted", measured)
    precision.main(command)
    assert out.read_text() == text
    with pytest.raises(AssertionError, match="measured again"):
        precision.main([*command[:5], "3", *command[6:]])
