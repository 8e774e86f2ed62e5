"""Stacked blocks: the same function, weights and placement as blocks in a row."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinv.mesh import make_mesh, parameter_rule
from jaxinv.models.layers.basic import LayerFactory, ShapesOnly
from jaxinv.models.layers.remat import rematerialized
from jaxinv.models.layers.stack import Stack
from jaxinv.models.parameters import parameters, with_parameters
from jaxinv.paths import members, stacked_axes

F32 = jnp.dtype("float32")


class Block(nnx.Module):
    """A block of some kind, which changes both parts of the carry."""

    def __init__(self, kind, make):
        self.remat = "none"
        self.kind = kind
        self.norm = make.layer_norm(4)
        self.ff = nnx.List([make.linear(4, 4 + kind), make.linear(4 + kind, 4)])

    @rematerialized
    def __call__(self, carry, time):
        x, y = carry
        h = self.ff[1](jnp.tanh(self.ff[0](self.norm(x)))) * time
        return x + h, y + self.kind * x


def drawn(seed):
    """Return a stack of random kinds and its blocks, one by one."""
    draw = np.random.default_rng(seed)
    kinds = draw.integers(0, 3, draw.integers(1, 7)).tolist()
    stack = Stack(kinds, Block, LayerFactory(F32, F32, nnx.Rngs(seed)))
    flat = {}
    for path, value in parameters(stack).items():
        for i, member in enumerate(members(path)):
            number, rest = member.split(".", 1)
            flat.setdefault(int(number), {})[rest] = value[i]
    make = LayerFactory(F32, F32, ShapesOnly())
    blocks = [
        with_parameters(Block(kind, make), flat[i]) for i, kind in enumerate(kinds)
    ]
    return stack, blocks


@pytest.mark.parametrize("seed", range(3))
def test_a_stack_is_its_blocks_in_a_row(seed):
    stack, blocks = drawn(seed)
    assert len(stack) == len(blocks)
    x = jax.random.normal(jax.random.key(seed), (2, 5, 4))
    wanted = functools.reduce(lambda carry, block: block(carry, 0.7), blocks, (*x,))
    for found, right in zip(stack((*x,), 0.7), wanted, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)


def test_a_stacks_derivatives_do_not_depend_on_rematerialization():
    stack, _ = drawn(1)
    x = jax.random.normal(jax.random.key(0), (2, 5, 4))

    def loss(stack, x):
        return sum(jnp.sum(y**2) for y in stack((*x,), 0.7))

    plain = jax.grad(loss, (0, 1))(stack, x)
    for _, layer in nnx.iter_modules(stack):
        if hasattr(layer, "remat"):
            layer.remat = "blocks"
    assert "remat" in str(jax.make_jaxpr(jax.grad(loss))(stack, x))
    for found, right in zip(
        jax.tree.leaves(jax.grad(loss, (0, 1))(stack, x)),
        jax.tree.leaves(plain),
        strict=True,
    ):
        np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-5)


def test_a_program_does_not_grow_with_depth():
    def equations(depth):
        stack = Stack([0] * depth, Block, LayerFactory(F32, F32, ShapesOnly()))
        x = jax.ShapeDtypeStruct((5, 4), F32)
        return len(str(jax.make_jaxpr(lambda s, x: s((x, x), 1.0))(stack, x)))

    assert equations(64) < 1.1 * equations(4)


@pytest.mark.parametrize("seed", range(3))
def test_shapes_without_values_are_those_of_the_values(seed):
    stack, _ = drawn(seed)
    kinds = [
        getattr(stack, str(span)).kind
        for span in stack.spans
        for _ in range(span.end - span.first)
    ]
    abstract = Stack(kinds, Block, LayerFactory(F32, F32, ShapesOnly()))
    assert {k: v.shape for k, v in parameters(abstract).items()} == {
        k: v.shape for k, v in parameters(stack).items()
    }


def test_the_axis_of_the_blocks_is_never_divided():
    rule = parameter_rule(make_mesh(len(jax.devices())))
    count = len(jax.devices())
    for path, shape in (
        ("blocks.0:64.attn.to_q.kernel", (64 * count, 2 * count, 3)),
        ("network.blocks.0:64.norm.scale.value", (64 * count, count)),
    ):
        spec = rule(path, shape).spec
        assert not spec or spec[0] is None
        if count > 1:
            assert spec[1] == "model"
    assert stacked_axes("blocks.0.norm.scale") == 0
