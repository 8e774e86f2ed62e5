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
from weights_convert.errors import WeightsError
from weights_convert.reader import StoredTensor, open_file

_SUFFIX = ".safetensors"
# LaVie's training code wraps the weights that its sampling code reads.
_CONVERT = (
    'python -c "import torch; from safetensors.torch import save_file; '
    "w = torch.load('{0}', map_location='cpu', weights_only=True); w = w.get('ema', w);"
    " save_file({{k: v.clone().contiguous() for k, v in w.items()}}, '{1}')\""
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
    if path.suffix != _SUFFIX:
        line = _CONVERT.format(path, path.with_suffix(_SUFFIX))
        raise WeightsError(
            f"{path} is not safetensors. A pickle such as lavie_base.pt can run code "
            f"when it is opened, and is refused. This line converts it: {line}"
        )
    return open_file(path)
