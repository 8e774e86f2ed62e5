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
# # 8. How do I invert a model of my own?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxinv/jaxinv/blob/main/notebooks/08_your_own_model.ipynb)
#
# A model, for jaxinv, is any function `(x, t) -> f` on one sample: x the state, t the
# model's time, f the noise it predicts. No base class, no registry, no Flax needed. This
# notebook inverts a formula, a small network trained on the spot, and shows how weights
# from PyTorch come in.

# %%
# %matplotlib inline
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

if importlib.util.find_spec("jaxinv") is None:  # on Colab; on a TPU, [tpu]
    extra = "[cuda]" if shutil.which("nvidia-smi") else ""
    source = f"jaxinv{extra} @ git+https://github.com/jaxinv/jaxinv"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from matplotlib.figure import Figure
from safetensors.numpy import load_file, save_file

import jaxinv as ji

FAST = bool(os.environ.get("JAXINV_FAST"))  # fewer steps, for tests
STEPS = 10 if FAST else 20
COUNT = 100 if FAST else 600

# %% [markdown]
# ## A formula
#
# If the data are a mixture of Gaussians, the best possible noise prediction is known in
# closed form. Here are eight of them on a circle, in two dimensions, in which everything
# can be seen. The schedule says what t and the noise level have to do with one another:
# here that of Stable Diffusion.

# %%
schedule = ji.scaled_linear()
angles = jnp.arange(8) * jnp.pi / 4
means = 1.5 * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
spread = 0.15


def data_prediction(x, t):
    """The mean of the data, given a noisy state of the mixture."""
    times, log_levels = schedule.model_times, np.log(schedule.taus)
    tau = jnp.exp(jnp.interp(t, times, log_levels))
    y = x * jnp.sqrt(1 + tau**2)  # y = data + tau * noise
    variance = spread**2 + tau**2
    weights = jax.nn.softmax(-jnp.sum((y - means) ** 2, axis=1) / (2 * variance))
    shrunk = (spread**2 * y + tau**2 * means) / variance
    return weights @ shrunk


# It predicts data; samplers want noise. Other predictions: from_v, or as_denoiser.
formula = ji.from_x0(data_prediction, schedule)
sampler = ji.dpmpp_3m(ji.time_grid(schedule, STEPS))
noises = jax.random.normal(jax.random.key(0), (COUNT, 2))


def there_and_back(denoise):
    """Samples of the noises, and what two inverses find."""
    data = jax.vmap(lambda z: ji.sample(sampler, denoise, z))(noises)
    naive = jax.vmap(lambda x: ji.invert(sampler, denoise, x, strategy="naive"))(data)
    exact = jax.vmap(lambda x: ji.invert(sampler, denoise, x, strategy="trajectory"))(
        data
    )
    return data, naive, exact


def pictures(data, naive, exact, title):
    """Points coloured by the direction of their noise; arrows to where it was found."""
    colours = np.arctan2(noises[:, 1], noises[:, 0])
    figure = Figure(figsize=(11, 3.2), dpi=100, layout="constrained")
    axes = figure.subplots(1, 4)
    shown = {"noise": noises, "data": data}
    for ax, (name, points) in zip(axes[:2], shown.items(), strict=True):
        ax.scatter(*np.asarray(points).T, c=colours, cmap="hsv", s=4)
        ax.set_title(name)
    inverses = {"naive": naive, "exact": exact}
    for ax, (name, found) in zip(axes[2:], inverses.items(), strict=True):
        arrows = np.asarray(found.noise - noises).T
        ax.quiver(
            *np.asarray(noises).T, *arrows, colours, cmap="hsv", width=0.006,
            angles="xy", scale_units="xy", scale=1,
        )  # fmt: skip
        ax.set_title(f"error of the {name} inverse")
    for ax in axes:
        ax.set(aspect="equal", xlim=(-3.5, 3.5), ylim=(-3.5, 3.5))
    figure.suptitle(title, fontweight="bold")
    return figure


data, naive, exact = there_and_back(formula)
for name, found in (("naive", naive), ("exact", exact)):
    error = jnp.max(jnp.abs(found.noise - noises))
    print(f"{name}: largest error of all noises {error:.2g}")
print("converged:", int(exact.converged.sum()), "of", COUNT)
pictures(data, naive, exact, "DPM-Solver++(3M) on a mixture of eight Gaussians")

# %% [markdown]
# ## A network
#
# A Flax NNX module is a pytree that can be called, and so is a denoiser as it stands (an
# Equinox module, too; with other libraries, `jax.tree_util.Partial(apply, params)`).
# This one learns to predict the noise in the same data, in a few seconds.


# %%
class Network(nnx.Module):
    """Noise prediction for points of the plane."""

    def __init__(self, width, rngs):
        self.first = nnx.Linear(2 + 8, width, rngs=rngs)
        self.second = nnx.Linear(width, width, rngs=rngs)
        self.last = nnx.Linear(width, 2, rngs=rngs)

    def __call__(self, x, t):
        """A state and a time to a noise."""
        phases = t / 1000 * jnp.array([1.0, 3.0, 9.0, 27.0])
        features = jnp.concatenate([x, jnp.sin(phases), jnp.cos(phases)])
        hidden = jax.nn.silu(self.first(features))
        return self.last(jax.nn.silu(self.second(hidden)))


network = Network(128, nnx.Rngs(0))
optimizer = nnx.Optimizer(
    network, optax.adam(optax.cosine_decay_schedule(3e-3, 3000)), wrt=nnx.Param
)
times = jnp.asarray(schedule.model_times)
taus = jnp.asarray(schedule.taus)


@nnx.jit
def train(network, optimizer, key):
    """One step on a batch of 512."""
    which, where, level, what = jax.random.split(key, 4)
    clean = means[jax.random.randint(which, (512,), 0, 8)]
    clean += spread * jax.random.normal(where, (512, 2))
    k = jax.random.randint(level, (512,), 0, len(times))
    noise = jax.random.normal(what, (512, 2))
    x = (clean + taus[k, None] * noise) / jnp.sqrt(1 + taus[k, None] ** 2)

    def loss(network):
        return jnp.mean((jax.vmap(network)(x, times[k]) - noise) ** 2)

    value, gradient = nnx.value_and_grad(loss)(network)
    optimizer.update(network, gradient)
    return value


for key in jax.random.split(jax.random.key(1), 300 if FAST else 3000):
    value = train(network, optimizer, key)
print("loss", value)

data, naive, exact = there_and_back(network)
for name, found in (("naive", naive), ("exact", exact)):
    error = jnp.max(jnp.abs(found.noise - noises))
    print(f"{name}: largest error of all noises {error:.2g}")
print("converged:", int(exact.converged.sum()), "of", COUNT)
pictures(data, naive, exact, "DPM-Solver++(3M) on a network trained just now")

# %% [markdown]
# Where a network is steep, several noises lead to nearly one point, and `converged` and
# the residuals, not hope, say what was found.
#
# ## Weights from PyTorch
#
# PyTorch keeps a linear layer's weight as (out, in), Flax as (in, out); a convolution's as
# (out, in, h, w), against (h, w, in, out). For a model of your own that is all there is to
# it. Here a `state_dict`, saved as safetensors, becomes parameters.

# %%
folder = Path(tempfile.mkdtemp())
# Stands for torch: save_file(model.state_dict(), ...) from safetensors.torch.
layers = {"0": network.first, "1": network.second, "2": network.last}
state_dict = {}
for name, layer in layers.items():
    state_dict[f"{name}.weight"] = np.array(layer.kernel[...].T, order="C")
    state_dict[f"{name}.bias"] = np.asarray(layer.bias[...])
save_file(state_dict, folder / "model.safetensors")

stored = load_file(folder / "model.safetensors")
loaded = Network(128, nnx.Rngs(1))
for name, layer in {"0": loaded.first, "1": loaded.second, "2": loaded.last}.items():
    layer.kernel[...] = jnp.asarray(stored[f"{name}.weight"].T)
    layer.bias[...] = jnp.asarray(stored[f"{name}.bias"])
point = noises[0]
print("same outputs:", bool(jnp.allclose(loaded(point, 500.0), network(point, 500.0))))

# %% [markdown]
# For whole diffusion models this is done: Stable Diffusion 1.x and 2.x and everything of
# their architecture (a fine-tuned one, say) are loaded from diffusers' folders or hub names
# by `ji.load(folder)`, without PyTorch; `jaxinv convert folder out` keeps the result. Parts
# can be loaded one at a time.

# %%
from weights_convert import load_component

embedded = Path(ji.__file__).parent / "zoo" / "emoji64"
vae = load_component(embedded / "vae")
print(type(vae).__name__, "with", sum(x.size for x in jax.tree.leaves(vae)), "numbers")

# %% [markdown]
# Its own conditions (text, classes, depth) are filled in by `ji.conditioned(model, cond)`,
# guidance by `ji.guided(model, cond, uncond, scale)`, for any model `(x, t, cond)`.
#
# Back to [the first notebook](01_invert_an_image.ipynb).
