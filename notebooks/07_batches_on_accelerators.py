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
# business: `vmap` makes a batch, `shard_map` spreads it over a mesh, donation reuses
# buffers. This notebook inverts a batch in which every sample stops on its own
# certificate, spreads it over several devices, and shows that the results agree.

# %%
# %matplotlib inline
import functools
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
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

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
# `shard_map` runs the same program on every device, each on its share of the batch. The
# devices have nothing to tell one another: no step of one waits for another's, and
# the compiled program shows it, as it holds no collective operation at all. `donate_argnames`
# lets the results take the memory of the latents, which are gone then: a copy of them is
# given away here.

# %%
mesh = jax.make_mesh((jax.device_count(),), ("data",))
everywhere, shared_out = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))


@functools.partial(jax.jit, donate_argnames="latents")
@functools.partial(
    jax.shard_map,
    mesh=mesh,
    in_specs=(P(), P("data"), P("data")),
    out_specs=P("data"),
    check_vma=False,
)
def invert_everywhere(pipe, texts, latents):
    """A batch, spread over the mesh."""
    return jax.vmap(invert, batch)(pipe, texts, latents)


def give_away():
    """The latents on all devices, to be donated."""
    return jax.device_put(jnp.copy(latents), shared_out)


model = jax.device_put(pipe, everywhere)
spread_texts = jax.device_put(texts, shared_out)
compiled = invert_everywhere.lower(model, spread_texts, give_away()).compile()
program = compiled.as_text()
words = ("all-reduce", "all-gather", "all-to-all", "collective-permute")
print({word: program.count(word) for word in words})

spread = jax.block_until_ready(compiled(model, spread_texts, give_away()))
print(spread.noise.sharding)
difference = np.abs(np.asarray(spread.noise) - np.asarray(results.noise)).max()
print("against one device, at most:", difference)

# %% [markdown]
# ## How long does it take?
#
# Compiled once per shape and number of steps; a second call with other texts, guidance or
# pictures does not compile again. On this machine the virtual devices share the same cores,
# so that nothing is gained here: on real ones each works at its own full speed.

# %%
calls = {
    "vmap, one device": lambda: invert_batch(pipe, texts, latents),
    f"shard_map, {jax.device_count()} devices": lambda: compiled(
        model, spread_texts, give_away()
    ),
}
for name, call in calls.items():
    began = time.perf_counter()
    jax.block_until_ready(call())
    seconds = time.perf_counter() - began
    print(f"{name}: {BATCH / seconds:.2f} pictures per second")

# %% [markdown]
# ## Memory
#
# What a batch needs is known before it runs. Where it does not fit, `jax.lax.map` with
# `batch_size` runs it in pieces, with the same results.

# %%
whole = invert_batch.lower(pipe, texts, latents).compile().memory_analysis()
pieces = jax.jit(
    lambda pipe, texts, latents: jax.lax.map(
        lambda pair: invert(pipe, *pair), (texts, latents), batch_size=2
    )
)
small = pieces.lower(pipe, texts, latents).compile().memory_analysis()
for name, report in (("all at once", whole), ("two at a time", small)):
    print(f"{name}: {report.temp_size_in_bytes / 2**20:.0f} MiB beside the arguments")

# %% [markdown]
# Next: [your own model](08_your_own_model.ipynb).
