r"""The published inversion algorithms in PyTorch, on diffusers' own modules.

What the JAX library is compared with: the same weights, the same grid, the same
samples, in one process. Written from the papers' formulas in the state x, with float64
scalars; it shares no code and no table of coefficients with the library, so that it is
also a second opinion on them.

:mod:`.model`      the UNet and the text encoder, and the guided noise prediction
                   ``eps(x, t)`` of a batch, which counts its own evaluations
:mod:`.samplers`   DDIM and DPM-Solver++ (2M, 3M) on a given grid
:mod:`.inversion`  naive DDIM inversion, Algorithm 1, Algorithm 2
:mod:`.bidirectional`  O-BELM, BDIA and EDICT, both ways
:mod:`.decoder`    decoder inversion, with gradients and without

Everything is a batch, channels first, as a PyTorch user would write it: samples that
have met their tolerance leave the batch, so that both the wall time and the counts of
evaluations are those of the work that had to be done. One evaluation is one call of
the guided model for one sample, with both branches of the guidance in one batch.

Where the paper leaves something open, the most natural reading that is also the best
for the published algorithm is taken, and said in the docstring of the function.

    model = TorchModel.load(folder)
    grid = ji.time_grid(schedule, 20)
    eps = model.guided(prompts, guidance=5.0)
    states = dpmpp(grid, eps, noise, order=2)
    result = algorithm_2(grid, schedule, eps, states[0], order=2)

References:
    Hong et al. 2024, "On Exact Inversion of DPM-Solvers", arXiv:2311.18387.
    Lu et al. 2022, "DPM-Solver++", arXiv:2211.01095.
    Song et al. 2021, "Denoising Diffusion Implicit Models", arXiv:2010.02502.
    Wang et al. 2024, "BELM", arXiv:2410.07273.
"""

from benchmarks.torch_reference.bidirectional import (
    invert_bdia,
    invert_edict,
    invert_o_belm,
    sample_bdia,
    sample_edict,
    sample_o_belm,
)
from benchmarks.torch_reference.decoder import TorchAutoencoder
from benchmarks.torch_reference.inversion import (
    Inversion,
    Settings,
    algorithm_1,
    algorithm_2,
    forward_step,
    gradient_descent,
    naive,
)
from benchmarks.torch_reference.model import (
    GuidedEps,
    TorchModel,
    to_channels_first,
    to_channels_last,
)
from benchmarks.torch_reference.samplers import ddim, dpmpp, step_orders

__all__ = [
    "GuidedEps",
    "Inversion",
    "Settings",
    "TorchAutoencoder",
    "TorchModel",
    "algorithm_1",
    "algorithm_2",
    "ddim",
    "dpmpp",
    "forward_step",
    "gradient_descent",
    "invert_bdia",
    "invert_edict",
    "invert_o_belm",
    "naive",
    "sample_bdia",
    "sample_edict",
    "sample_o_belm",
    "step_orders",
    "to_channels_first",
    "to_channels_last",
]
