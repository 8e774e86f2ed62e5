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
# # 6. How does one change only what the prompt says?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxinv/jaxinv/blob/main/notebooks/06_editing_and_interpolation.ipynb)
#
# To edit a picture, invert it with the prompt that describes it, and sample with another.
# What both prompts have in common stays, if the inversion was exact; a mask keeps the rest
# as it was. This notebook changes backgrounds and objects, finds
# masks by itself, and interpolates.

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
from jaxinv.apps import editing, masks

# On a GPU or TPU: "stable-diffusion-v1-5/stable-diffusion-v1-5".
MODEL = os.environ.get("JAXINV_MODEL", "emoji64")
FAST = bool(os.environ.get("JAXINV_FAST"))  # fewer steps, for tests
STEPS = 8 if FAST else 50
SOURCE = "pizza on a white background"
TARGET = "pizza on a blue background"

# %%
pipe = ji.load(MODEL)
grid = ji.time_grid(pipe.schedule, STEPS)
source = pipe.denoiser(SOURCE, guidance_scale=3.0)
target = pipe.denoiser(TARGET, guidance_scale=3.0)
noise = jax.random.normal(jax.random.key(4), pipe.latent_shape)
latent = ji.sample(ji.ddim(grid), source, noise)

# %% [markdown]
# ## Swap the prompt
#
# With O-BELM the way there and back is exact by construction: if source and target were
# the same prompt, the picture would come back unchanged. `freeze` lets the first steps,
# which decide the layout, follow the source still.

# %%
sampler = ji.o_belm(grid)
tiles = [plotting.Tile(np.asarray(pipe.decode(latent)), SOURCE)]
for share in (0.0, 0.2, 0.4):
    freeze = round(share * STEPS)
    edited = editing.edit(sampler, source, target, latent, freeze=freeze).latent
    tiles.append(
        plotting.Tile(np.asarray(pipe.decode(edited)), f"{freeze} steps frozen")
    )
plotting.panel([plotting.Row("", tiles)], TARGET)

# %% [markdown]
# ## A mask that nobody drew
#
# Where the model's predictions for the two prompts differ is what the prompts differ
# about (DiffEdit). Outside of the mask the states are those of the inverted trajectory,
# at every step, so that the latent there is the source's to the last bits. The *picture*
# there still changes a little: the decoder's normalisation and attention see all of the
# latent. Where that matters, paste the original pixels over it.

# %%
found = masks.prediction_mask(
    pipe.schedule, source, target, latent, jax.random.key(5), threshold=0.3
)
shown = jnp.repeat(jnp.repeat(found, pipe.factor, 0), pipe.factor, 1)

with_mask = editing.edit(sampler, source, target, latent, mask=found).latent
without = editing.edit(sampler, source, target, latent).latent
naive = editing.edit(ji.ddim(grid), source, target, latent, strategy="naive").latent


def kept(edited):
    """PSNR of the picture where nothing should change."""
    return float(ji.psnr(pipe.decode(edited), pipe.decode(latent), where=shown == 0))


off = jnp.abs(with_mask - latent) * (1 - found)
print("latent outside of the mask, largest change:", off.max())

plotting.panel(
    [
        plotting.Row(
            "",
            [
                plotting.Tile(np.asarray(pipe.decode(latent)), "source"),
                plotting.Tile(np.repeat(np.asarray(shown), 3, 2), "mask found"),
                *(
                    plotting.Tile(
                        np.asarray(pipe.decode(z)), name, f"kept part {kept(z):.1f} dB"
                    )
                    for name, z in (
                        ("DDIM, naive", naive),
                        ("O-BELM", without),
                        ("O-BELM, mask", with_mask),
                    )
                ),
            ],
        )
    ],
    f"{SOURCE} -> {TARGET}",
)

# %% [markdown]
# ## A mask of your own
#
# A mask of pixels becomes one of latents by `latent_mask`: 1 where something may change.
# Here another object is put into the middle of the picture.

# %%
height, width = pipe.image_size
pixels = np.zeros((height, width), bool)
pixels[height // 16 : -height // 16, width // 16 : -width // 16] = True
mask = masks.latent_mask(pixels, pipe.factor)
tiles = [plotting.Tile(np.asarray(pipe.decode(latent)), "source")]
for thing in ("red apple", "soccer ball", "dog face"):
    prompt = pipe.denoiser(f"{thing} on a white background", guidance_scale=5.0)
    edited = editing.edit(sampler, source, prompt, latent, mask=mask).latent
    tiles.append(plotting.Tile(np.asarray(pipe.decode(edited)), thing))
plotting.panel([plotting.Row("", tiles)], "Another object, the same border")

# %% [markdown]
# ## Interpolation
#
# Between two *pictures* the states of a bidirectional sampler are mixed, with spherical
# weights, as in [notebook 3](03_belm.ipynb) and `jaxinv interpolate`. Between two
# *prompts* their text vectors are, in a straight line. The noise is the same here.

# %%
positions = jnp.linspace(0, 1, 4 if FAST else 7)
first, last = (
    pipe.encode_prompt(p) for p in (SOURCE, "soccer ball on a white background")
)
mixed = [
    ji.sample(
        ji.ddim(grid),
        pipe.denoiser((1 - t) * first + t * last, guidance_scale=3.0),
        noise,
    )
    for t in positions
]
plotting.film_strip(
    [np.asarray(pipe.decode(z)) for z in mixed],
    "Between two prompts, the same noise",
    [f"{t:.2f}" for t in positions],
)

# %% [markdown]
# Next: [many pictures on many devices](07_batches_on_accelerators.ipynb).
