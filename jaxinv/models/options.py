"""Run-time options of a model: attention kernels and rematerialization.

A model's configuration defines its function. The options here select a program that
computes it; outputs agree to rounding. Options are static: changing them compiles
another program. A model with other options shares the parameters of the original.

Layouts: activations are channels last, (h, w, c), and ``jax.vmap`` adds the batch in
front, so that XLA sees convolutions as NHWC by HWIO. CPUs compute in that layout
(:mod:`jaxinv.models.layers.convolution`), and so does cuDNN on tensor cores except for
the kernels, which XLA transposes where needed.
"""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from jaxinv.checks import checked
from jaxinv.models.layers.attention import Attention, Implementation
from jaxinv.models.layers.flash import has_cudnn
from jaxinv.models.layers.remat import Remat
from jaxinv.models.registry import Component

_Component = TypeVar("_Component", bound=Component)


def check_attention(attention: Implementation, dtype: Any) -> None:
    """Raise ValueError unless a model of this dtype can compute attention so.

    Args:
        attention: See :func:`with_options`.
        dtype: Data type that the model computes in.
    """
    if attention != "cudnn":
        return
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
        raise ValueError(
            "attention='cudnn' computes in 16 bits only, but this model computes in "
            f"{jnp.dtype(dtype)}: load it with dtype=jnp.bfloat16, or use "
            "attention='xla'"
        )
    if not has_cudnn():
        raise ValueError(
            "attention='cudnn' needs an NVIDIA GPU, but the default backend is "
            f"{jax.default_backend()!r}: use attention='xla'"
        )


def check_dtypes(dtype: DTypeLike, param_dtype: DTypeLike, platform: str) -> None:
    """Raise ValueError for data types in which a platform cannot compute a model.

    XLA has no float16 attention for CPUs: compilation fails at the precision of the
    product (``F16_F16_F32``). A model that computes in float32 may store its parameters
    in float16.

    Args:
        dtype: Data type of the computation.
        param_dtype: Data type of the parameters.
        platform: ``"cpu"``, ``"gpu"``, ``"tpu"``, ...
    """
    known = ("float32", "bfloat16", "float16", "float64")
    for name, value in (("dtype", dtype), ("param_dtype", param_dtype)):
        if jnp.dtype(value).name not in known:
            raise ValueError(
                f"{name}={jnp.dtype(value).name} is not a data type for models; "
                f"expected one of {', '.join(known)}"
            )
        if jnp.dtype(value) != jax.dtypes.canonicalize_dtype(value):
            raise ValueError(
                f"{name}=float64 needs jax.config.update('jax_enable_x64', True)"
            )
    if np.dtype(dtype) == np.float16 and platform == "cpu":
        raise ValueError(
            "dtype=float16 is not supported on CPUs (XLA has no float16 attention "
            "there): pass dtype=jnp.float32 or dtype=jnp.bfloat16; "
            "param_dtype=jnp.float16 keeps the parameters in 16 bits"
        )


@checked
def with_options(
    module: _Component, *, attention: Implementation = None, remat: Remat = "none"
) -> _Component:
    """Return a model with other run-time options, and the same parameters.

    Args:
        module: The model; it may be abstract. It is not changed.
        attention: Implementation of attention: ``"xla"``, ``"cudnn"`` (the fused kernel
            of :mod:`jaxinv.models.layers.flash`, which stores no weights; XLA computes
            heads of unsupported sizes, as in the autoencoder), or None for JAX's own
            choice. XLA computes layers with ``upcast_attention`` (Stable Diffusion 2.1)
            in float32. The fused kernel computes their logits and softmax, the purpose
            of that option, in float32 from 16-bit queries and keys.
        remat: What reverse-mode derivatives recompute of each block: ``"none"``
            nothing, ``"dots"`` norms and attention, ``"blocks"`` everything; see
            :mod:`jaxinv.models.layers.remat`.

    Returns:
        A new model of the same class. Layers without attention or blocks (all of
        ``AutoencoderTiny``) are unchanged.

    Raises:
        ValueError: For unknown names, and for ``"cudnn"`` where there is no NVIDIA GPU
            or the model does not compute in 16 bits.

    Example:
        >>> from jaxinv.models import CLIPTextConfig, abstract_component
        >>> text_encoder = abstract_component(CLIPTextConfig())
        >>> careful = with_options(text_encoder, attention="xla", remat="blocks")
        >>> careful.encoder.layers[0].remat, text_encoder.encoder.layers[0].remat
        ('blocks', 'none')
    """
    check_attention(attention, module.dtype)
    new: _Component = jax.tree.map(lambda x: x, module)  # new objects, same arrays
    for _, layer in nnx.iter_modules(new):
        if hasattr(layer, "implementation"):
            layer.implementation = attention
        # Attention inside a transformer belongs to the transformer's block.
        if isinstance(layer, Attention) and not layer.residual:
            continue
        if hasattr(layer, "remat"):
            layer.remat = remat
    return new
