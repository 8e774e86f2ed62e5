"""The engine of a job: continuous batching from pixels to noise.

Images pass through stations (:mod:`jaxinv.scale.stations`): decoder inversion, then the
stages of the sampler's inverse. Each station has its own lanes on all devices of this
process. An image moves to the next station as soon as it is done.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxinv.checks import AtLeastOne, checked
from jaxinv.inversion.strategies import check_max_evals, make_plan, stage_names
from jaxinv.mesh import make_mesh, place_model
from jaxinv.pipeline.conditions import Condition, with_negative
from jaxinv.pipeline.images import ImageInversion
from jaxinv.pipeline.latents import decode, encode
from jaxinv.pipeline.pipeline import Pipeline
from jaxinv.samplers.table import SamplerTable
from jaxinv.scale.decoder_lanes import decoder_machine
from jaxinv.scale.jobs.certificates import answer
from jaxinv.scale.jobs.interface import Answer, Engine, Request
from jaxinv.scale.jobs.status import LOGGER
from jaxinv.scale.lanes import Lanes
from jaxinv.scale.stations import NextStage, Station, flow
from jaxinv.scale.stream import Sample, inversion_stations

#: Number of cached text vectors, of the latest prompts: at most a megabyte each.
KEPT_PROMPTS = 256


@checked
def continuous(
    pipe: Pipeline,
    sampler: SamplerTable,
    *,
    strategy: str = "auto",
    decoder: str = "anderson",
    guided: bool = True,
    lanes: int = 8,
    iterations: int = 4,
    mesh: Mesh | None = None,
    max_evals: AtLeastOne | None = None,
) -> Engine:
    """Make an engine that inverts many images at a time.

    Args:
        pipe: The model; parameters on the mesh are used in place.
        sampler: The sampler.
        strategy: See :func:`jaxinv.invert`.
        decoder: Name of a method of decoder inversion.
        guided: Whether the negative prompt of any image counts: its guidance scale is
            above 1, and not an input of the network.
        lanes: Number of images at a time at each station, on the whole mesh.
        iterations: Number of iterations between refills of free lanes.
        mesh: Devices of this process; all its devices if None.
        max_evals: The limit for each image; see :func:`jaxinv.invert`.

    Returns:
        The engine.

    Raises:
        ValueError: For settings that cannot be combined, and for a model whose
            condition has more than prompts (a control image, a class label).
    """
    mesh = make_mesh(devices=jax.local_devices()) if mesh is None else mesh
    machine, networks = decoder_machine(
        jax.tree_util.Partial(encode, pipe.vae),
        jax.tree_util.Partial(decode, pipe.vae),
        decoder,
    )
    networks = place_model(networks[0], mesh), place_model(networks[1], mesh)
    plan = make_plan(sampler, strategy, None, pipe.schedule)
    limit = check_max_evals(max_evals, plan, sampler)
    stages = stage_names(plan)

    def announce(name: str) -> None:
        if name != stages[0]:
            LOGGER.info("%s starts, for images that did not converge before", name)

    stations = inversion_stations(
        sampler,
        pipe.conditional_denoiser(guided=guided),
        first=1,
        lanes=lanes,
        iterations=iterations,
        mesh=mesh,
        plan=plan,
        on_stage=announce,
    )

    def decoder_lanes() -> Lanes:
        return Lanes(machine, networks, lanes=lanes, iterations=iterations, mesh=mesh)

    decoder_lanes()  # raises for invalid settings

    @functools.lru_cache(KEPT_PROMPTS)
    def text(prompt: str, negative: bool) -> Any:
        return jax.tree.map(np.asarray, pipe.encode_prompt(prompt, negative=negative))

    if pipe.prompts is None:
        text("", False)  # raises for models that need more than a prompt

    def entering(
        requests: Iterable[Request], conditions: dict[int, Condition]
    ) -> Iterator[tuple[int, NextStage]]:
        for request in requests:
            positive = negative = text(request.prompt, False)
            if pipe.family.reads_negative(pipe, request.guidance):
                negative = text(request.negative_prompt, True)
            scale = np.float32(request.guidance)
            found = pipe.family.condition(pipe, positive, negative, scale)
            conditions[request.index] = jax.tree.map(np.asarray, with_negative(found))
            yield request.index, NextStage(0, request.pixels)

    def engine(requests: Iterable[Request]) -> Iterator[Answer]:
        conditions: dict[int, Condition] = {}
        decoded: dict[int, Any] = {}

        def to_sampler(key: Any, item: Any, found: Any) -> NextStage:
            decoded[key] = found
            sample = Sample(found.latent, conditions.pop(key), max_evals=limit)
            return NextStage(1, sample)

        first = Station(decoder_lanes, to_sampler)
        for key, (result, ran) in flow(
            [first, *stations], entering(requests, conditions)
        ):
            found = ImageInversion(decoded.pop(key), result)
            yield answer(key, found, stages[:ran], decoder)

    return engine
