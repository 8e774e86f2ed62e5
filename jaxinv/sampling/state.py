"""The state of a bidirectional sampler, which can be inverted exactly.

A point on the trajectory of a sampler whose rows use k states is given by all k states.
The sampler can also start from one array of noise, through start-up rows, but these
cannot be undone: only the state is inverted exactly.
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
        values: The k states, data side first, shape (k, ...): ``x[0] .. x[k-1]`` at the
            data end, ``x[N-k+1] .. x[N]`` at the noise end, where N is the number of
            the table's rows (see :func:`jaxinv.edict` for EDICT).
        sampler: Name of its sampler (static).
        num_steps: Number of steps of its sampler (static).
        end: ``"noise"`` or ``"data"`` (static).
        words: The states in lossless arithmetic, two arrays of the shape of the values
            (:mod:`jaxinv.sampling.lossless_numbers`); None for plain floats. They are
            ignored if the values have been changed.
        arithmetic: Name of the arithmetic (static).
    """

    values: Float[Array, "k *shape"]
    sampler: str = dataclasses.field(metadata={"static": True})
    num_steps: int = dataclasses.field(metadata={"static": True})
    end: End = dataclasses.field(metadata={"static": True})
    words: tuple[Array, Array] | None = None
    arithmetic: str = dataclasses.field(default="float", metadata={"static": True})

    def __repr__(self) -> str:
        """Return the sampler and the shape of the state."""
        shape = getattr(self.values, "shape", "?")
        return (
            f"SamplerState: {self.end} end of {self.num_steps} steps of "
            f"{self.sampler or 'a table'}, shape {shape}, {self.arithmetic}"
        )

    @property
    def x(self) -> Float[Array, "*shape"]:
        """Outermost state: ``x[0]`` at the data end, ``x[N]`` at the noise end."""
        return self.values[-1] if self.end == "noise" else self.values[0]


def unlabeled(value: Any, *, counted: bool = False) -> Any:
    """Return a sampler or a state without its labels.

    Labels do not select programs, so that samplers with tables of equal shape share
    one.

    Args:
        value: A sampler or a state.
        counted: Whether the program counts steps, for reports. Otherwise it does not
            depend on which levels are stages, unless a state's label does.
    """
    if isinstance(value, SamplerState):
        return dataclasses.replace(value, sampler="")
    ends = value.ends if counted or value.bidirectional else ()
    return dataclasses.replace(value, name="", order=0, ends=ends)


def labeled(value: Any, sampler: Any) -> Any:
    """Return the result of a program for an unlabeled sampler with its labels.

    Args:
        value: A state, or a result with a field ``state``.
        sampler: The sampler with its labels.
    """
    if isinstance(value, SamplerState):
        return dataclasses.replace(value, sampler=sampler.name)
    if isinstance(getattr(value, "state", None), SamplerState):
        return value._replace(state=labeled(value.state, sampler))
    return value


def state_of(sampler: Any, values: Array, end: End) -> SamplerState:
    """Return the state of a sampler at one end with the given values."""
    return SamplerState(values, sampler.name, sampler.num_steps, end)


def check_state(state: SamplerState, sampler: Any, end: End) -> None:
    """Raise ValueError unless a state is this sampler's, at this end.

    Args:
        state: The state.
        sampler: A bidirectional sampler.
        end: The required end.
    """
    if not sampler.bidirectional:
        raise ValueError(
            f"{sampler.name!r} starts from one array and cannot resume from a state; "
            "states are for bidirectional samplers such as o_belm"
        )
    if state.end not in get_args(End) or state.end != end:
        direction = {"noise": "sampling", "data": "inverting"}[end]
        raise ValueError(
            f"{direction} starts from a state at the {end} end, got one at the "
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
