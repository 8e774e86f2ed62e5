r"""A table for the outputs that a model returns, or for analyses in tau.

A table is made for what the networks of its schedule predict. A model that returns f
instead gets the same table for f: with ``f = P u + Q o``, the output is ``(f - P u) /
Q``. Near pure noise this loses digits, and at an infinite noise level it is undefined.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinv.callables import Function
from jaxinv.diffusion.denoiser import network_of
from jaxinv.diffusion.limits import keeping_noise
from jaxinv.diffusion.prediction import Output
from jaxinv.samplers.ode import of_f_only
from jaxinv.samplers.table import SamplerTable

#: Largest error of a state of variance one from rounding f in float32, in place of the
#: network's output.
LARGEST_LOSS = 1e-5


def matched(
    table: SamplerTable,
    denoise: Callable[..., Any],
    shape: tuple[int, ...] | None = None,
) -> tuple[SamplerTable, Function]:
    """Return :func:`all_matched` of one denoiser."""
    table, (network,) = all_matched(table, shape, denoise)
    return table, network


def all_matched(
    table: SamplerTable,
    shape: tuple[int, ...] | None,
    *denoisers: Callable[..., Any],
) -> tuple[SamplerTable, tuple[Function, ...]]:
    """Return a table and networks, such that the table weighs the networks' outputs.

    Args:
        table: A table.
        shape: The shape of one sample; None if it is not known yet.
        *denoisers: Denoisers, or models of a state, a time and a condition. One that
            does not say what it predicts (:func:`jaxinv.as_denoiser`) returns f.

    Returns:
        The table, and the networks as arguments of compiled programs. If all predict
        what the table is made for, they are evaluated themselves. Otherwise they are
        called for f, and so is the table.

    Raises:
        ValueError: If f does not determine the outputs, or loses too many digits; and
            for a stochastic sampler without its noises, or with those of another shape.
    """
    _check_noises(table, shape)
    found = [network_of(denoise) for denoise in denoisers]
    if table.output is not None and table.output.keeps_noise:
        found = [_keeping_noise(table, *pair) for pair in found]
    if all(output == table.output for _, output in found):
        return table, tuple(_function(*pair) for pair in found)
    if any(isinstance(denoise, Function) and denoise.output for denoise in denoisers):
        raise ValueError("a network's own output does not fit this sampler's table")
    if table.output is not None and table.output.is_limited:
        raise ValueError(f"{table.name!r} {_limit_text(table.output)}")
    functions = tuple(_function(denoise, None) for denoise in denoisers)
    converted = in_f(table)
    if table.output is not None:
        _check_digits(table, converted.b)
    return converted, functions


def _keeping_noise(
    table: SamplerTable, network: Any, output: Output | None
) -> tuple[Any, Output | None]:
    """Return a network of limited data for steps with the noise from before."""
    assert table.output is not None, "only tables of limited data keep the noise"
    if output != dataclasses.replace(table.output, keeps_noise=False):
        return network, output  # it does not fit, or is what this returned before
    a, b, signal = table.a[:, 0], table.b[:, 0], table.ode.signal[1:]
    of_data = b + a * signal  # p of u' = p D + q e = a u + b D, for u = signal D + ...
    return keeping_noise(network, table.model_time[1:], of_data / b), table.output


def _limit_text(output: Output) -> str:
    """Return what a table does with data predictions, and what to pass."""
    if output.threshold is None:
        given = f"{output.clip:g}"
        return (
            f"clips data predictions to {given} (clip_sample): pass "
            f"jaxinv.clipped(denoiser, schedule, {given})"
        )
    ratio, largest = output.threshold
    return (
        "thresholds data predictions (thresholding): pass "
        f"jaxinv.thresholded(denoiser, schedule, {ratio:g}, {largest:g})"
    )


def _check_noises(table: SamplerTable, shape: tuple[int, ...] | None) -> None:
    """Raise ValueError for a stochastic sampler without its noises."""
    if table.noise is None:
        return
    needed = (table.num_rows, *(("...",) if shape is None else shape))
    if table.shift is None:
        raise ValueError(
            f"{table.name!r} is stochastic: give it the noises that it adds, "
            f"sampler.with_noises(noises) with an array of shape {needed}, or find "
            "noises that retrace a sample with jaxinv.ddpm_inversion"
        )
    if shape is not None and table.shift.shape != needed:
        raise ValueError(
            f"{table.name!r} has noises of shape {table.shift.shape}, but a sample of "
            f"shape {shape} needs {needed}"
        )


def _function(network: Any, output: Output | None) -> Function:
    return network if isinstance(network, Function) else Function.of(network, output)


def in_f(table: SamplerTable) -> SamplerTable:
    """Return a table for models that return f.

    Args:
        table: The table, on the host or in a compiled program.
    """
    if table.output is None:
        return table
    of_u, of_o = table.ode.of_f[:, 0], table.ode.of_f[:, 1]
    n, k = table.a.shape
    at = np.minimum(np.add.outer(np.arange(1, n + 1), np.arange(k)), n)
    traced = isinstance(of_o, jax.core.Tracer)
    xp: Any = jnp if traced else np
    with np.errstate(divide="ignore", invalid="ignore"):
        b = xp.where(table.b == 0, 0, table.b / of_o[at])
        a = table.a - xp.where(b == 0, 0, b * of_u[at])
        ode = of_f_only(table.ode, xp)
    return dataclasses.replace(table, a=a, b=b, ode=ode, output=None)


def _check_digits(table: SamplerTable, b: Any) -> None:
    """Raise ValueError if f has too few digits of what the network predicts."""
    assert table.output is not None, "a table of f is not converted"
    if isinstance(b, jax.core.Tracer):
        raise ValueError(
            f"{table.name!r} weighs the outputs of a network that predicts "
            f"{table.output.kind!r}, but the denoiser returns f, and whether f has "
            "their digits is not known inside of jax.jit: make the sampler outside and "
            "close over it, or pass as_denoiser(network, schedule)"
        )
    loss = float(np.max(np.abs(b) - np.abs(table.b))) * float(np.finfo(np.float32).eps)
    has_float64 = jax.dtypes.canonicalize_dtype(np.float64) == np.float64
    if loss <= LARGEST_LOSS or (has_float64 and np.isfinite(loss)):
        return
    raise ValueError(
        f"{table.name!r} weighs the outputs of a network that predicts "
        f"{table.output.kind!r}, but the denoiser returns f, which near pure noise "
        f"(tau = {float(table.tau[-1]):.3g}) determines them with an error of about "
        f"{loss:.0e} in float32. Pass as_denoiser(network, schedule), which keeps the "
        "network's own output"
    )


def in_tau(table: SamplerTable) -> SamplerTable:
    """Return a table in the coordinates y and f, where ``dy/dtau = f``.

    Args:
        table: The table, on the host.

    Returns:
        The table for analyses of its rows; its scale belongs to y.

    Raises:
        ValueError: If a level is infinite.
    """
    if not np.isfinite(np.asarray(table.tau)[-1]):
        raise ValueError(
            f"{table.name!r} starts at zero terminal SNR, where tau is infinite: its "
            "first row has no coefficients in tau"
        )
    table = in_f(table)
    n, k = table.a.shape
    at = np.minimum(np.add.outer(np.arange(1, n + 1), np.arange(k)), n)
    unit = np.asarray(table.ode.unit, np.float64)
    a = np.asarray(table.a) * unit[at] / unit[:n, None]
    b = np.asarray(table.b) / unit[:n, None]
    scale, ode = np.asarray(table.scale) * unit, table.ode
    ode = ode._replace(unit=np.ones_like(unit))
    return dataclasses.replace(table, a=a, b=b, scale=scale, ode=ode)
