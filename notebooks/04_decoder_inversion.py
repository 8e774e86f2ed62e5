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
# # 4. Which latent decodes to this picture?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxinv/jaxinv/blob/main/notebooks/04_decoder_inversion.ipynb)
#
# A latent diffusion model samples a latent and decodes it. To invert a picture, the latent
# must be found first, and the encoder does not find it: it was trained to come near, not
# to invert the decoder. Whatever follows, exact as it may be, then starts from the wrong
# place. This notebook inverts the decoder, with and without gradients, and looks at what
# 8 bits per pixel leave to be found.

# %%
# %matplotlib inline
import importlib.util
import os
import shutil
import subprocess
import sys
import time

if importlib.util.find_spec("jaxinv") is None:  # on Colab; on a TPU, [tpu]
    extra = "[cuda]" if shutil.which("nvidia-smi") else ""
    source = f"jaxinv{extra} @ git+https://github.com/jaxinv/jaxinv"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from jaxinv import analysis, plotting
from jaxinv.decoder_inversion import ForwardStep, GaussNewton, Gradient, tilewise

# On a GPU or TPU: "stable-diffusion-v1-5/stable-diffusion-v1-5".
MODEL = os.environ.get("JAXINV_MODEL", "emoji64")
FAST = bool(os.environ.get("JAXINV_FAST"))  # fewer steps, for tests
STEPS = 8 if FAST else 20

# %%
pipe = ji.load(MODEL)
sampler = ji.ddim(ji.time_grid(pipe.schedule, STEPS))
denoise = pipe.denoiser("soccer ball on a yellow background", guidance_scale=3.0)
noise = jax.random.normal(jax.random.key(3), pipe.latent_shape)
latent = ji.sample(sampler, denoise, noise)
picture = jnp.round(255 * pipe.decode(latent)).astype(jnp.uint8)

# %% [markdown]
# ## Methods
#
# * `encoder`: the encoder alone; where all others start.
# * `gradient`: minimises the misfit of the picture by Adam (Hong et al. 2024).
# * `forward_step`, `inertial_km`, `adam`: no gradients; repeat
#   `z <- z - rho (E(D(z)) - E(x))`, so that only the networks' forward passes are needed
#   and nothing is kept of their activations.
# * `anderson` (default): the same equation, accelerated.
# * `gauss_newton`: second order, without ever forming a matrix. The slowest per
#   iteration, and the one that comes down to what 8 bits allow.
#
# All return the best iterate by misfit of the picture, so none is ever worse than the
# encoder there.

# %%
methods = {
    "encoder": "encoder",
    "forward_step": ForwardStep(iterations=10 if FAST else 50),
    "gradient": Gradient(iterations=100),
    "anderson": "anderson",
    "gauss_newton": GaussNewton(iterations=8),
}
if FAST:  # what compiles quickly
    methods = {name: methods[name] for name in ("encoder", "forward_step", "anderson")}
found = {}
for name, method in methods.items():
    began = time.perf_counter()
    found[name] = jax.block_until_ready(pipe.invert_decoder(picture, method))
    seconds = time.perf_counter() - began
    result = found[name]
    print(
        f"{name:13s} latent {ji.nmse_db(result.latent, latent):6.1f} dB,"
        f" picture {ji.psnr(pipe.decode(result.latent), picture / 255):5.1f} dB PSNR,"
        f" {int(result.iterations):3d} iterations, {seconds:5.1f} s with compilation,"
        f" converged: {bool(result.converged)}"
    )

# %%
rows = []
for name, result in found.items():
    off = ji.nmse_db(result.latent, latent)
    decoded = pipe.decode(result.latent)
    rows.append(
        plotting.Row(
            name.replace("_", "\n"),
            [
                plotting.Tile(
                    plotting.difference_picture(result.latent, latent, gain=1),
                    "latent, error",
                    f"{off:.1f} dB",
                    bool(off < -25),
                ),
                plotting.Tile(np.asarray(decoded), "decoded"),
                plotting.Tile(
                    plotting.difference_picture(decoded, picture / 255, gain=20),
                    "error x 20",
                    f"PSNR {ji.psnr(decoded, picture / 255):.1f} dB",
                ),
            ],
        )
    )
plotting.panel(rows, "The latent that decodes to this picture")

# %% [markdown]
# ## What it means for the noise
#
# The sampler's inverse is exact here; all that differs is the latent that it starts from.

# %%
for name in ("encoder", *list(found)[-2:]):
    inverse = ji.invert(sampler, denoise, found[name].latent, strategy="stepwise")
    print(f"{name:13s} noise {ji.nmse_db(inverse.noise, noise):6.1f} dB")
inverse = ji.invert(sampler, denoise, latent, strategy="stepwise")
print(f"true latent   noise {ji.nmse_db(inverse.noise, noise):6.1f} dB")

# %% [markdown]
# ## When do the gradient-free methods converge?
#
# If `E(D(.))` is cocoercive along the iteration, a step size below twice the smallest
# quotient is proved to converge (Hong et al. 2024, Theorem 1). It can be measured, where
# the latent is known, and says in advance which step sizes fail.

# %%
errors = {}
for step in (1.0,) if FAST else (0.1, 1.0, 3.0):
    report = analysis.cocoercivity(
        pipe.encode,
        pipe.decode_unclipped,
        picture,
        latent,
        ForwardStep(iterations=5 if FAST else 30, step_size=step),
    )
    errors[f"step size {step}"] = np.asarray(report.errors)
    print(
        f"step size {step}: proved up to {float(report.largest_step):.2f},"
        f" condition met: {bool(report.satisfied)}"
    )
plotting.residual_curves(
    errors,
    "Distance to the true latent",
    x_label="iteration",
    y_label="relative error",
)

# %% [markdown]
# ## Large pictures
#
# The networks can be applied in overlapping tiles, in bounded memory, and so can their
# inversion; `framewise` does the same for the frames of a video.

# %%
wide = jnp.concatenate([picture, picture[:, ::-1]], axis=1)
tile = pipe.image_size[0]
result = ji.invert_decoder(
    tilewise(pipe.encode, tile=tile),
    tilewise(pipe.decode_unclipped, tile=tile // pipe.factor),
    wide,
    ForwardStep(iterations=5 if FAST else 20),
)
print(wide.shape, "->", result.latent.shape, "misfit", result.residual)

# %% [markdown]
# Next: [watermarks](05_watermarks.ipynb), which are found or missed by the quality of the
# inversion.
