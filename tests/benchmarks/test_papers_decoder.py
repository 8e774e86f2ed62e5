"""The tables of "Gradient-free Decoder Inversion", each at its smallest size."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxinv as ji
from benchmarks.papers.__main__ import TABLES, measure
from benchmarks.papers.decoder import cocoercivity, edits, pictures
from benchmarks.papers.decoder.iterates import iterates
from benchmarks.papers.decoder.watermarks import confusion, show
from benchmarks.papers.protocol import Found
from benchmarks.papers.setting import Setting
from benchmarks.papers.store import Store
from jaxinv.decoder_inversion import ForwardStep, InertialKM
from jaxinv.pipeline import latents


@pytest.fixture(scope="module")
def setting(diffusers_folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "STEPS", 2)
        yield Setting(str(diffusers_folder), prompts=("red cat", "a dog on grass"))


def run(setting, folder, name, *only):
    """Measure some cells of one image, and return them with their text."""
    table = TABLES[name]
    store = Store.of(table, setting, folder, "command")
    found = measure(table, setting, store, 1, only)
    return found, table.show(found)


def there_and_back(pipe, z):
    """Return E(D(z)), without clipping."""
    return latents.encode(pipe.vae, latents.decode(pipe.vae, z))


def test_the_error_is_that_of_the_last_iterate(setting, tmp_path):
    found, text = run(
        setting, tmp_path, "decoder-table-s1",
        "method=encoder,gradient 0.01 fixed,Anderson", "iterations=0,20",
    )  # fmt: skip
    ((first,), (fixed,), (mixed,)) = (x for _, x in found.cells)
    shown = pictures.picture(setting, 0)
    encoded = ji.nmse_db(setting.pipe.encode(shown.pixels), shown.latent)
    assert first["nmse"] == pytest.approx(float(encoded), abs=1e-3)
    # A reverse pass keeps what a forward pass forgets.
    assert fixed["bytes"] > mixed["bytes"]
    assert "| gradient 0.01 fixed | - | - |" in text
    drawn = TABLES["decoder-table-s1"].draw(found)
    assert len(drawn.axes[0].lines) == 3


def test_inertial_iterates_are_those_of_the_paper(setting):
    pipe, step, momentum = setting.pipe, 0.5, 0.4
    shown = pictures.picture(setting, 0)

    def descended(z):
        return z - step * (there_and_back(pipe, z) - first)

    first = latents.encode(pipe.vae, shown.pixels)
    once = descended(first)
    found = iterates(pipe.vae, shown.pixels, InertialKM(step, momentum), 2)
    twice = descended(once + momentum * (once - first))
    np.testing.assert_allclose(found, [first, once, twice], atol=1e-5)


def test_ablations_are_in_their_tables(setting, tmp_path):
    found, text = run(
        setting, tmp_path, "decoder-table-s2",
        "method=forward step,Adam 0.01 without warm-up", "iterations=20",
    )  # fmt: skip
    ours = text.index("not in the paper")
    assert text.index("| forward step |") < ours
    assert text.index("| Adam 0.01 without warm-up |") > ours
    assert all(np.isfinite(x["nmse"]) for _, xs in found.cells for x in xs)


def test_the_quotient_is_that_of_the_definition(setting):
    pipe, shown = setting.pipe, pictures.picture(setting, 0)
    method = ForwardStep(0.5)
    found = cocoercivity.along(
        pipe.vae, shown.pixels, shown.latent, method, count=5, last=7
    )
    z = [latents.encode(pipe.vae, shown.pixels)]
    for _ in range(7):
        z.append(z[-1] - 0.5 * (there_and_back(pipe, z[-1]) - z[0]))
    moved = {k: there_and_back(pipe, z[k]) for k in (0, 5, 7)}
    quotients = [
        jnp.sum((moved[7] - moved[k]) * (z[7] - z[k]))
        / jnp.sum((moved[7] - moved[k]) ** 2)
        for k in (0, 5)
    ]
    assert float(found["cocoercivity"]) == pytest.approx(
        float(min(quotients)), rel=1e-3
    )
    distance = jnp.linalg.norm(z[5] - z[7])
    assert float(found["distance"]) == pytest.approx(float(distance), rel=1e-3)


@pytest.mark.parametrize("figure", ["2", "5", "S3"])
def test_figures_of_cocoercivity_draw_what_was_measured(figure):
    rng, names = np.random.default_rng(0), [*cocoercivity.FIGURES[figure]]
    keys = ("cocoercivity", "distance", "nmse", "first")
    images = [dict(zip(keys, rng.normal(size=4), strict=True)) for _ in range(4)]
    images[0]["cocoercivity"] = -1.0
    for image in images[1:]:
        image["cocoercivity"] = abs(image["cocoercivity"])
    found = Found([({"method": name}, images) for name in names], Setting())
    table = TABLES[f"decoder-figure-{figure.lower()}"]
    assert table.show(found).count("75 % (30 to 95)") == len(names)
    scatters = [ax for ax in table.draw(found).axes if ax.get_title()]
    assert [len(ax.collections[0].get_offsets()) for ax in scatters] == [4] * len(names)


def test_the_gradient_needs_more_memory_and_full_size_is_a_model(setting, tmp_path):
    found, text = run(setting, tmp_path, "decoder-figure-3", "bits=32")
    ((gradient,), (free,)) = (x for _, x in found.cells)
    assert gradient["bytes"] > free["bytes"]
    assert gradient["weights"] == free["weights"]
    assert f"| {setting.label} | - | gradient-free | 32 | 1 |" in text
    full = Setting("sd-autoencoders")
    networks = {cell["network"] for cell in TABLES["decoder-figure-3"].cells(full)}
    assert networks == {"SD 2.1, InstaFlow", "LaVie"}
    assert not TABLES["decoder-figure-3"].refuse(full.pipe)
    for name in TABLES:
        if name.startswith("decoder") and name != "decoder-figure-3":
            assert TABLES[name].refuse(full.pipe) == "it has no autoencoder"


def test_true_latents_and_exact_inversion_recover_the_keys(setting, tmp_path):
    found, text = run(
        setting, tmp_path, "decoder-table-2",
        "protocol=centered exact", "source=true latent", "key=0,2",
    )  # fmt: skip
    (unmarked,), (second,) = (x for _, x in found.cells)
    assert second["noise"] < -60
    assert int(np.argmin(second["distances"])) == 1
    assert second["distances"][1] < 1e-2 < min(unmarked["distances"])
    assert (
        "| true latent | 1 | 100 % (21 to 100) | 0 0 0 / 0 1 0 / 0 0 0 | 1.000 |"
        in text
    )


def test_confusion_counts_the_nearest_key():
    nan = float("nan")
    numbers = {"noise": 0.0, "latent": 0.0}
    distances = {0: [[3.0, 3, 3]], 1: [[2.0, 1, 3], [1.0, 2, 3]], 2: [[nan] * 3], 3: []}
    cells = [
        (
            {"protocol": "published", "source": "encoder", "key": key},
            [{**numbers, "distances": d} for d in found],
        )
        for key, found in distances.items()
    ]
    found = Found(cells, Setting())
    expected = [[1, 1, 0], [0, 0, 0], [0, 0, 0]]
    np.testing.assert_array_equal(confusion(found, "published", "encoder"), expected)
    assert "| encoder | 3 | 33 % (6 to 79) |" in show(found)


def test_the_background_is_as_near_as_the_latent(setting, tmp_path):
    found, text = run(setting, tmp_path, "decoder-figure-4", "latent=oracle,encoder")
    ((oracle,), (encoder,)) = (x for _, x in found.cells)
    assert oracle["latent"] is None
    assert 0 < oracle["kept"] < 1
    # The picture has 8 bits; the oracle's states end in the true latent.
    assert oracle["background"] < min(encoder["background"], -40)
    assert edits.target_of(setting, 1) == "red cat on grass"
    assert "| oracle |" in text
