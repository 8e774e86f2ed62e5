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
# # 3. Can inversion be free?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxinv/jaxinv/blob/main/notebooks/03_belm.ipynb)
#
# DDIM's step backwards is an equation. A *bidirectional* sampler keeps two states instead
# of one, and its step is a linear formula that can be read in either direction: nothing
# is solved, one evaluation per step, and the way back is exact by construction. This
# notebook runs O-BELM (Wang et al. 2024) there and back, to the identical bits if wanted,
# compares it with its relatives, and interpolates between two pictures.

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
from jaxinv import analysis, plotting

# On a GPU or TPU: "stable-diffusion-v1-5/stable-diffusion-v1-5".
MODEL = os.environ.get("JAXINV_MODEL", "emoji64")
FAST = bool(os.environ.get("JAXINV_FAST"))  # fewer steps, for tests
STEPS = 8 if FAST else 50

# %%
pipe = ji.load(MODEL)
grid = ji.time_grid(pipe.schedule, STEPS)
denoise = pipe.denoiser("dog face on a green background", guidance_scale=3.0)
noise = jax.random.normal(jax.random.key(2), pipe.latent_shape)
# Made by DDIM: for the samplers below it is data like any other.
latent = ji.sample(ji.ddim(grid), denoise, noise)

# %% [markdown]
# ## There and back
#
# The state at the noise end is two arrays, not one: `result.state` is what leads back.
# In floats the round trip is as exact as rounding. With `arithmetic="bits"` it is
# *identical*: what rounding throws away is kept, in integers.

# %%
sampler = ji.o_belm(grid)
floats = ji.invert(sampler, denoise, latent)
again = ji.sample(sampler, denoise, floats.state)
print(
    f"floats: {ji.nmse_db(again, latent):.1f} dB, {int(floats.num_evals)} evaluations"
)

bits = ji.invert(sampler, denoise, latent, arithmetic="bits")
again = ji.sample(sampler, denoise, bits.state, arithmetic="bits")
print("bits: every bit the same:", bool((again == latent).all()))

# %% [markdown]
# ## The family
#
# A linear multistep sampler is a table of coefficients, and what is known of such tables
# since Dahlquist can be computed: the order of every row, and whether errors grow
# (zero-stability). O-BELM has the highest order that two states allow. EDICT couples two
# DDIM sequences, at two evaluations per step.

# %%
family = {
    "O-BELM": sampler,
    "BDIA": ji.bdia(grid),
    "EDICT": ji.edict(grid),
}
if FAST:  # a program less to compile for each of these
    del family["BDIA"]
reference_steps = 16 if FAST else 200
reference_grid = ji.time_grid(pipe.schedule, reference_steps)
solution = ji.sample(ji.dpmpp_2m(reference_grid), denoise, noise)

for name, member in family.items():
    found = ji.invert(member, denoise, latent)
    back = ji.sample(member, denoise, found.state)
    sampled = ji.sample(member, denoise, noise)
    line = f"{name:7s} round trip {ji.nmse_db(back, latent):7.1f} dB"
    line += f", sampling error {ji.nmse_db(sampled, solution):6.1f} dB"
    line += f", {int(found.num_evals)} evaluations"
    if name != "EDICT":
        orders = np.asarray(analysis.row_orders(member))
        growth = analysis.zero_stability(member)
        line += f", order {int(orders[1:-1].min())}, growth {float(growth.growth):.3g}"
    print(line)

# %% [markdown]
# DDIM, inverted naively with the same number of evaluations, does not come back:

# %%
naive = ji.invert(ji.ddim(grid), denoise, latent, strategy="naive")
back_naive = ji.sample(ji.ddim(grid), denoise, naive.noise)
pictures = {
    "data": latent,
    "DDIM, naive": back_naive,
    "O-BELM": ji.sample(sampler, denoise, floats.state),
}
shown, errors = [], []
for name, z in pictures.items():
    off = ji.nmse_db(z, latent)
    shown.append(plotting.Tile(np.asarray(pipe.decode(z)), name))
    errors.append(
        None
        if name == "data"
        else plotting.Tile(
            plotting.difference_picture(pipe.decode(z), pipe.decode(latent), gain=5),
            "error x 5",
            f"{off:.1f} dB",
            bool(off < -40),
        )
    )
plotting.panel(
    [plotting.Row("there\nand back", shown), plotting.Row("", errors)],
    f"{STEPS} steps, {STEPS} evaluations each way",
)

# %% [markdown]
# ## Gradients in constant memory
#
# Because every state can be recomputed exactly from the next, reverse-mode gradients
# through `ji.sample(..., arithmetic="bits")` need the memory of a single step, however
# many there are.

# %%
few = ji.o_belm(ji.time_grid(pipe.schedule, 4 if FAST else 20))


@jax.jit
def brightness(noise):
    """Mean of what is sampled."""
    return jnp.mean(ji.sample(few, denoise, noise, arithmetic="bits"))


slope = jax.grad(brightness)(noise)
print("gradient of the brightness with respect to the noise:", slope.shape)

# %% [markdown]
# ## Between two pictures
#
# Two pictures of different things, inverted without a prompt, their states mixed with
# spherical weights. Both ends of the strip are the pictures themselves.

# %%
free = pipe.denoiser("")
apple = pipe.denoiser("red apple on a white background", guidance_scale=3.0)
other = ji.sample(ji.ddim(grid), apple, noise)
ends = [ji.invert(sampler, free, z).state for z in (latent, other)]
positions = jnp.linspace(0, 1, 4 if FAST else 8)
between = jax.lax.map(
    lambda t: ji.sample(sampler, free, ji.interpolate(*ends, t)), positions
)
for z, end in ((between[0], latent), (between[-1], other)):
    print(f"end of the strip: {ji.nmse_db(z, end):.1f} dB")
plotting.film_strip(
    [np.asarray(pipe.decode(z)) for z in between],
    "Between two pictures, on states of O-BELM",
    [f"{t:.2f}" for t in positions],
)

# %% [markdown]
# Next: [the decoder](04_decoder_inversion.ipynb), which stands between every latent and
# its picture.
