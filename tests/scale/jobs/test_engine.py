"""The engine of jobs against the library, image by image."""

import numpy as np
import pytest
from job_cases import one_by_one

import jaxinv as ji
from jaxinv.mesh import make_mesh
from jaxinv.scale.jobs import Request, continuous

COUNT = 5


def requests(guidance=3.0):
    rng = np.random.default_rng(0)
    for k in range(COUNT):
        coarse = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        pixels = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
        yield Request(10 * k, pixels, "red" if k % 2 else "r", "e", guidance)


@pytest.mark.parametrize(
    ("name", "strategy", "decoder", "guidance"),
    [
        ("ddim", "stepwise", "anderson", 3.0),
        ("ddim", "naive", "encoder", 1.0),
        ("bdia", "auto", "encoder", 3.0),
    ],
)
def test_the_engine_finds_what_the_library_finds(
    name, strategy, decoder, guidance, tiny
):
    sampler = getattr(ji, name)(ji.time_grid(tiny.schedule, 18))
    options = {"strategy": strategy, "decoder": decoder}
    engine = continuous(
        tiny, sampler, guided=guidance != 1, lanes=2, iterations=3, **options
    )
    found = {answer.index: answer for answer in engine(requests(guidance))}
    assert sorted(found) == [10 * k for k in range(COUNT)]
    for wanted in one_by_one(tiny, sampler, **options)(requests(guidance)):
        answer = found[wanted.index]
        size = np.sqrt(np.mean(wanted.state**2))
        assert answer.state.shape == wanted.state.shape
        np.testing.assert_allclose(answer.state, wanted.state, atol=1e-3 * size)
        np.testing.assert_allclose(answer.noise, wanted.noise, atol=1e-3 * size)
        assert answer.failure is None
        assert answer.certificate["solved"] == wanted.certificate["solved"]
        # Two programs round differently, and the untrained network amplifies that.
        for key in ("reconstruction", "state_reconstruction"):
            ratio = (answer.certificate[key] + 1e-5) / (wanted.certificate[key] + 1e-5)
            assert 0.1 < ratio < 10, key
        for key in ("num_evals", "depth"):
            # Latents of an inverted decoder differ by its solver's tolerance.
            close = pytest.approx(wanted.certificate[key], rel=0.1)
            assert answer.certificate[key] == close, key
        ours, theirs = (a.certificate["decoder"] for a in (answer, wanted))
        for key in ("converged", "iterations", "num_decodes", "num_encodes"):
            assert ours[key] == pytest.approx(theirs[key], abs=2), key


def test_an_image_that_overflows_is_a_failure_and_the_others_are_not(tiny):
    sampler = ji.ddim(ji.time_grid(tiny.schedule, 18))
    engine = continuous(tiny, sampler, strategy="naive", decoder="encoder", lanes=2)
    given = [
        request._replace(guidance=float("nan")) if k == 1 else request
        for k, request in enumerate(requests())
    ]
    failures = {answer.index: answer.failure for answer in engine(given)}
    assert "overflowed" in failures.pop(10)
    assert set(failures.values()) == {None}


def test_every_image_has_the_limit_on_evaluations(tiny):
    sampler = ji.ddim(ji.time_grid(tiny.schedule, 18))
    options = {"strategy": "stepwise", "decoder": "encoder"}
    engine = continuous(tiny, sampler, lanes=2, iterations=3, max_evals=20, **options)
    for answer in engine(requests()):
        assert answer.certificate["stopped"] is True
        assert answer.certificate["num_evals"] == 20 + 18  # and the way back
        assert 0 <= answer.certificate["noise_plausibility"]["p_value"] <= 1


def test_what_cannot_be_is_refused_before_anything_is_compiled(tiny):
    sampler = ji.ddim(ji.time_grid(tiny.schedule, 18))
    mesh = make_mesh()
    with pytest.raises(ValueError, match="lanes must be a positive number"):
        continuous(tiny, sampler, lanes=0, mesh=mesh)
    with pytest.raises(ValueError, match="unknown method 'nonsense'"):
        continuous(tiny, sampler, decoder="nonsense", mesh=mesh)
    with pytest.raises(ValueError, match="not bidirectional"):
        continuous(tiny, sampler, strategy="explicit", mesh=mesh)
    with pytest.raises(ValueError, match="max_evals must be at least 18"):
        continuous(tiny, sampler, max_evals=17, mesh=mesh)
