"""How a model runs, in place of what it computes: attention kernels, rematerialisation.

A model's configuration says which function it is. The options here select a program
for it: outputs agree to rounding. They are static (other options, another compiled
program), and a model with other options shares its parameters with the one that it was
made from.

Layouts: activations are channels last, (h, w, c), and a batch that ``jax.vmap`` adds
comes first, so that convolutions are NHWC by HWIO as XLA sees them. That is the layout
that CPUs compute in (:mod:`jaxinv.models.layers.convolution`) and, but for the kernels,
the one of cuDNN on tensor cores; XLA assigns the layouts inside of a program, and
transposes kernels there if it wants them otherwise.
"""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxinv.checks import checked
from jaxinv.models.layers.attention import Attention, Implementation
from jaxinv.models.layers.flash import has_cudnn
from jaxinv.models.layers.remat import Remat
from jaxinv.models.registry import Component
from jaxinv.models.text_encoders.clip import CLIPAttention

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
            "attention='cudnn' computes in 16 bits only, and this model computes in "
            f"{jnp.dtype(dtype)}: load it with dtype=jnp.bfloat16, or take "
            "attention='xla'"
        )
    if not has_cudnn():
        raise ValueError(
            "attention='cudnn' needs an NVIDIA GPU, and the default backend is "
            f"{jax.default_backend()!r}: take attention='xla'"
        )


@checked
def with_options(
    module: _Component, *, attention: Implementation = None, remat: Remat = "none"
) -> _Component:
    """Return a model with other run-time options, and the same parameters.

    Args:
        module: The model; it may be abstract. It is not changed.
        attention: Who computes attention: ``"xla"``, ``"cudnn"`` (the fused kernel of
            :mod:`jaxinv.models.layers.flash`, which stores no weights; heads of sizes
            that it does not take, as the autoencoder's, stay with XLA), or None for
            JAX's own choice. Layers that a configuration wants in float32
            (``upcast_attention``, Stable Diffusion 2.1) are computed so by XLA; the
            fused kernel computes the logits and the softmax in float32, all that the
            option is for, from queries and keys of 16 bits.
        remat: What reverse-mode derivatives keep of each block: ``"none"`` computes
            nothing twice, ``"dots"`` norms and attention, ``"blocks"`` everything; see
            :mod:`jaxinv.models.layers.remat`.

    Returns:
        A new model of the same class. Layers without attention or blocks (all of
        ``AutoencoderTiny``) are as they were.

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
        if isinstance(layer, Attention | CLIPAttention):
            layer.implementation = attention
        # The transformers' attentions belong to the transformers' blocks.
        if isinstance(layer, Attention) and layer.group_norm is None:
            continue
        if hasattr(layer, "remat"):
            layer.remat = remat
    return new
