"""The UNet and the text encoder as diffusers and transformers have them.

A prompt becomes text vectors, and a batch of prompts becomes one function
``eps(x, t)``: classifier-free guidance with both branches in one batch,

    eps = eps_uncond + s (eps_cond - eps_uncond).

The function counts the evaluations of every sample, so that no algorithm has to count
its own. Gradients flow through it only where the caller has enabled them.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from torch import Tensor


@dataclasses.dataclass(eq=False)
class GuidedEps:
    """The guided noise prediction of a batch of prompts.

    Attributes:
        unet: diffusers' UNet, float32.
        cond: Text vectors of the prompts, shape (b, l, d).
        uncond: Text vectors of the negative prompt, shape (1, l, d).
        guidance: Weight s; at 1 the negative prompt is not evaluated.
        evaluations: Shape (b,), int64. Calls so far, for each sample.
    """

    unet: diffusers.UNet2DConditionModel
    cond: Tensor
    uncond: Tensor
    guidance: float
    evaluations: Tensor = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.evaluations = torch.zeros(len(self.cond), dtype=torch.int64)

    def __call__(self, x: Tensor, t: float, rows: Tensor | None = None) -> Tensor:
        """Predict the noise.

        Args:
            x: States, shape (m, c, h, w).
            t: Timestep of all of them, fractional.
            rows: Which of the b samples they are, shape (m,); None for all, in order.

        Returns:
            The noise prediction, shape (m, c, h, w).
        """
        rows = torch.arange(len(self.cond)) if rows is None else rows
        self.evaluations[rows] += 1
        time = torch.tensor(t, dtype=torch.float32)
        cond = self.cond[rows]
        if self.guidance == 1.0:
            return self.unet(x, time, cond).sample
        text = torch.cat([self.uncond.expand_as(cond), cond])
        without, with_prompt = self.unet(torch.cat([x, x]), time, text).sample.chunk(2)
        return without + self.guidance * (with_prompt - without)


@dataclasses.dataclass(frozen=True, eq=False)
class TorchModel:
    """A latent diffusion model's noise predictor in PyTorch.

    Attributes:
        unet: Predicts noise.
        text_encoder: Turns token ids into text vectors.
        tokenizer: Turns prompts into token ids.
    """

    unet: diffusers.UNet2DConditionModel
    text_encoder: transformers.CLIPTextModel
    tokenizer: transformers.CLIPTokenizer

    @classmethod
    def load(cls, folder: str | Path) -> "TorchModel":
        """Read a folder in diffusers' layout; weights of any precision, as float32.

        Args:
            folder: Holds ``unet``, ``text_encoder`` and ``tokenizer``.

        Returns:
            The model, in evaluation mode and without gradients of its parameters.
        """
        folder = Path(folder)
        unet = diffusers.UNet2DConditionModel.from_pretrained(
            folder / "unet", torch_dtype=torch.float32
        )
        text_encoder = transformers.CLIPTextModel.from_pretrained(
            folder / "text_encoder", dtype=torch.float32
        )
        return cls(
            unet.eval().requires_grad_(False),
            text_encoder.eval().requires_grad_(False),
            transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        )

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Text vectors of prompts, shape (b, l, d)."""
        ids = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return self.text_encoder(ids).last_hidden_state

    def guided(
        self, prompts: Sequence[str], guidance: float, negative_prompt: str = ""
    ) -> GuidedEps:
        """Return the noise prediction of a batch of prompts, its count at zero.

        Args:
            prompts: One for each sample of the batch.
            guidance: Weight of classifier-free guidance, for all of them.
            negative_prompt: What guidance pushes away from.

        Returns:
            A function of a batch of states and a timestep.
        """
        return GuidedEps(
            self.unet,
            self.embed(prompts),
            self.embed([negative_prompt]),
            float(guidance),
        )


def to_channels_first(x: np.ndarray) -> Tensor:
    """(b, h, w, c) array, of NumPy or JAX, to a (b, c, h, w) float32 tensor."""
    moved = np.moveaxis(np.array(x, np.float32), -1, 1)
    return torch.from_numpy(np.ascontiguousarray(moved))


def to_channels_last(x: Tensor) -> np.ndarray:
    """(..., c, h, w) tensor to a (..., h, w, c) array."""
    return np.moveaxis(x.detach().numpy(), -3, -1)
