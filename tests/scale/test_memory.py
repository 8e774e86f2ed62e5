"""Memory as the compiler reports it, from shapes alone."""

import jax
import jax.numpy as jnp
import pytest

import jaxinv as ji
from jaxinv.scale.memory import Memory

# Bytes are those of the programs that users run.
pytestmark = pytest.mark.users_compiler

SHAPE = (64, 256)
WIDTH = 1024
GRID = ji.time_grid(ji.scaled_linear(), 8)
SAMPLERS = {"ddim": ji.ddim(GRID), "2m": ji.dpmpp_2m(GRID), "o_belm": ji.o_belm(GRID)}


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def two_layers(params, x, t):
    hidden = jnp.tanh(x.astype(params["a"].dtype) @ params["a"])
    return (hidden @ params["b"]).astype(x.dtype) + t * 0


def network(dtype=jnp.float32):
    params = {
        "a": array(SHAPE[-1], WIDTH, dtype=dtype),
        "b": array(WIDTH, SHAPE[-1], dtype=dtype),
        "unused": array(1000, 1000, dtype=dtype),
    }
    return jax.tree_util.Partial(two_layers, params)


def predict(sampler="ddim", strategy="naive", shape=SHAPE, **options):
    return ji.predict_memory(
        SAMPLERS[sampler], network(), shape, strategy=strategy, **options
    )


def test_parameters_arguments_and_results_are_exact():
    found = predict(batch=3)
    sample = SHAPE[0] * SHAPE[1] * 4
    # Those that the network does not use are held, too.
    assert found.parameters == (2 * SHAPE[1] * WIDTH + 1000 * 1000) * 4
    assert found.arguments == 3 * sample
    # noise and state; 8 residuals and iterations, 6 scalars of 4 bytes and 3 bools
    expected = 3 * (2 * sample + 8 * 8 + 6 * 4 + 3)
    assert 0 <= found.results - expected < 256  # and a table of pointers
    assert found.total == sum(found)


def test_16_bits_halve_the_parameters():
    wide, narrow = (
        ji.predict_memory(SAMPLERS["ddim"], network(dtype), SHAPE, strategy="naive")
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert narrow.parameters * 2 == wide.parameters


@pytest.mark.parametrize(
    ("sampler", "strategy"),
    [("ddim", "naive"), ("ddim", "stepwise"), ("2m", "trajectory")],
)
def test_memory_grows_with_the_batch(sampler, strategy):
    found = [predict(sampler, strategy, batch=b).total for b in (1, 3)]
    assert found[0] < found[1] < 3 * found[0]


def wide_network():
    """One whose layers are large beside its samples."""

    def wide(params, x, t):
        return two_layers(params, jnp.tile(x, (32, 1)), t)[: len(x)]

    return jax.tree_util.Partial(wide, network().args[0])


def few_levels(chunk):
    return ji.Trajectory(history=1, max_sweeps=9, chunk=chunk)


def test_evaluating_few_levels_at_a_time_takes_less_memory():
    whole, chunked = (
        ji.predict_memory(
            SAMPLERS["2m"], wide_network(), SHAPE, strategy=few_levels(chunk)
        )
        for chunk in (None, 2)
    )
    assert chunked.temporaries < whole.temporaries


def test_largest_batch_fits_and_the_next_does_not():
    limit = 50_000_000
    fit = ji.largest_batch(limit, SAMPLERS["ddim"], network(), SHAPE, strategy="naive")
    assert fit.memory == predict(batch=fit.number)
    assert fit.memory.total <= limit < predict(batch=fit.number + 1).total


def test_largest_batch_stops_at_what_is_wanted():
    fit = ji.largest_batch(
        10**12, SAMPLERS["ddim"], network(), SHAPE, strategy="naive", at_most=6
    )
    assert fit.number == 6


def test_where_not_even_one_fits_the_error_says_what_it_would_take():
    needed = predict()
    with pytest.raises(ValueError, match="one sample does not fit") as error:
        ji.largest_batch(1000, SAMPLERS["ddim"], network(), SHAPE, strategy="naive")
    assert str(needed) in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch must be an integer of at least 1"),
        ({"shape": (4, 0)}, r"shape\[1\] must be an integer of at least 1"),
        ({"strategy": "explicit"}, "no explicit inverse"),
        ({"strategy": "nonsense"}, "unknown strategy"),
        ({"dtype": jnp.bfloat16}, "float32 or float64"),
    ],
)
def test_bad_input_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        predict(**options)


def test_bad_limits_are_errors():
    with pytest.raises(
        ValueError, match="limit_bytes must be an integer of at least 1"
    ):
        ji.largest_batch(0, SAMPLERS["ddim"], network(), SHAPE)


def test_a_prediction_is_readable():
    text = str(Memory(3 * 2**30, 1024, 10, 5 * 2**20))
    assert text == (
        "3.00 GiB (parameters 3.00 GiB, arguments 1 KiB, results 10 B, "
        "temporaries 5 MiB)"
    )
