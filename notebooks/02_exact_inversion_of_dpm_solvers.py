# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2. Can a high-order sampler be inverted exactly?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxinv/jaxinv/blob/main/notebooks/02_exact_inversion_of_dpm_solvers.ipynb)
#
# DPM-Solver++(2M) is what most pictures are made with today. Each of its steps uses the
# model's output at the step before as well, so that going backwards, step by step, two
# states are unknown and one equation is there. The published answer (Hong et al. 2024,
# Algorithm 2) estimates what is missing; this notebook compares it with solving all steps
# together, and shows where the noise can be found and where it cannot.

# %%
# %matplotlib inline
import importlib.util
import os
import shutil
import subprocess
import sys
import time
import warnings

if importlib.util.find_spec("jaxinv") is None:  # on Colab; on a TPU, [tpu]
    extra = "[cuda]" if shutil.which("nvidia-smi") else ""
    source = f"jaxinv{extra} @ git+https://github.com/jaxinv/jaxinv"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

import jax
import numpy as np

import jaxinv as ji
from jaxinv import analysis, plotting

# On a GPU or TPU: "stable-diffusion-v1-5/stable-diffusion-v1-5".
MODEL = os.environ.get("JAXINV_MODEL", "emoji64")
FAST = bool(os.environ.get("JAXINV_FAST"))  # fewer steps, for tests
STEPS = 8 if FAST else 20
PROMPT = "pizza on a white background"

# %%
pipe = ji.load(MODEL)
sampler = ji.dpmpp_2m(ji.time_grid(pipe.schedule, STEPS))
denoise = pipe.denoiser(PROMPT, guidance_scale=3.0)
noise = jax.random.normal(jax.random.key(1), pipe.latent_shape)
latent = ji.sample(sampler, denoise, noise)

# %% [markdown]
# ## Three inverses
#
# * `naive`: DDIM inversion, no matter which sampler it was.
# * `stepwise`: for this sampler Algorithm 2 of the paper. Forward step iterations on
#   every step, with the high-order term frozen at an estimate.
# * `trajectory`: every step of the sampler is one row of a table of coefficients. All
#   rows together are one equation for all states, solved by accelerated sweeps, each of
#   which calls the model once, for all noise levels in one batch. It is exact at any
#   order, and `auto`, the default, begins with it for samplers like this one. All levels
#   at once need memory for as many evaluations: `ji.Trajectory(chunk=4)` in place of the
#   name makes four at a time.

# %%
results = {}
for strategy in ("naive", "stepwise", "trajectory"):
    began = time.perf_counter()
    found = ji.invert(
        sampler,
        denoise,
        latent,
        strategy=strategy,
        schedule=pipe.schedule,
        return_trajectory=True,
    )
    jax.block_until_ready(found)
    seconds = time.perf_counter() - began
    again = ji.sample(sampler, denoise, found.noise)
    results[strategy] = (found, again)
    print(
        f"{strategy:10s} noise {ji.nmse_db(found.noise, noise):7.1f} dB,"
        f" picture {ji.nmse_db(again, latent):7.1f} dB,"
        f" {int(found.num_evals):5d} evaluations, {int(found.depth):5d} of them in turn,"
        f" {seconds:5.1f} s with compilation, converged: {bool(found.converged)}"
    )


# %%
def tiles(name):
    """The error of a noise, and the picture that it leads to."""
    found, again = results[name]
    off, off_again = ji.nmse_db(found.noise, noise), ji.nmse_db(again, latent)
    return plotting.Row(
        name,
        [
            plotting.Tile(
                plotting.difference_picture(found.noise, noise, gain=2),
                "noise, error x 2",
                f"{off:.1f} dB",
                bool(off < -40),
            ),
            plotting.Tile(np.asarray(pipe.decode(again)), "picture from it"),
            plotting.Tile(
                plotting.difference_picture(
                    pipe.decode(again), pipe.decode(latent), gain=10
                ),
                "error x 10",
                f"{off_again:.1f} dB",
                bool(off_again < -40),
            ),
        ],
    )


plotting.panel([tiles(name) for name in results], "DPM-Solver++(2M), three inverses")

# %% [markdown]
# Algorithm 2 solves its steps with an estimate in the place of a term. What that leaves of
# the sampler's own steps is measured by `certify`, from any trajectory.

# %%
curves = {
    name: np.asarray(ji.certify(sampler, denoise, found.trajectory))
    for name, (found, _) in results.items()
}
plotting.residual_curves(curves, "Relative residual of every step, data first")

# %% [markdown]
# ## Guidance
#
# Classifier-free guidance makes a step's map steeper, and at some point it folds: two
# states then lead to the same next one, and the noise is lost however well one solves.
# The *picture* may still come back. At which guidance that happens depends on the model:
# the embedded one was trained so that its steps do not fold up to 7.5. A model that was
# trained without this may lose the noise at a smaller guidance.

# %%
for guidance in (3.0,) if FAST else (1.0, 3.0, 7.5, 15.0):
    guided = pipe.denoiser(PROMPT, guidance_scale=guidance)
    made = ji.sample(sampler, guided, noise)
    found = ji.invert(sampler, guided, made, strategy="trajectory")
    again = ji.sample(sampler, guided, found.noise)
    print(
        f"guidance {guidance:4.1f}: noise {ji.nmse_db(found.noise, noise):7.1f} dB,"
        f" picture {ji.nmse_db(again, made):7.1f} dB,"
        f" {int(found.num_evals):4d} evaluations, converged: {bool(found.converged)}"
    )

# %% [markdown]
# ## Which step loses it?
#
# `step_conditioning` bounds the singular values of every step's Jacobian, without ever
# forming it. A step whose smallest one is near zero maps different states to the same
# one. On the default grid, uniform in log-SNR, the steps are equally harmless; timestep
# grids, such as `linspace`, have one near the data that is not, which the library warns
# of.

# %%
with warnings.catch_warnings():
    warnings.simplefilter("ignore", ji.LossyGridWarning)
    smallest = {}
    for spacing in ("log_snr", "linspace"):
        ddim = ji.ddim(ji.time_grid(pipe.schedule, STEPS, spacing))
        states = ji.sample_trajectory(ddim, denoise, noise)
        found = analysis.step_conditioning(
            ddim, denoise, states, num_vectors=6 if FAST else 24
        )
        smallest[spacing] = np.asarray(found.smallest)
plotting.residual_curves(
    smallest, "Smallest singular value of every step", y_label="singular value"
)

# %% [markdown]
# Next: [samplers that need no solver](03_belm.ipynb), because their steps can be read
# backwards.
