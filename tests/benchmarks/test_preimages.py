"""The benchmark of preimages: its starts, its choice, and its table of p-values."""

import jax
import jax.numpy as jnp
import pytest
from jax.tree_util import Partial

import jaxinv as ji
from benchmarks.preimages.__main__ import (
    MADE,
    NEAR,
    STARTS,
    Problem,
    chosen,
    inverted,
    p_values,
)
from jaxinv.callables import Function


def gentle(gain, x, t):
    return gain * jnp.sin(x + 0.001 * t)


@pytest.fixture(scope="module")
def problem():
    """A sample whose noise is the only one."""
    schedule = ji.scaled_linear()
    table, fine = (ji.ddim(ji.time_grid(schedule, n)) for n in (6, 12))
    noise = jax.random.normal(jax.random.key(0), (4, 4, 4))

    def model(scale):
        return Function.of(Partial(gentle, jnp.float32(0.1 * scale)))

    x0 = ji.sample(table, model(3.0), noise)
    return Problem(table, fine, model, 3.0, noise, x0, jax.random.key(1))


@pytest.mark.parametrize("start", ["auto", *MADE])
def test_every_start_finds_the_only_noise(problem, start):
    found = inverted(problem, start)
    assert found["certified"]
    assert found["noise_db"] < -80
    sweeps = {"guidance": 4, "steps": 2}.get(start, 1)
    assert found["per_row"] > sweeps + 1
    assert found["p"] == pytest.approx(
        float(ji.noise_plausibility(problem.noise).p_value), rel=0.1
    )


def one(noise_db, p, certified=True):
    return {"noise_db": noise_db, "certified": certified, "per_row": 10.0, "p": p}


def test_the_most_plausible_certified_noise_is_chosen_at_the_cost_of_all():
    found = dict.fromkeys(STARTS, one(-10.0, 0.1))
    found["noised 1"] = one(-80.0, 0.2)
    found["guidance"] = one(-5.0, 0.9, certified=False)
    found["steps"] = one(-20.0, 0.4)
    best, closest = chosen(found), chosen(found, closest=True)
    assert (best["noise_db"], closest["noise_db"]) == (-20.0, -80.0)
    assert best["per_row"] == 10.0 * len(STARTS)


def test_p_values_are_counted_by_the_error_of_the_noise():
    found = dict.fromkeys([*STARTS, NEAR], one(-8.0, 0.001))
    found |= {"auto": one(-90.0, 0.5), "steps": one(-8.0, 0.5, certified=False)}
    text = p_values({"cell": [found | {"true": {"p": 0.5}}]})
    assert "| the true noise | 1 | 0.5 | 0 |" in text
    assert "| up to -60 dB | 1 | 0.5 | 0 |" in text
    assert "| -10 to -7.5 dB | 4 | 0.001 | 4 |" in text
