"""Editing methods as values, with their papers, options and networks."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.apps.editing.pair import Sharing, pair_denoiser, sample_pair
from jaxinv.checks import Range, checked, unknown
from jaxinv.inversion import InversionResult
from jaxinv.pipeline import Pipeline
from jaxinv.pipeline.prompts import Prompt
from jaxinv.samplers.table import SamplerTable
from jaxinv.sampling.state import SamplerState

#: A share of a sampler's steps or of a network's layers.
Share = Annotated[float, Range(0, 1)]


@checked
@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """What every editing method is given.

    Attributes:
        pipe: The model.
        sampler: The sampler.
        inversion: The inversion of the source latent by this sampler.
        source: The prompt that describes the source.
        target: The prompt that should describe the result.
        guidance_scale: Guidance scale of both.
        negative_prompt: Negative prompt of both.

    Raises:
        ValueError: If a value is of another type, or the inversion is not of one
            latent of the model, or of a sampler with other rows.
    """

    pipe: Pipeline
    sampler: SamplerTable
    inversion: InversionResult
    source: Prompt
    target: Prompt
    guidance_scale: float
    negative_prompt: Prompt

    def __post_init__(self) -> None:
        """Check that the inversion is of one latent, and of this sampler."""
        state, wanted = self.inversion.state, self.pipe.latent_shape
        shape = (
            jnp.shape(state.values)[1:]
            if isinstance(state, SamplerState)
            else jnp.shape(state)
        )
        if len(shape) != len(wanted):
            raise ValueError(
                "an editing method takes the inversion of one latent, such as of shape "
                f"{wanted}, got one of shape {shape}; use jax.vmap for several"
            )
        residuals = self.inversion.step_residuals
        rows = self.sampler.num_rows if residuals is None else jnp.size(residuals)
        if rows != self.sampler.num_rows:
            raise ValueError(
                f"the inversion is of a sampler with {rows} rows, and "
                f"{self.sampler.name!r} has {self.sampler.num_rows}: pass the sampler "
                "that was inverted"
            )

    def pair(self, sharing: Sharing | None) -> Float[Array, "2 *shape"]:
        """Return the samples of source and target, of which the target is shared to."""
        denoise = pair_denoiser(
            self.pipe,
            self.sampler,
            self.source,
            self.target,
            sharing,
            negative_prompt=self.negative_prompt,
            guidance_scale=self.guidance_scale,
        )
        return sample_pair(self.sampler, denoise, self.inversion.state)


@dataclasses.dataclass(frozen=True)
class Method:
    """An editing method: a callable that returns the edited latent.

    Attributes:
        name: Its name.
        paper: Authors, year and address of the paper.
        networks: Classes of the networks that it takes; () for all.
        run: ``(task, **options) -> latent``.
    """

    name: str
    paper: str
    networks: tuple[type, ...]
    run: Callable[..., Float[Array, "*shape"]] = dataclasses.field(repr=False)

    @functools.cached_property
    def options(self) -> Mapping[str, Any]:
        """The names of its options with their defaults."""
        parameters = inspect.signature(self.run).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    @property
    def summary(self) -> str:
        """What it does, in one line."""
        return (inspect.getdoc(self.run) or "").split("\n")[0]

    def check(self, pipe: Pipeline) -> None:
        """Raise ValueError unless the method takes a model's network."""
        if self.networks and type(pipe.network) not in self.networks:
            names = ", ".join(each.__name__ for each in self.networks)
            raise ValueError(
                f"the editing method {self.name} needs a network of the class {names}, "
                f"and {pipe.name} has a {type(pipe.network).__name__}"
            )

    def __call__(
        self,
        pipe: Pipeline,
        sampler: SamplerTable,
        inversion: InversionResult,
        source: Prompt,
        target: Prompt,
        *,
        guidance_scale: float = 1.0,
        negative_prompt: Prompt = "",
        **options: Any,
    ) -> Float[Array, "*shape"]:
        """Edit a latent from a source prompt to a target prompt.

        Args:
            pipe: The model.
            sampler: The sampler.
            inversion: The inversion of the latent by this sampler, from
                :func:`jaxinv.invert` with the source prompt and the same guidance.
            source: The prompt that describes the latent.
            target: The prompt that should describe the result.
            guidance_scale: Guidance scale of both; see
                :meth:`jaxinv.Pipeline.denoiser`.
            negative_prompt: Negative prompt of both.
            **options: The method's own; see ``options``.

        Returns:
            The edited latent.

        Raises:
            ValueError: For a network that the method does not take, for options that it
                does not have, and for what :class:`Task` refuses.
        """
        task = Task(
            pipe, sampler, inversion, source, target, guidance_scale, negative_prompt
        )
        for name in options:
            if name not in self.options:
                known = list(self.options) or ["none"]
                raise ValueError(unknown(f"option of {self.name}", name, known))
        self.check(pipe)
        return self.run(task, **options)


def method(
    paper: str, networks: tuple[type, ...] = ()
) -> Callable[[Callable[..., Float[Array, "*shape"]]], Method]:
    """Make an editing method of a function of a task, which has the method's name.

    Args:
        paper: Authors, year and address of the paper.
        networks: Classes of the networks that it takes; () for all.
    """

    def make(run: Callable[..., Float[Array, "*shape"]]) -> Method:
        return Method(run.__name__, paper, networks, checked(run))

    return make
