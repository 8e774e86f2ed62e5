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
# # 7. How does one invert many pictures at once?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxinv/jaxinv/blob/main/notebooks/07_batches_on_accelerators.ipynb)
#
# Everything in jaxinv is written for one sample. Batches, devices and memory are JAX's own
# business: `vmap` makes a batch, a mesh spreads it over devices. This notebook inverts a
# batch in which every sample stops on its own certificate, spreads it over several devices,
# then streams it through lanes that are refilled, and shows that the results agree.

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

# Without an accelerator: two virtual devices. With one, this changes nothing that matters.
jax.config.update("jax_num_cpu_devices", 2)

import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from jaxinv import plotting

# On a GPU or TPU: "stable-diffusion-v1-5/stable-diffusion-v1-5".
MODEL = os.environ.get("JAXINV_MODEL", "emoji64")
FAST = bool(os.environ.get("JAXINV_FAST"))  # fewer steps, for tests
STEPS = 8 if FAST else 20
# At least so many, and a multiple of the devices.
BATCH = jax.device_count() * -(-(4 if FAST else 8) // jax.device_count())
print(jax.devices())

# %% [markdown]
# ## A batch is `vmap`
#
# Prompts differ from sample to sample: their text vectors are arrays like all else.

# %%
pipe = ji.load(MODEL)
sampler = ji.ddim(ji.time_grid(pipe.schedule, STEPS))
things = ("red heart", "pizza", "dog face", "soccer ball", "red apple", "sun with face")
colours = ("white", "green", "blue", "yellow")
prompts = [
    f"{things[k % len(things)]} on a {colours[k % len(colours)]} background"
    for k in range(BATCH)
]
texts = jnp.stack([pipe.encode_prompt(prompt) for prompt in prompts])
empty = pipe.encode_prompt("")
noises = jax.random.normal(jax.random.key(6), (BATCH, *pipe.latent_shape))


def sample(pipe, text, noise):
    """One latent; the guidance differs, too, when one wants it to."""
    return ji.sample(sampler, pipe.denoiser(text, empty, 3.0), noise)


def invert(pipe, text, latent):
    """One noise with its certificate."""
    denoise = pipe.denoiser(text, empty, 3.0)
    return ji.invert(sampler, denoise, latent, strategy="stepwise")


batch = (None, 0, 0)  # the model is shared, texts and arrays have a batch axis
latents = jax.jit(jax.vmap(sample, batch))(pipe, texts, noises)
invert_batch = jax.jit(jax.vmap(invert, batch))
results = jax.block_until_ready(invert_batch(pipe, texts, latents))

errors = jax.vmap(ji.nmse_db)(results.noise, noises)
for k, prompt in enumerate(prompts):
    print(
        f"{prompt:36s} noise {errors[k]:7.1f} dB,"
        f" {int(results.num_evals[k]):4d} evaluations,"
        f" converged: {bool(results.converged[k])}"
    )

# %% [markdown]
# Each sample has its own number of evaluations: those that are done wait, unchanged, for
# the slowest. A NaN in one of them leaves the others as they are. The result of a batch is
# the result of a loop.

# %%
alone = jax.jit(invert)(pipe, texts[1], latents[1])
print(
    "the second one by itself, against the batch:",
    f"{ji.nmse_db(results.noise[1], alone.noise):.1f} dB",
)
plotting.panel(
    [
        plotting.Row(
            "noise found",
            [plotting.Tile(plotting.latent_picture(z), "") for z in results.noise[:6]],
        ),
        plotting.Row(
            "pictures",
            [
                plotting.Tile(np.asarray(pipe.decode(z)), prompt.split(" on")[0])
                for z, prompt in zip(latents[:6], prompts, strict=False)
            ],
        ),
    ],
    "A batch",
)

# %% [markdown]
# ## Many devices
#
# A mesh has an axis `data`, over which samples are spread. `ji.invert_batch` is the
# vmapped inverse on it: every device runs the same program on its share of the batch, and
# as each sample stops on its own certificate, the devices have nothing to tell one another:
# the program holds no collective operation at all. (Parameters that do not fit on one
# device are divided over a second axis, by `ji.make_mesh(2)` and
# `ji.load(..., sharding=mesh)`; bringing the parts together takes collectives, of course.)

# %%
model = pipe.conditional_denoiser()  # (x, t, condition) -> f
each = [pipe.condition(prompt, "", 3.0) for prompt in prompts]
conditions = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
mesh = ji.make_mesh()


def invert_everywhere():
    """A batch, spread over the mesh."""
    return ji.invert_batch(
        sampler, model, latents, conditions, mesh=mesh, strategy="stepwise"
    )


spread = jax.block_until_ready(invert_everywhere())
print(mesh)
print(spread.noise.sharding)
difference = np.abs(np.asarray(spread.noise) - np.asarray(results.noise)).max()
print("against one device, at most:", difference)

# %% [markdown]
# ## More pictures than fit
#
# A batch waits for its slowest sample. `ji.invert_stream` does not: it has a number of
# lanes, advances all of them by a few iterations at a time, hands out those that are done
# and refills their lanes, as servers of language models do. The samples may come from
# anywhere, one by one, and the results are those of a batch.

# %%
stream = ji.invert_stream(
    sampler,
    model,
    zip(latents, each, strict=True),
    conditional=True,
    lanes=jax.device_count(),
    mesh=mesh,
    strategy="stepwise",
)
streamed = dict(stream)
print("in the order in which they were done:", list(streamed))
worst = max(np.abs(streamed[k].noise - results.noise[k]).max() for k in streamed)
print("against one batch, at most:", worst)

# %% [markdown]
# From here it is one step to a data set: `jaxinv batch MANIFEST OUT` on the command line
# reads pictures, inverts decoder and sampler in lanes on all devices, writes noises and
# certificates, and goes on where it was if anything stops it; with `--distributed` on many
# hosts.
#
# ## How long does it take?
#
# Compiled once per shape and number of steps; a second call with other texts, guidance or
# pictures does not compile again. On this machine the virtual devices share the same cores,
# so that nothing is gained here: on real ones each works at its own full speed.

# %%
calls = {
    "vmap, one device": lambda: invert_batch(pipe, texts, latents),
    f"invert_batch, {jax.device_count()} devices": invert_everywhere,
}
for name, call in calls.items():
    began = time.perf_counter()
    jax.block_until_ready(call())
    seconds = time.perf_counter() - began
    print(f"{name}: {BATCH / seconds:.2f} pictures per second")

# %% [markdown]
# ## Memory
#
# What a batch needs is known before anything runs: XLA says it of the program that it
# compiled, from shapes alone. `ji.largest_batch` finds the largest batch that fits.

# %%
one = pipe.denoiser(prompts[0], "", 3.0)
for count in (1, BATCH, 64):
    needed = ji.predict_memory(
        sampler, one, pipe.latent_shape, batch=count, strategy="stepwise"
    )
    print(f"{count:3d} at a time: {needed}")
compiled = invert_batch.lower(pipe, texts, latents).compile().memory_analysis()
print(
    f"XLA, {BATCH} at a time: {compiled.temp_size_in_bytes / 2**20:.0f} MiB temporaries"
)

# %% [markdown]
# Next: [your own model](08_your_own_model.ipynb).
