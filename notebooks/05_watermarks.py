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
# # 5. Was this picture made by my model?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxinv/jaxinv/blob/main/notebooks/05_watermarks.ipynb)
#
# A watermark in the *noise* puts nothing on top of a picture: the picture is a sample like
# any other. Whoever has the key inverts the picture and
# looks for it in the noise, so detection is as good as the inversion. This notebook marks
# pictures in two ways, finds the marks again, hides a text, and attacks the pictures.

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
from jaxinv.apps import watermark
from jaxinv.apps.attacks import ATTACKS

# On a GPU or TPU: "stable-diffusion-v1-5/stable-diffusion-v1-5".
MODEL = os.environ.get("JAXINV_MODEL", "emoji64")
FAST = bool(os.environ.get("JAXINV_FAST"))  # fewer steps, for tests
STEPS = 8 if FAST else 20
PROMPT = "red heart on a light blue background"
GUIDANCE = 3.0
# Exact, all steps together; bounded, for pictures that no noise leads to any more.
CHUNK = None if MODEL == "emoji64" else 4  # noise levels at a time, for large models
EXACT = ji.Trajectory(max_sweeps=10 if FAST else 30, chunk=CHUNK)

# %% [markdown]
# ## Tree-Ring
#
# The low frequencies of one channel of the noise are replaced by random values, or by
# rings of them (Wen et al. 2023). The published radius is 10 for latents of 64x64; the
# same share of smaller ones, rounded up, is used here. So small a disc has only three
# rings, and three numbers prove little: every frequency gets a value of its own.

# %%
pipe = ji.load(MODEL)
sampler = ji.dpmpp_2m(ji.time_grid(pipe.schedule, STEPS))
denoise = pipe.denoiser(PROMPT, guidance_scale=GUIDANCE)
radius = int(np.ceil(10 / 64 * min(pipe.latent_shape[:2])))
key = watermark.tree_ring_key(
    jax.random.key(0), pipe.latent_shape, radius=radius, pattern="random"
)

plain = jax.random.normal(jax.random.key(1), pipe.latent_shape)
marked = key.embed(plain)
pictures = {
    name: np.asarray(jnp.round(255 * pipe.generate(sampler, denoise, z)), np.uint8)
    for name, z in (("plain", plain), ("marked", marked))
}
plotting.panel(
    [plotting.Row("", [plotting.Tile(p, name) for name, p in pictures.items()])],
    "One of these is marked",
)

# %% [markdown]
# `detect` goes the whole way: decoder inversion, sampler inversion, statistic. The
# p-value is the probability that another key comes as near to the noise that was found.
# The prompt is known here; without it, see the last section.

# %%
inverses = {
    "naive, encoder": {"decoder": "encoder", "strategy": "naive"},
    "exact, decoder": {"decoder": "anderson", "strategy": EXACT},
}
noises = {"the true noise": marked}
for name, options in inverses.items():
    for which, picture in pictures.items():
        found = watermark.detect(
            pipe,
            key,
            picture,
            sampler,
            prompt=PROMPT,
            guidance_scale=GUIDANCE,
            **options,
        )
        p = float(watermark.p_value(found.score))
        print(f"{name}: {which:6s} picture, p = {p:.2g}")
        if which == "marked":
            noises[name] = found.inversion.noise

# %%
plotting.spectra(
    {name: z[..., key.channel] for name, z in noises.items()},
    radius,
    "Fourier coefficients of the marked channel; the key is in the circle",
)

# %% [markdown]
# ## Whose is it?
#
# Three owners, three keys: the nearest one is named. Everything is a pure function of
# one noise, so that many pictures are `jax.vmap`, or `jax.lax.map`, some at a time.

# %%
owners = [
    watermark.tree_ring_key(jax.random.key(100 + k), pipe.latent_shape, radius=radius)
    for k in range(3)
]
each = 1 if FAST else 4
seeds = jax.random.split(jax.random.key(2), 3 * each)
labels = np.repeat(np.arange(3), each)
drawn = jnp.stack(
    [
        owners[k].embed(jax.random.normal(seed, pipe.latent_shape))
        for k, seed in zip(labels, seeds, strict=True)
    ]
)
made = jax.lax.map(
    lambda z: pipe.decode(ji.sample(sampler, denoise, z)), drawn, batch_size=each
)
made = jnp.round(255 * made) / 255
matrices = {}
for name, options in inverses.items():

    def whole_way(picture, options=options):
        """From a picture to its noise."""
        latent = pipe.invert_decoder(picture, options["decoder"]).latent
        found = ji.invert(sampler, denoise, latent, strategy=options["strategy"])
        return found.noise

    inverted = jax.lax.map(whole_way, made, batch_size=each)
    distances = jax.vmap(lambda z: watermark.classify(owners, z))(inverted)
    nearest = np.asarray(distances.argmin(axis=1))
    matrices[name] = np.zeros((3, 3), int)
    np.add.at(matrices[name], (labels, nearest), 1)
plotting.confusion_matrices(matrices, "Which key is it?")

# %% [markdown]
# A dozen pictures of one kind show how it works. How *well* it works differs from prompt to
# prompt: `python -m benchmarks.watermark` measures that. Two ring keys of so small a radius
# are much alike: the nearest is told by distance, not by its p-value.

# %% [markdown]
# ## A text in the noise
#
# Gaussian Shading (Yang et al. 2024) writes bits, each many times, encrypted, as the signs
# of the noise. Its noise is distributed as any other: without the secret there is nothing
# to be seen. Here the bits are eight letters.

# %%
text = "jaxinv! "
message = np.unpackbits(np.frombuffer(text.encode(), np.uint8))
size = int(np.prod(pipe.latent_shape)) // len(message)
side = int(size**0.5)
shading = watermark.gaussian_shading_key(
    pipe.latent_shape, blocks=(side, side, 1), message=message
)
hidden = shading.embed(plain)
picture = np.asarray(jnp.round(255 * pipe.generate(sampler, denoise, hidden)), np.uint8)
found = watermark.detect(
    pipe,
    shading,
    picture,
    sampler,
    prompt=PROMPT,
    guidance_scale=GUIDANCE,
    strategy=EXACT,
)
read = np.packbits(np.asarray(found.score.bits)).tobytes().decode(errors="replace")
matches = int(found.score.matches)
print(f"read: {read!r}, {matches} of {len(message)} bits")
print("by chance:", watermark.false_positive_rate(matches, len(message)))

# %% [markdown]
# ## Attacks
#
# What a picture goes through before somebody looks. An attacked picture is no longer one
# that this sampler makes, and no inverse gives back what is gone. A Tree-Ring asks few
# numbers (low frequencies, in which pictures have their energy, too); Gaussian Shading
# asks all of them, for one sign each, and takes majorities.

# %%
rows = {"Tree-Ring": (key, pictures["marked"]), "Gaussian\nShading": (shading, picture)}
tiles = {which: [] for which in rows}
names = ("none", "JPEG 75", "noise 0.05", "blur 1", "rotation 5", "brightness 1.3")
for name in names[:2] if FAST else names:
    for which, (mark, whole) in rows.items():
        attacked = ATTACKS[name](whole)
        found = watermark.detect(
            pipe,
            mark,
            attacked,
            sampler,
            prompt=PROMPT,
            guidance_scale=GUIDANCE,
            strategy=EXACT,
        )
        if mark is key:
            chance = float(watermark.p_value(found.score))
            caption = f"p = {chance:.1g}"
        else:
            matches = int(found.score.matches)
            chance = float(watermark.false_positive_rate(matches, len(message)))
            caption = f"{matches} bits, {chance:.1g}"
        tiles[which].append(plotting.Tile(attacked, name, caption, chance < 1e-3))
plotting.panel(
    [plotting.Row(which, shown) for which, shown in tiles.items()],
    "After attacks: how likely by chance",
)

# %% [markdown]
# ## If the prompt is not known
#
# Then the empty prompt without guidance is the usual guess. The further the picture's
# guidance was from that, the less is found.

# %%
for guidance in (1.0, 3.0):
    model = pipe.denoiser(PROMPT, guidance_scale=guidance)
    picture = np.asarray(
        jnp.round(255 * pipe.generate(sampler, model, marked)), np.uint8
    )
    found = watermark.detect(pipe, key, picture, sampler, strategy=EXACT)
    p = float(watermark.p_value(found.score))
    print(f"made at guidance {guidance}, prompt not known: p = {p:.2g}")

# %% [markdown]
# Keys are files: `watermark.write_key` makes them readable for their owner only and never
# overwrites one; on the command line all of this is `jaxinv watermark embed`, `detect` and
# `classify`.
#
# Next: [editing](06_editing_and_interpolation.ipynb).
