"""Precision fixtures of the numerical core's tests.

Double precision is a property of one test, never of the session: ``jax.enable_x64`` is
entered for the duration of the test and left again.
"""

import jax
import jax.numpy as jnp
import pytest


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Runs a test in both precisions of the states."""
    with jax.enable_x64(request.param == "float64"):
        yield jnp.dtype(request.param)


@pytest.fixture
def float64():
    """Runs a test in double precision."""
    with jax.enable_x64(True):
        yield jnp.dtype("float64")
