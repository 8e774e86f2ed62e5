"""Claims of loops: one value, the same result however it is run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinv.loops import Loop, advance_at_most, once, run, run_in_turns


@dataclasses.dataclass(frozen=True)
class Halving:
    """Halves a number until it is at most 1; counts."""

    length: int | None = None

    def __call__(self, factor):
        return Loop(
            begin=lambda x: (x, jnp.zeros((), jnp.int32)),
            running=lambda state: state[0] > 1,
            advance=lambda state: (state[0] * factor, state[1] + 1),
            finish=lambda state: {"left": state[0], "count": state[1]},
            length=self.length,
            steps=lambda state: state[1],
        )


HALF, TEN = jnp.float32(0.5), jnp.float32(10)


def test_a_loop_runs_to_its_end():
    assert run(Halving()(HALF), TEN) == {"left": 0.625, "count": 4}


def test_in_turns_it_says_how_far_it_is_and_ends_the_same():
    seen = []
    found = run_in_turns(Halving(), (HALF,), TEN, report=seen.append)
    assert found == run(Halving()(HALF), TEN)
    assert seen == [1, 2, 3, 4]
    seen.clear()
    found = run_in_turns(Halving(), (HALF,), TEN, report=seen.append, iterations=3)
    assert (int(found["count"]), seen) == (4, [3, 4])


def test_a_state_can_be_amended_between_turns():
    def doubled(state):
        return 2 * state[0], state[1]

    found = run_in_turns(
        Halving(), (HALF / 2,), TEN, report=lambda _: None, amend=doubled
    )
    assert found == run(Halving()(HALF), TEN)


def test_a_loop_with_nothing_to_do_does_nothing():
    found = run_in_turns(Halving(), (HALF,), HALF, report=pytest.fail)
    assert found == {"left": 0.5, "count": 0}


def test_it_can_be_left_and_taken_up_again():
    loop = Halving()(HALF)
    spent, state = advance_at_most(loop, loop.begin(TEN), 3)
    assert (int(spent), loop.finish(state)) == (3, {"left": 1.25, "count": 3})
    spent, state = advance_at_most(loop, state, 3)
    assert (int(spent), loop.finish(state)) == (1, {"left": 0.625, "count": 4})


def test_a_loop_of_known_length_has_a_derivative():
    gradient = jax.grad(lambda f: run(Halving(4)(f), TEN)["left"])(HALF)
    np.testing.assert_allclose(gradient, 4 * 10 * 0.5**3)


@pytest.mark.parametrize("active", [True, False])
def test_a_function_is_a_loop_of_one_iteration(active):
    loop = once(lambda: {"x": jnp.arange(3.0)}, jnp.asarray(active))
    state = loop.begin()
    assert bool(loop.running(state)) == active
    assert not loop.running(loop.advance(state))
    np.testing.assert_array_equal(run(loop)["x"], [0, 1, 2] if active else [0, 0, 0])
