"""Claims of continuous batching: each sample has its own result, exactly once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_cases import coupled_model

import jaxinv as ji
from jaxinv.diffusion.denoiser import with_condition
from jaxinv.loops import Loop
from jaxinv.mesh import make_mesh
from jaxinv.scale.lanes import Lanes
from jaxinv.scale.stations import NextStage, Station, flow
from jaxinv.scale.stream import invert_stream
from jaxinv.solvers import NewtonKrylov

COUNT, LANES = 7, 3


@pytest.fixture(scope="module")
def denoise():
    return coupled_model()


@pytest.fixture(scope="module")
def strengths():
    return np.linspace(0.1, 1.2, COUNT).astype(np.float32)


@pytest.fixture(scope="module")
def one_device():
    return make_mesh(devices=jax.devices()[:1])


def sampled(sampler, denoise, strengths):
    noise = jax.random.normal(jax.random.key(1), (COUNT, 4, 8))
    return jax.vmap(lambda z, c: ji.sample(sampler, with_condition(denoise, c), z))(
        noise, strengths
    )


def streamed(sampler, denoise, data, strengths, mesh, **options):
    """The results of a stream by number."""
    pairs = zip(np.asarray(data), strengths, strict=True)
    options = {"conditional": True, "lanes": LANES, "mesh": mesh} | options
    return dict(invert_stream(sampler, denoise, pairs, **options))


CASES = [
    ("ddim", "stepwise", {}),
    ("ddim", "auto", {}),
    ("ddim", "naive", {}),
    ("ddim", "stepwise", {"solver": NewtonKrylov()}),
    ("dpmpp_2m", "auto", {}),
    ("dpmpp_2m", "stepwise", {"schedule": ji.scaled_linear()}),
    ("bdia", "auto", {}),
    ("edict", "auto", {}),
]


@pytest.mark.parametrize(("name", "strategy", "options"), CASES)
def test_stream_is_one_by_one(name, strategy, options, denoise, strengths, one_device):
    sampler = getattr(ji, name)(ji.time_grid(ji.scaled_linear(), 20))
    data = sampled(sampler, denoise, strengths)
    found = streamed(
        sampler, denoise, data, strengths, one_device, strategy=strategy, **options
    )
    assert sorted(found) == list(range(COUNT))
    for k in (0, COUNT - 1):
        alone = ji.invert(
            sampler,
            with_condition(denoise, strengths[k]),
            data[k],
            strategy=strategy,
            **options,
        )
        np.testing.assert_allclose(found[k].noise, alone.noise, atol=2e-4)
        assert bool(found[k].converged) == bool(alone.converged)
        assert int(found[k].num_evals) == int(alone.num_evals)
        np.testing.assert_array_equal(found[k].iterations, alone.iterations)


def test_what_the_first_stage_leaves_goes_to_the_next(denoise, strengths, one_device):
    """A plan whose first stage has too few iterations for the harder samples."""
    sampler = ji.dpmpp_2m(ji.time_grid(ji.scaled_linear(), 20))
    data = sampled(sampler, denoise, strengths)
    plan = (ji.Trajectory(max_sweeps=9), ji.Trajectory(start="known"))
    found = streamed(sampler, denoise, data, strengths, one_device, strategy=plan)
    way_back = 20
    sweeps = np.array([found[k].num_evals - way_back for k in range(COUNT)]) // 20
    assert sweeps.min() <= 9 < sweeps.max()
    assert all(bool(found[k].converged) for k in range(COUNT))
    hardest = int(np.argmax(sweeps))
    alone = ji.invert(
        sampler,
        with_condition(denoise, strengths[hardest]),
        data[hardest],
        strategy=plan,
    )
    assert int(alone.num_evals) == int(found[hardest].num_evals)
    np.testing.assert_allclose(found[hardest].noise, alone.noise, atol=2e-4)


def countdown(model, item):
    """A loop that counts down from its item."""
    return Loop(
        begin=lambda: item,
        running=lambda state: state > 0,
        advance=lambda state: state - 1,
        finish=lambda state: {"item": item + model, "left": state},
    )


LENGTHS = np.array([5, 1, 9, 0, 2, 2, 17, 3, 1, 1, 4], np.int32)


def lanes_of(mesh, iterations=4, lanes=3):
    model = jnp.int32(100)
    return Lanes(countdown, model, lanes=lanes, iterations=iterations, mesh=mesh)


@pytest.mark.parametrize("iterations", [1, 3, 100])
def test_lanes_are_refilled_and_nobody_waits_for_the_slowest(one_device, iterations):
    lanes = lanes_of(one_device, iterations)
    station = Station(lambda: lanes, lambda key, item, result: (item, result))
    entering = ((f"number {k}", NextStage(0, n)) for k, n in enumerate(LENGTHS))
    order = []
    for key, (item, result) in flow([station], entering):
        order.append(key)
        assert result == {"item": item + 100, "left": 0}
    assert sorted(order) == sorted(f"number {k}" for k in range(len(LENGTHS)))
    batches = np.resize(LENGTHS, 12).reshape(-1, 3).max(1).sum() * 3
    if iterations == 1:
        assert lanes.evaluated < batches  # what vmap computes
        assert order.index("number 6") > order.index("number 7")
    assert lanes.evaluated >= LENGTHS.sum()


def test_requests_are_pulled_only_as_lanes_get_free(one_device):
    pulled = []

    def entering():
        for k, n in enumerate(LENGTHS):
            pulled.append(k)
            yield k, NextStage(0, n)

    lanes = lanes_of(one_device)
    station = Station(lambda: lanes, lambda key, item, result: key)
    done = []
    for key, _ in flow([station], entering()):
        done.append(key)
        assert len(pulled) - len(done) <= 2 * lanes.count
    assert sorted(done) == list(range(len(LENGTHS)))


def test_a_station_that_nobody_needs_is_never_opened(one_device):
    def never():
        raise AssertionError("opened")

    lanes = lanes_of(one_device)
    first = Station(lambda: lanes, lambda key, item, result: key)
    found = flow(
        [first, Station(never, lambda *_: None)], [(0, NextStage(0, LENGTHS[0]))]
    )
    assert [key for key, _ in found] == [0]


def test_a_nan_leaves_the_other_lanes_bitwise_as_they_were(denoise, one_device):
    sampler = ji.ddim(ji.time_grid(ji.scaled_linear(), 20))
    strengths = np.linspace(0.1, 1.2, COUNT).astype(np.float32)
    data = np.asarray(sampled(sampler, denoise, strengths))
    spoilt = strengths.copy()
    spoilt[2] = np.nan

    clean, dirty = (
        streamed(sampler, denoise, data, given, one_device, strategy="stepwise")
        for given in (strengths, spoilt)
    )
    assert not bool(dirty[2].converged)
    for k in set(range(COUNT)) - {2}:
        np.testing.assert_array_equal(clean[k].noise, dirty[k].noise)


@pytest.mark.parametrize(
    ("sampler", "strategy"),
    [("dpmpp_2m", "trajectory"), ("dpmpp_2m", "auto"), ("ddim", "auto")],
)
def test_a_stage_that_missed_the_data_is_repeated(
    sampler, strategy, denoise, strengths, one_device
):
    """No result meets a tolerance below rounding, so that every stage is repeated."""
    sampler = getattr(ji, sampler)(ji.time_grid(ji.scaled_linear(), 12))
    data = sampled(sampler, denoise, strengths)
    options = {"strategy": strategy, "reconstruction_rtol": 1e-9}
    found = streamed(sampler, denoise, data, strengths, one_device, **options)
    assert sorted(found) == list(range(COUNT))
    for k in (0, COUNT - 1):
        alone = ji.invert(
            sampler, with_condition(denoise, strengths[k]), data[k], **options
        )
        assert not bool(found[k].converged)
        assert float(ji.nmse_db(found[k].noise, alone.noise)) < -90


def test_bad_input_is_refused(denoise, one_device):
    sampler = ji.ddim(ji.time_grid(ji.scaled_linear(), 20))
    good = np.ones((4, 8), np.float32)

    def run(samples, **options):
        options = {"mesh": one_device, "lanes": 2, "strategy": "naive"} | options
        return list(invert_stream(sampler, lambda x, t: x, samples, **options))

    with pytest.raises(ValueError, match="sample 1 has"):
        run([good, good[:2]])
    with pytest.raises(ValueError, match="sample 1 must be finite"):
        run([good, good * np.nan])
    with pytest.raises(ValueError, match="lanes must be a positive number, got 0"):
        run([good], lanes=0)
    with pytest.raises(ValueError, match="iterations must be at least 1"):
        run([good], iterations=0)
    with pytest.raises(ValueError, match="unknown strategy 'nonsense'"):
        run([good], strategy="nonsense")
    with pytest.raises(ValueError, match="3 samples for 2 free lanes"):
        lanes_of(one_device, lanes=2).turn([(k, LENGTHS[k]) for k in range(3)])
