r"""LoRA: low-rank changes of a model's weights, read from files and added to them.

A LoRA file holds, for some layers, two thin matrices whose product is added to the
layer's weight,

    W + s (alpha / r) B A,    A: r x inputs,  B: outputs x r.

s is the scale that the user chooses, r the rank, and alpha a number that the training
fixed (r if the file has none). For a convolution A is a convolution with r outputs, and
B a 1x1 convolution after it.

Files name layers in several ways (:mod:`weights_convert.lora.names`). Reading is
strict: every tensor must belong to a layer of the model and have its shape.

References:
    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021.
    https://arxiv.org/abs/2106.09685
"""

from weights_convert.lora.merge import merge_lora, open_lora

__all__ = ["merge_lora", "open_lora"]
