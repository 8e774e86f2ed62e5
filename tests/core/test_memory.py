"""Predicted memory against XLA's report, and what must hold of any prediction."""

import jax
import jax.numpy as jnp
import pytest

import jaxinv as ji
from jaxinv.denoiser import conditioned
from jaxinv.memory import (
    Memory,
    batched_inverse,
    compiled_memory,
    largest_chunk,
    predict_sampling_memory,
    program_memory,
)
from jaxinv.memory.heap import heap_size
from jaxinv.memory.liveness import Life
from jaxinv.memory.program import Value

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


def predict(sampler="ddim", strategy="naive", **options):
    return ji.predict_memory(
        SAMPLERS[sampler], network(), SHAPE, strategy=strategy, **options
    )


def assert_within(predicted: Memory, known: Memory, tolerance: float):
    """Temporaries within the tolerance, all else exact but for tables of pointers."""
    assert predicted.parameters == known.parameters
    assert predicted.arguments == known.arguments
    assert abs(predicted.results - known.results) < 256
    assert abs(predicted.temporaries / known.temporaries - 1) < tolerance


@pytest.mark.parametrize(
    ("sampler", "strategy", "batch"),
    [("ddim", "naive", 1), ("ddim", "naive", 5), ("o_belm", "explicit", 3)],
)
def test_prediction_is_within_15_percent_of_what_xla_reports(sampler, strategy, batch):
    predicted = predict(sampler, strategy, batch=batch)
    known = compiled_memory(
        batched_inverse(SAMPLERS[sampler], strategy=strategy),
        network(),
        array(batch, *SHAPE),
    )
    assert_within(predicted, known, 0.15)


def test_prediction_of_a_unet_is_within_15_percent(tiny):
    text = array(16, tiny.unet.config.cross_attention_dim)
    denoise = conditioned(tiny.unet, text)

    def call(denoise, xs):
        return jax.vmap(lambda x: denoise(x, jnp.float32(5)))(xs)

    samples = array(4, 16, 16, 4)
    predicted = program_memory(call, denoise, samples)
    assert_within(predicted, compiled_memory(call, denoise, samples), 0.15)


def test_parameters_arguments_and_results_are_exact():
    found = predict(batch=3)
    sample = SHAPE[0] * SHAPE[1] * 4
    assert found.parameters == 2 * SHAPE[1] * WIDTH * 4  # not the unused ones
    assert found.arguments == 3 * sample
    # noise and state; 8 residuals and iterations, 3 scalars of 4 bytes and a bool
    assert found.results == 3 * (2 * sample + 8 * 8 + 3 * 4 + 1)
    assert found.total == sum(found)


def test_16_bits_halve_the_parameters():
    wide, narrow = (
        program_memory(lambda d, x: d(x, 0.5), network(dtype), array(*SHAPE))
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert narrow.parameters * 2 == wide.parameters


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="what CPUs do")
def test_a_cpu_holds_16_bit_parameters_in_32_bits_too():
    program = (
        batched_inverse(SAMPLERS["ddim"], strategy="naive"),
        network(jnp.bfloat16),
        array(2, *SHAPE),
    )
    predicted = program_memory(*program)
    assert predicted.temporaries > 2 * predicted.parameters
    assert_within(predicted, compiled_memory(*program), 0.15)


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


def test_auto_takes_what_its_largest_stage_takes():
    stages = [ji.Trajectory(), ji.NewtonTrajectory()]
    single = [predict("2m", stage).temporaries for stage in stages]
    assert predict("2m", "auto").temporaries >= max(single)


def test_prediction_compiles_nothing():
    compiled = []

    def listen(event, duration, **_):
        if "backend_compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.jit(lambda x: x + 12345)(1)
        assert len(compiled) == 1  # it does listen
        predict("o_belm", "explicit", batch=7)
        assert len(compiled) == 1
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_sampling_is_predicted_too():
    found = predict_sampling_memory(SAMPLERS["ddim"], network(), SHAPE, batch=2)
    sample = SHAPE[0] * SHAPE[1] * 4
    assert found.results == 2 * sample
    assert found.temporaries >= 2 * SHAPE[0] * WIDTH * 4


def test_what_is_fused_needs_no_memory():
    found = program_memory(lambda p, x: jnp.exp(x * 2 + 1).T, (), array(100, 100))
    assert found == Memory(0, 40_000, 40_000, 0)


def test_between_two_kernels_there_is_one_array():
    def chain(weights, x):
        for w in weights:
            x = jnp.tanh(x @ w)
        return x.sum()

    weights = [array(128, 128)] * 6
    found = program_memory(chain, weights, array(32, 128))
    product = 32 * 128 * 4
    # tanh is written over the product that it reads, and read while the next is made
    assert found.temporaries == 2 * product


def test_a_loop_keeps_what_it_carries_once():
    def shrink(_, x):
        return jax.lax.fori_loop(0, 10, lambda i, x: x * 0.5, x + 1).sum()

    found = program_memory(shrink, (), array(1000, 1000))
    assert 4_000_000 <= found.temporaries < 4_000_256


def test_constants_of_a_loop_are_computed_before_it():
    def iterate(w, x):
        step = lambda i, x: jnp.tanh(x @ (w @ w))  # noqa: E731
        return jax.lax.fori_loop(0, 10, step, x)

    found = program_memory(iterate, array(512, 512), array(4, 512))
    assert found.temporaries >= 512 * 512 * 4


def life(size, start, end):
    return Life(size, start, end, Value((size,), jnp.int8, size, 0))


@pytest.mark.parametrize(
    ("lives", "expected"),
    [
        ([], 0),
        ([life(64, 0, 1), life(128, 2, 3)], 128),  # one after the other
        ([life(64, 0, 2), life(128, 2, 3)], 192),  # both at 2
        ([life(1, 0, 0)], 64),  # in units of 64 bytes
        # The small one goes between the large one and that which is already free.
        ([life(256, 0, 9), life(128, 0, 4), life(64, 5, 9), life(64, 5, 9)], 384),
    ],
)
def test_heap(lives, expected):
    assert heap_size(lives) == expected


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


def test_largest_chunk_fits_and_the_next_does_not():
    def total(chunk):
        return ji.predict_memory(
            SAMPLERS["2m"], wide_network(), SHAPE, strategy=few_levels(chunk)
        ).total

    limit = (total(4) + total(5)) // 2
    fit = largest_chunk(
        limit, SAMPLERS["2m"], wide_network(), SHAPE, trajectory=few_levels(None)
    )
    assert fit.number == 4
    assert fit.memory.total == total(4) < limit < total(5)


def test_where_not_even_one_fits_the_error_says_what_it_would_take():
    needed = predict()
    with pytest.raises(ValueError, match="not even one sample") as error:
        ji.largest_batch(1000, SAMPLERS["ddim"], network(), SHAPE, strategy="naive")
    assert str(needed) in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch=0"),
        ({"strategy": "explicit"}, "no explicit inverse"),
        ({"strategy": "nonsense"}, "unknown strategy"),
        ({"dtype": jnp.bfloat16}, "float32 or float64"),
    ],
)
def test_bad_input_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        predict(**options)


def test_bad_limits_are_errors():
    with pytest.raises(ValueError, match="must be positive"):
        ji.largest_batch(0, SAMPLERS["ddim"], network(), SHAPE)


def test_a_prediction_is_readable():
    text = str(Memory(3 * 2**30, 1024, 10, 5 * 2**20))
    assert text == (
        "3.00 GiB (parameters 3.00 GiB, arguments 1 KiB, results 10 B, "
        "temporaries 5 MiB)"
    )
