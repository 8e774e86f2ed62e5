"""The convolution and its derivatives are XLA's, on every platform and in loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinv.models.layers.convolution import (
    _lax,
    _shifted,
    conv_frames,
    conv_general_dilated,
)

# Kernel, strides, padding before and after.
CASES = [(3, 1, (1, 1)), (1, 1, (0, 0)), (3, 2, (0, 1)), (3, 2, (1, 1)), (5, 3, (2, 0))]


def random(
    *shape,
    seed=0,
):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), float)


def derivatives(f, x, kernel, tangents):
    """Values, both modes, and forward over reverse of a function that is not linear."""
    y, pull = jax.vjp(f, x, kernel)
    cube = jax.grad(lambda x: jnp.sum(f(x, kernel) ** 3))
    return (
        [jax.jvp(f, (x, kernel), each) for each in tangents],
        pull(y),
        jax.jvp(cube, (x,), (tangents[0][0],)),
    )


@pytest.mark.parametrize(("size", "stride", "pad"), CASES)
def test_values_and_all_derivatives_are_those_of_lax(size, stride, pad):
    with jax.enable_x64(True):
        x, kernel = random(2, 9, 12, 3), random(size, size, 3, 4, seed=1)
        dx, dkernel = random(*x.shape, seed=2), random(*kernel.shape, seed=3)
        options = ((stride, stride), (pad, pad))

        tangents = [(dx, dkernel), (dx, 0 * kernel), (0 * x, dkernel)]

        @jax.jit
        def ours(x, kernel):
            f = lambda *args: conv_general_dilated(*args, *options)  # noqa: E731
            return derivatives(f, x, kernel, tangents)

        @jax.jit
        def theirs(x, kernel):
            f = lambda *args: _lax(*args, *options, None)  # noqa: E731
            return derivatives(f, x, kernel, tangents)

        found, wanted = ours(x, kernel), theirs(x, kernel)
        for a, b in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
            size = float(jnp.max(jnp.abs(b)))
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11 * size)


@pytest.mark.parametrize(("size", "stride", "pad"), CASES)
def test_the_sum_of_matrix_products_is_the_convolution(size, stride, pad):
    # Whatever the machine that runs the tests takes for derivatives.
    x, kernel = random(2, 9, 12, 3), random(size, size, 3, 4, seed=1)
    options = ((stride, stride), (pad, pad), "highest")
    found = jax.jit(lambda *args: _shifted(*args, *options))(x, kernel)
    wanted = _lax(x, kernel, *options)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_it_is_vectorised_over_images_and_kernels():
    x, kernel = random(4, 1, 8, 8, 3), random(4, 3, 3, 3, 2, seed=1)

    def slope(x, kernel):
        f = lambda x: conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)))  # noqa: E731
        return jax.grad(lambda x: jnp.sum(f(x) ** 2))(x)

    together = jax.jit(jax.vmap(slope))(x, kernel)
    for i in range(4):
        np.testing.assert_allclose(together[i], slope(x[i], kernel[i]), atol=1e-3)


@pytest.mark.users_compiler
def test_in_a_loop_on_a_cpu_no_kernel_is_in_a_layout_that_is_slow(emoji64):
    def descend(pipe, z):
        def slope(z):
            return jax.grad(lambda z: jnp.sum(pipe.decode_unclipped(z) ** 2))(z)

        return jax.lax.fori_loop(0, 3, lambda _, z: z - 1e-3 * slope(z), z)

    z, cpu = jnp.zeros(emoji64.latent_shape), jax.local_devices(backend="cpu")[0]
    text = (
        jax.jit(descend).lower(*jax.device_put((emoji64, z), cpu)).compile().as_text()
    )
    layouts = {
        line.split("dim_labels=")[1].split(",")[0]
        for line in text.splitlines()
        if " convolution(" in line
    }
    assert layouts == {"b01f_01io->b01f"}


@pytest.mark.parametrize(
    "options",
    [
        {"rhs_dilation": (2, 2)},
        {"lhs_dilation": (1, 2)},
        {"feature_group_count": 3},
        {"batch_group_count": 2},
        {"dimension_numbers": ("NCHW", "OIHW", "NCHW")},
    ],
)
def test_what_is_not_written_is_refused(options):
    with pytest.raises(ValueError, match="without dilation"):
        conv_general_dilated(
            jnp.zeros((1, 8, 8, 3)),
            jnp.zeros((3, 3, 3, 3)),
            (1, 1),
            ((1, 1), (1, 1)),
            **options,
        )


def test_a_derivative_in_16_bits_is_rounded_once_as_the_convolution_is():
    x, kernel = random(1, 8, 8, 64), random(3, 3, 64, 8, seed=1)
    exact = _lax(x, kernel, (1, 1), ((1, 1), (1, 1)), "highest")
    half = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)

    def error(made):
        return float(jnp.linalg.norm(made.astype(jnp.float32) - exact))

    options = ((1, 1), ((1, 1), (1, 1)), None)
    assert error(_shifted(*half, *options)) < 1.2 * error(_lax(*half, *options))


@pytest.mark.parametrize(
    ("window", "strides", "pad"),
    [((3, 3, 3), (1, 1, 1), 1), ((3, 1, 1), (2, 1, 1), 0), ((1, 2, 2), (1, 2, 2), 0)],
)
def test_convolutions_of_videos_are_those_of_lax(window, strides, pad):
    x, kernel = random(2, 5, 6, 8, 3), random(*window, 3, 4, seed=1)
    padding = ((0, 0), (pad, pad), (pad, pad))
    wanted = jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )
    found = conv_frames(x, kernel, strides, padding)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="time must not be padded"):
        conv_frames(x, kernel, strides, ((1, 1), *padding[1:]))
