"""Claims of batches on a mesh that hold with one device; for more see test_scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_cases import coupled_model
from jax.sharding import AxisType, Mesh

import jaxinv as ji
from jaxinv.diffusion.denoiser import with_condition
from jaxinv.mesh import make_mesh, parameter_rule, shard_parameters
from jaxinv.scale.batch import invert_batch, on_mesh, sample_batch


class Mesh2:
    """As much of a mesh as a rule looks at: there is one device here."""

    shape = {"data": 4, "model": 2}  # noqa: RUF012


@pytest.fixture(scope="module")
def denoise():
    return coupled_model()


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(devices=jax.devices()[:1])


def test_a_batch_is_a_loop(denoise, mesh):
    sampler = ji.ddim(ji.time_grid(ji.scaled_linear(), 20))
    noise = jax.random.normal(jax.random.key(1), (5, 4, 8))
    strengths = jnp.linspace(0.1, 0.9, 5)
    before = on_mesh._cache_size()
    data = sample_batch(sampler, denoise, noise, strengths, mesh=mesh, batch_size=2)
    found = invert_batch(
        sampler, denoise, data, strengths, mesh=mesh, batch_size=2, strategy="stepwise"
    )
    # Three batches, the last one padded: one program each.
    assert on_mesh._cache_size() - before == 2
    assert found.noise.shape == noise.shape
    for k in (0, 4):
        bound = with_condition(denoise, strengths[k])
        np.testing.assert_allclose(
            data[k], ji.sample(sampler, bound, noise[k]), atol=1e-5
        )
        alone = ji.invert(sampler, bound, data[k], strategy="stepwise")
        np.testing.assert_allclose(found.noise[k], alone.noise, atol=1e-4)
        assert int(found.num_evals[k]) == int(alone.num_evals)
    assert bool(jnp.all(found.converged))


def test_what_is_given_is_not_donated(denoise, mesh):
    sampler = ji.ddim(ji.time_grid(ji.scaled_linear(), 20))
    noise = jax.random.normal(jax.random.key(1), (2, 4, 8))
    unconditional = jax.tree_util.Partial(lambda w, x, t: x @ w, denoise.args[0])
    data = sample_batch(sampler, unconditional, noise, mesh=mesh)
    invert_batch(sampler, unconditional, data, mesh=mesh, strategy="naive")
    assert not noise.is_deleted()
    assert not data.is_deleted()


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((3, 3, 16, 32), 3),
        ((3, 3, 64, 32), 2),
        ((32, 32), 1),  # of equal ones the last
        ((7, 10), 1),
        ((8,), 0),
        ((3, 5), None),
        ((), None),
    ],
)
def test_parameters_are_divided_along_the_largest_divisible_dimension(
    shape, axis, monkeypatch
):
    monkeypatch.setattr("jaxinv.mesh.NamedSharding", lambda mesh, spec: spec)
    spec = parameter_rule(Mesh2())("any", shape)
    assert [k for k, name in enumerate(spec) if name == "model"] == (
        [] if axis is None else [axis]
    )


def test_a_model_on_a_mesh_keeps_what_is_no_array(mesh):
    tree = {"weights": np.ones((4, 4), np.float32), "name": "model", "scale": 2.0}
    placed = shard_parameters(tree, mesh)
    assert placed["name"] == "model"
    assert placed["scale"] == 2.0
    assert placed["weights"].sharding.mesh == mesh


def test_bad_input_is_refused(denoise, mesh):
    sampler = ji.ddim(ji.time_grid(ji.scaled_linear(), 20))
    batch = jnp.ones((4, 4, 8))

    def run(x=batch, conditions=None, **options):
        plain = jax.tree_util.Partial(lambda x, t: x)
        options = {"mesh": mesh, "strategy": "naive"} | options
        return invert_batch(sampler, plain, x, conditions, **options)

    with pytest.raises(ValueError, match="cannot be divided into groups of 3"):
        make_mesh(3, devices=jax.devices()[:1] * 4)
    with pytest.raises(ValueError, match="one of 1, 2, 4"):
        make_mesh(3, devices=jax.devices()[:1] * 4)
    with pytest.raises(ValueError, match="model must be an integer of at least 1"):
        make_mesh(0)
    with pytest.raises(ValueError, match="leading axis, got shape"):
        run(jnp.float32(1.0))
    with pytest.raises(ValueError, match="leading axis, got shape"):
        run(jnp.ones((0, 4, 8)))
    with pytest.raises(ValueError, match="must be finite"):
        run(batch.at[0, 0, 0].set(jnp.nan))
    with pytest.raises(ValueError, match=r"leading axis of 4, got shape \(3,\)"):
        run(conditions={"strength": jnp.ones(3)})
    with pytest.raises(ValueError, match="batch_size must be a multiple"):
        run(batch_size=0)
    with pytest.raises(ValueError, match="needs an axis 'data'"):
        run(mesh=Mesh(np.array(jax.devices()[:1]), ("x",), axis_types=(AxisType.Auto,)))
    with pytest.raises(ValueError, match="not bidirectional"):
        run(strategy="explicit")
