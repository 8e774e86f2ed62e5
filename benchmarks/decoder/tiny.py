r"""A real distilled autoencoder, on photographs.

A photograph's latent is what its encoder makes of it; what is inverted is that latent's
decoding, clipped and rounded to 8 bits. The reconstruction is the decoding beside the
photograph itself. Every method runs with its defaults, Gauss-Newton with 10 inner
iterations.

A distilled autoencoder is rough: its decoder can follow 8-bit noise, so that a better
misfit need not be a better latent.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import jaxinv as ji
from benchmarks.decoder.setting import Setting, pair
from benchmarks.report import body, table
from jaxinv.decoder_inversion import METHODS, GaussNewton
from weights_convert import load_taesd

TITLE = "A distilled autoencoder on photographs"
SIZES = (128, 256, 512)
# Of the photographs that are inverted.
SIZE = 128


def photographs(size: int) -> dict[str, Any]:
    """Square crops of the photographs that matplotlib and scikit-learn come with."""
    from matplotlib import cbook
    from sklearn.datasets import load_sample_images

    pictures = {"Hopper": cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)}
    opened = {name: Image.open(path) for name, path in pictures.items()}
    sample = load_sample_images()
    for name, pixels in zip(sample.filenames, sample.images, strict=True):
        opened[Path(name).stem] = Image.fromarray(pixels)
    found = {}
    for name, picture in opened.items():
        side = min(picture.size)
        left, top = ((n - side) // 2 for n in picture.size)
        square = picture.convert("RGB").crop((left, top, left + side, top + side))
        small = square.resize((size, size), Image.Resampling.LANCZOS)
        found[name] = np.asarray(small)
    return found


def load(folder: Path) -> Any:
    """From the original files."""
    files = [next(folder.glob(f"*{part}*.safetensors")) for part in ("enc", "dec")]
    return load_taesd(*files)


def encode(vae: Any, image: Any) -> Any:
    """Image in [0, 1] to latent."""
    return vae.encode(2 * image - 1)


def decode(vae: Any, latent: Any) -> Any:
    """And back, not clipped."""
    return (vae.decode(latent) + 1) / 2


def reconstruction(folder: Path) -> dict[str, dict[str, float]]:
    """PSNR of every photograph in every size."""
    vae = load(folder)
    again = jax.jit(lambda vae, x: jnp.clip(decode(vae, encode(vae, x)), 0, 1))
    found: dict[str, dict[str, float]] = {}
    for size in SIZES:
        for name, pixels in photographs(size).items():
            x = jnp.asarray(pixels, jnp.float32) / 255
            found.setdefault(name, {})[str(size)] = float(ji.psnr(again(vae, x), x))
    return found


def measure(folder: Path) -> dict[str, Any]:
    """Return all photographs by all methods."""
    vae = load(folder)
    photos = photographs(SIZE)
    floats = {name: jnp.asarray(p, jnp.float32) / 255 for name, p in photos.items()}
    latents = {name: jax.jit(encode)(vae, image) for name, image in floats.items()}
    decoded = {name: jax.jit(decode)(vae, z) for name, z in latents.items()}
    images = {
        name: jnp.round(255 * jnp.clip(x, 0, 1)).astype(jnp.uint8)
        for name, x in decoded.items()
    }
    found: dict[str, Any] = {"methods": {}}
    methods = {**METHODS, "gauss_newton": GaussNewton(inner=10)}
    for name, method in methods.items():

        @jax.jit
        def run(vae: Any, image: Any, method: Any = method) -> Any:
            return ji.invert_decoder(
                jax.tree_util.Partial(encode, vae),
                jax.tree_util.Partial(decode, vae),
                image,
                method,
            )

        cells: dict[str, Any] = {"nmse": [], "residual": [], "last": [], "steps": []}
        for photo in photos:
            result = run(vae, images[photo])
            n = int(result.iterations)
            cells["nmse"].append(float(ji.nmse_db(result.latent, latents[photo])))
            cells["residual"].append(255 * float(result.residual))
            cells["last"].append(255 * float(result.history[n]))
            cells["steps"].append(n)
        found["methods"][name] = cells
        print(f"tiny: {name} {cells}", flush=True)
    return found


def run(setting: Setting) -> str:
    """Return the table."""
    folder = setting.arguments.tiny
    found = setting.remembered("tiny", lambda: measure(folder))
    rows = [
        (
            name,
            pair(cells["nmse"]),
            f"{np.median(cells['residual']):.2f} / {np.max(cells['residual']):.2f}",
            f"{np.median(cells['last']):.2f} / {np.max(cells['last']):.2f}",
            f"{np.mean(cells['steps']):.0f}",
        )
        for name, cells in found["methods"].items()
    ]
    quality = setting.remembered("tiny, reconstruction", lambda: reconstruction(folder))
    listed = table(
        ("PSNR of the reconstruction, dB", *(f"{size}x{size}" for size in SIZES)),
        [
            (name, *(f"{psnr:.1f}" for psnr in cells.values()))
            for name, cells in quality.items()
        ],
    )
    header = (
        "method | latent NMSE, dB | misfit of the best iterate, grey levels | "
        "of the last | iterations"
    )
    return f"""{body(__doc__, 1)}

{listed}

Inverted in {SIZE}x{SIZE}:

{table(header, rows)}"""
