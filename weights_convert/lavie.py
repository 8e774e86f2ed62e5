"""LaVie's base UNet from its published weights.

LaVie publishes ``lavie_base.pt``, a pickle, and no configuration: its code reads that
of Stable Diffusion 1.4. A pickle can run code when it is opened and is refused; the
message has the line that makes safetensors of it.
"""

import os
from pathlib import Path

import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxinv.mesh import ShardingRule
from jaxinv.models import LaVieUNet, LaVieUNetConfig
from jaxinv.models.parameters import parameters
from jaxinv.models.registry import abstract_component
from weights_convert.component import filled_component, match_tensors
from weights_convert.reader import (
    CONVERSION,
    StoredTensor,
    open_file,
    refuse_pickle,
)


def load_lavie(
    path: str | os.PathLike[str],
    config: LaVieUNetConfig | None = None,
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    sharding: ShardingRule | None = None,
) -> LaVieUNet:
    """Load LaVie's base UNet from safetensors of its published weights.

    Args:
        path: ``lavie_base.safetensors``, with the names of ``lavie_base.pt``.
        config: Settings of the model; those of the published one if None.
        dtype: Data type of the computation.
        param_dtype: Data type of the parameters.
        sharding: Placement of the parameters; see :func:`jaxinv.load`.

    Returns:
        The model.

    Raises:
        WeightsError: If the file is missing, broken or a pickle, or a tensor is
            missing, not used, or has the wrong shape.

    Example:
        ::

            unet = load_lavie("lavie_base.safetensors", dtype=jnp.bfloat16)
    """
    config = LaVieUNetConfig.lavie() if config is None else config
    module = filled_component(
        Path(path),
        config,
        open_lavie(path),
        dtype=dtype,
        param_dtype=param_dtype,
        sharding=sharding,
    )
    assert isinstance(module, LaVieUNet)
    return module


def check_lavie(path: str | os.PathLike[str], config: LaVieUNetConfig) -> None:
    """Raise WeightsError unless a file holds the tensors of a configuration."""
    wanted = parameters(abstract_component(config))
    match_tensors(Path(path), config, wanted, open_lavie(path))


def open_lavie(path: str | os.PathLike[str]) -> list[StoredTensor]:
    """Open the tensors of a file, which must not be a pickle."""
    path = Path(path)
    refuse_pickle(path, f"{CONVERSION} {path.name} {path.stem}.safetensors")
    return open_file(path)
