"""The state of a bidirectional sampler: what it takes to go back exactly.

A sampler whose rows use k states is at a point of its trajectory only when all k are
known. One array of noise starts it too, through start-up rows, but those cannot be read
backwards: what inverts exactly is the state.
"""

import dataclasses
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.callables import check_finite

End = Literal["noise", "data"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SamplerState:
    """The states x at one end of a trajectory. A pytree of one array.

    Attributes:
        values: shape (k, ...). The k states, data side first. At the data end
            ``x[0] .. x[k-1]``, at the noise end ``x[N-k+1] .. x[N]``, where N counts
            the table's rows (of EDICT: see :func:`jaxinv.edict`).
        sampler: name of the sampler that it belongs to (static).
        num_steps: that sampler's number of steps (static).
        end: ``"noise"`` or ``"data"`` (static).
        words: the states in an arithmetic that loses nothing, two arrays of the shape
            of the values (:mod:`jaxinv.sampling.lossless_numbers`); None for plain
            floats. Where the values have been changed since, the values count.
        arithmetic: which one (static).
    """

    values: Float[Array, "k *shape"]
    sampler: str = dataclasses.field(metadata={"static": True})
    num_steps: int = dataclasses.field(metadata={"static": True})
    end: End = dataclasses.field(metadata={"static": True})
    words: tuple[Array, Array] | None = None
    arithmetic: str = dataclasses.field(default="float", metadata={"static": True})

    def __repr__(self) -> str:
        """Return which sampler's state it is, and its shape."""
        shape = getattr(self.values, "shape", "?")
        return (
            f"SamplerState: {self.end} end of {self.num_steps} steps of "
            f"{self.sampler or 'a table'}, shape {shape}, {self.arithmetic}"
        )

    @property
    def x(self) -> Float[Array, "*shape"]:
        """The outermost state: ``x[0]`` at the data end, ``x[N]`` at the noise end."""
        return self.values[-1] if self.end == "noise" else self.values[0]


def unlabeled(value: Any) -> Any:
    """Return a sampler, or a state, without the names that people know it by.

    They select no program: samplers whose tables have one shape share one.

    Args:
        value: a sampler or a state.
    """
    if isinstance(value, SamplerState):
        return dataclasses.replace(value, sampler="")
    return dataclasses.replace(value, name="", order=0)


def labeled(value: Any, sampler: Any) -> Any:
    """Return what a program made of an unlabeled sampler, as the sampler's own.

    Args:
        value: a state, or a result with a field ``state``.
        sampler: the sampler with its labels.
    """
    if isinstance(value, SamplerState):
        return dataclasses.replace(value, sampler=sampler.name)
    if isinstance(getattr(value, "state", None), SamplerState):
        return value._replace(state=labeled(value.state, sampler))
    return value


def state_of(sampler: Any, values: Array, end: End) -> SamplerState:
    """The state of a sampler at one end, from its values."""
    return SamplerState(values, sampler.name, sampler.num_steps, end)


def check_state(state: SamplerState, sampler: Any, end: End) -> None:
    """Raise ValueError unless a state is this sampler's, at this end.

    Args:
        state: the state.
        sampler: a bidirectional sampler.
        end: the end at which it is needed.
    """
    if not sampler.bidirectional:
        raise ValueError(
            f"{sampler.name!r} starts from one array and has no state to go on from; "
            "states are for bidirectional samplers such as o_belm"
        )
    if state.end not in get_args(End) or state.end != end:
        direction = {"noise": "sampling", "data": "inverting"}[end]
        raise ValueError(
            f"{direction} starts from a state at the {end} end; this one is at the "
            f"{state.end} end"
        )
    if (state.sampler, state.num_steps) != (sampler.name, sampler.num_steps):
        raise ValueError(
            f"the state of {state.sampler!r} with {state.num_steps} steps does not fit "
            f"{sampler.name!r} with {sampler.num_steps} steps"
        )
    values = jnp.asarray(state.values)
    if values.ndim < 1 or values.shape[0] != sampler.history:
        raise ValueError(
            f"a state of {sampler.name!r} holds {sampler.history} arrays, got values "
            f"of shape {values.shape}"
        )
    check_finite(values, "state")
