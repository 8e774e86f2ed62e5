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
# # 1. Which noise made this picture?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxinv/jaxinv/blob/main/notebooks/01_invert_an_image.ipynb)
#
# A diffusion model turns noise into a picture, and a deterministic sampler always turns
# the same noise into the same picture. So a picture has a noise. This notebook finds it,
# shows why the usual "DDIM inversion" does not, and reads the certificate that says how
# exact the answer is.

# %%
# %matplotlib inline
import importlib.util
import os
import shutil
import subprocess
import sys

if importlib.util.find_spec("jaxinv") is None:  # on Colab; on a TPU, [tpu]
    extra = "[cuda]" if shutil.which("nvidia-smi") else ""
    source = f"jaxinv{extra} @ git+https://github.com/jaxinv/jaxinv"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from jaxinv import plotting

# On a GPU or TPU: "stable-diffusion-v1-5/stable-diffusion-v1-5".
MODEL = os.environ.get("JAXINV_MODEL", "emoji64")
FAST = bool(os.environ.get("JAXINV_FAST"))  # fewer steps, for tests
STEPS = 8 if FAST else 20
PROMPT = "red heart on a light blue background"

# %% [markdown]
# ## From noise to picture
#
# Three things make a sample: a model with a prompt filled in (the *denoiser*), a sampler
# on a grid of noise levels, and noise. All three are plain values; there is no hidden
# state, and `jax.jit`, `jax.vmap` and `jax.grad` go through all of it.

# %%
pipe = ji.load(MODEL)
sampler = ji.ddim(ji.time_grid(pipe.schedule, STEPS))
denoise = pipe.denoiser(PROMPT, guidance_scale=3.0)

noise = jax.random.normal(jax.random.key(0), pipe.latent_shape)
trajectory = ji.sample_trajectory(sampler, denoise, noise)  # data first, noise last
latent = trajectory[0]
frames = [np.asarray(pipe.decode(x)) for x in trajectory[::-1]]
labels = [f"step {k}" for k in range(len(frames))]
plotting.film_strip(frames, f"{STEPS} steps of DDIM, each state decoded", labels)

# %% [markdown]
# ## And back
#
# Each step of the sampler is `x[i-1] = a x[i] + b f(x[i], t[i])`: known is the left side,
# wanted is `x[i]`. *Naive* inversion puts the known `x[i-1]` into the model in place of
# the unknown `x[i]`, and is done without solving anything. *Exact* inversion solves the
# equation.

# %%
naive = ji.invert(sampler, denoise, latent, strategy="naive")
exact = ji.invert(sampler, denoise, latent)

for name, found in (("naive", naive), ("exact", exact)):
    again = ji.sample(sampler, denoise, found.noise)
    print(
        f"{name}: noise {ji.nmse_db(found.noise, noise):7.1f} dB,"
        f" picture again {ji.nmse_db(again, latent):7.1f} dB,"
        f" {int(found.num_evals) / STEPS:.1f} evaluations per step"
    )


# %%
def row(name, found):
    """What an inversion found, what is left, and what it leads to."""
    again = ji.sample(sampler, denoise, found.noise)
    off, off_again = ji.nmse_db(found.noise, noise), ji.nmse_db(again, latent)
    return plotting.Row(
        name,
        [
            plotting.Tile(plotting.latent_picture(found.noise), "noise found"),
            plotting.Tile(
                plotting.difference_picture(found.noise, noise, gain=1),
                "minus the true one",
                f"{off:.1f} dB",
                bool(off < -40),
            ),
            plotting.Tile(
                np.asarray(pipe.decode(again)),
                "picture from it",
                f"{off_again:.1f} dB",
                bool(off_again < -40),
            ),
        ],
    )


truth = plotting.Row(
    "truth",
    [
        plotting.Tile(plotting.latent_picture(noise), "noise"),
        None,
        plotting.Tile(np.asarray(pipe.decode(latent)), PROMPT),
    ],
)
plotting.panel(
    [truth, row("naive", naive), row("exact", exact)], "Which noise made this picture?"
)

# %% [markdown]
# The error of the naive noise has the shape of the picture: it is no noise at all.
# Whoever looks for a watermark there, or edits from there, starts from the wrong place.
#
# ## The certificate
#
# Nobody knows the true noise of a real picture. What an inversion can prove is that the
# sampler, started from what it found, leads back to the picture. Two numbers say so: the
# residual of every step, relative to the state that the step has to reproduce, and the
# `reconstruction`, the relative error of the latent that sampling from the noise ends at.
# `converged` means that all steps are solved to the accuracy of the arithmetic and that
# this error is at most 1e-4. The naive inverse solves nothing; `certify` measures the
# residuals of its trajectory afterwards.

# %%
claimed = ji.invert(sampler, denoise, latent, strategy="naive", return_trajectory=True)
checked = ji.certify(sampler, denoise, claimed.trajectory)
print("exact converged:", bool(exact.converged), "largest residual", exact.residual)
plotting.residual_curves(
    {"naive": np.asarray(checked), "exact": np.asarray(exact.step_residuals)},
    "Relative residual of every step, data first",
)

# %% [markdown]
# ## A picture from a file
#
# A file has 8 bits and has been through the decoder, whose inverse the encoder is not
# ([notebook 4](04_decoder_inversion.ipynb)). `pipe.invert` goes the whole way, decoder
# first, and returns both certificates. How much of the noise is left then is decided by
# those 8 bits. On the command line this is `jaxinv invert picture.png --prompt ...`.

# %%
picture = jnp.round(255 * pipe.decode(latent)).astype(jnp.uint8)
found = pipe.invert(picture, sampler, denoise)
again = pipe.generate(sampler, denoise, found.state)
print(f"noise {ji.nmse_db(found.noise, noise):.1f} dB")
print(f"picture again, PSNR {ji.psnr(again, picture / 255):.1f} dB")
print("misfit after the decoder", found.decoder.residual)
print("largest residual of the sampler", found.sampler.residual)

# %% [markdown]
# Next: [samplers of higher order](02_exact_inversion_of_dpm_solvers.ipynb), whose steps
# share states, so that a step cannot be inverted by itself.
