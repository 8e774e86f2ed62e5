"""BELM's tables at their smallest size."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.belm.frechet import frechet
from benchmarks.papers.__main__ import TABLES, measure
from benchmarks.papers.belm import features
from benchmarks.papers.belm.editing import target_of
from benchmarks.papers.belm.pictures import ROLES, real_picture
from benchmarks.papers.protocol import Found
from benchmarks.papers.setting import Setting
from benchmarks.papers.store import Store


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for k in range(3 * 16):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
        coarse.resize((40, 32)).save(folder / f"{k:02}.png")
    return Setting("emoji16", data=folder)


@pytest.fixture(scope="module")
def tiny(setting, diffusers_folder):
    return Setting(
        str(diffusers_folder), ("red cat on a wall", "dog"), data=setting.data
    )


def found(name, setting, folder, images=1, only=()):
    table = TABLES[name]
    store = Store.of(table, setting, folder, "command")
    result = measure(table, setting, store, images, only)
    return result, table.show(result)


def test_bidirectional_samplers_return_pictures_and_ddim_does_not(tiny, tmp_path):
    only = ["steps=10", "pictures=real", "sampler=DDIM,O-BELM", "inverse=naive,rows"]
    result, text = found("belm-reconstruction", tiny, tmp_path, only=only)
    (naive,) = result.of(sampler="DDIM")
    (rows,) = result.of(sampler="O-BELM", grid="linspace", arithmetic="float")
    (bits,) = result.of(sampler="O-BELM", arithmetic="bits")
    assert rows["latent"] < 1e-6 < naive["latent"] / 100
    assert bits["latent"] == 0
    assert rows["latent alone"] > 100 * rows["latent"]
    assert "real | O-BELM | log_snr | rows | bits | 1 | 0 |" in text


def test_quality_by_steps_has_a_floor_and_counts_too_few_pictures(setting, tmp_path):
    only = ["steps=0,10", "sampler=reference,floor,DDIM,O-BELM"]
    result, text = found("belm-generation", setting, tmp_path, 2, only)
    assert len(result.of(sampler="reference")[0]["thumbnails"]) == 8
    assert "(16 real pictures)" in text
    assert "O-BELM | linspace | 2 | too few pictures" in text


def test_the_distance_of_thumbnails_is_small_for_one_distribution_only():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 200, (300, 8, 12, 3), np.uint8)
    small = features.thumbnails([features.thumbnail(image) for image in images])
    blocks = images.reshape(300, 4, 2, 4, 3, 3).mean((2, 4)) / 255
    assert np.allclose(small, blocks.reshape(300, 48), atol=0.5 / 255)
    same, again = features.distance(small[:100], small[100:])
    axes = np.linalg.svd(small[100:] - small[100:].mean(0), full_matrices=False)[2]
    other, _ = features.distance(small[:100] + axes[0], small[100:])
    assert other - same == pytest.approx(1, rel=0.2)
    assert np.std(again) < same
    assert features.distance(small[: features.COMPONENTS], small) is None


def test_fid_of_a_local_network_is_the_frechet_distance_of_its_features(tmp_path):
    torch = pytest.importorskip("torch")

    class Network(torch.nn.Module):
        def forward(self, images: torch.Tensor, return_features: bool = False):
            return images.float().mean(3)[:, :, 0]

    path = tmp_path / features.INCEPTION_FILE
    torch.jit.script(Network()).save(str(path))
    network = features.inception_network(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    texts = [network(image) for image in images]
    values = images.astype(np.float32)[:, 0].mean(1).astype(np.float16)
    expected = frechet(values[:10].astype(float), values[10:].astype(float))
    assert features.fid(texts[:10], texts[10:]) == pytest.approx(expected, rel=1e-6)
    path.write_bytes(b"no network")
    with pytest.raises(ValueError, match="expected the TorchScript file inception"):
        features.inception_network(path)


def test_only_o_belm_is_exact_to_degree_two(setting, tmp_path):
    result, text = found("belm-coefficients", setting, tmp_path, only=["steps=10"])
    for cell, (measures,) in result.cells:
        assert measures["order"] == (2 if cell["sampler"] == "O-BELM" else 1)
    assert "order 2, roots 1, -1" in text


def test_a_small_gamma_makes_the_inverse_unstable(setting, tmp_path):
    only = ["steps=10", "sampler=BDIA(0.1),BDIA(1),O-BELM"]
    result, text = found("belm-parameters", setting, tmp_path, only=only)
    trips = {cell["sampler"]: m["round trip"] for cell, (m,) in result.cells}
    assert trips["BDIA(0.1)"] > 1e3 * trips["BDIA(1)"]
    assert all(m["quality"] < 1 for m in result.of())
    assert "BDIA(0.1) | linspace | 1 |" in text


def test_a_path_between_pictures_ends_in_them_if_the_sampler_is_exact(tiny):
    table = TABLES["belm-interpolation"]
    cell = {"ends": "pictures", "steps": 10}
    exact = table.measure(tiny, cell | {"sampler": "O-BELM"}, 0)
    naive = table.measure(tiny, cell | {"sampler": "DDIM"}, 0)
    assert exact["ends"] < 1e-6 < 1e-3 < naive["ends"]
    assert 0.1 <= exact["largest"] < 0.5


def test_roles_share_no_picture_and_a_small_folder_is_refused(setting):
    pictures = [real_picture(setting, role, 0).pixels for role in ROLES]
    assert pictures[0].shape == (16, 16, 3)
    assert len({picture.tobytes() for picture in pictures}) == len(ROLES)
    with pytest.raises(ValueError, match="has 48 pictures; picture 16"):
        real_picture(setting, "floor", 16)
    with pytest.raises(ValueError, match="as --data"):
        real_picture(Setting("emoji16"), "floor", 0)


def test_edits_keep_the_background_of_their_source():
    setting = Setting(prompts=("red cat on a blue wall", "dog on a sofa", "a tree"))
    assert target_of(setting, 0) == "dog on a blue wall"
    assert target_of(setting, 1) == "a tree"


def test_an_edit_whose_steps_are_all_frozen_returns_its_source(tiny):
    table = TABLES["belm-editing"]
    cell = {"sampler": "O-BELM", "inverse": "rows", "steps": 10}
    frozen = table.measure(tiny, cell | {"freeze": 10}, 0)
    free = table.measure(tiny, cell | {"freeze": 0}, 0)
    assert frozen["picture"] < free["picture"] / 100
    cells = [(cell | {"freeze": 0}, [free])]
    text = table.show(Found(cells, tiny))
    assert "O-BELM | rows | 10 | 0 | 1 |" in text
    assert len(table.draw(Found(cells, tiny)).axes) == 2
