"""Links in a model's folder are followed as far as they stay in it."""

import os
import random
import shutil
from pathlib import Path

import pytest

from jaxinv.files.folders import check_inside, files_below, model_root, read_regular


def as_folder(work: Path) -> tuple[Path, Path]:
    """A model's folder, and the folder that links may not leave."""
    return work / "model", work / "model"


def as_cache(work: Path) -> tuple[Path, Path]:
    root = work / "models--owner--name"
    (root / "blobs").mkdir(parents=True)
    return root / "snapshots" / "0123", root


def as_linked_folder(work: Path) -> tuple[Path, Path]:
    (work / "elsewhere").mkdir()
    (work / "model").symlink_to("elsewhere")
    return work / "model", work / "elsewhere"


LAYOUTS = (as_folder, as_cache, as_linked_folder)


@pytest.fixture(params=LAYOUTS, ids=lambda layout: layout.__name__)
def model(request, tmp_path):
    folder, root = request.param(tmp_path.resolve())
    (folder / "unet").mkdir(parents=True, exist_ok=True)
    (folder / "model_index.json").write_text("{}")
    (tmp_path / "secret").write_text("secret")
    return folder, root


def test_the_root_of_a_model_and_of_its_parts_is_one(model):
    folder, root = model
    assert model_root(folder) == model_root(folder / "unet") == root


@pytest.mark.parametrize("seed", range(20))
def test_a_link_counts_by_where_it_leads(model, seed):
    folder, root = model
    rng = random.Random(seed)
    inside = rng.random() < 0.5
    parts = [rng.choice(["a", "b", "blobs", "unet"]) for _ in range(rng.randrange(3))]
    place = root.joinpath(*parts) if inside else root.parent.joinpath("out", *parts)
    place.mkdir(parents=True, exist_ok=True)
    target = place / "content"
    target.write_text("content")
    for hop in range(rng.randrange(3)):  # links to links
        link = rng.choice([root, root.parent]) / f"hop{hop}"
        link.symlink_to(target)
        target = link
    link = folder / "unet" / "weights"
    relative = os.path.relpath(target, link.parent.resolve())
    link.symlink_to(rng.choice([target, Path(relative)]))
    if inside:
        assert read_regular(link, 100, root) == b"content"
        assert link in files_below(folder / "unet", root)
    else:
        with pytest.raises(ValueError, match="leads out of the model's folder"):
            read_regular(link, 100, root)
        with pytest.raises(ValueError, match="leads out of the model's folder"):
            list(files_below(folder / "unet", root))


def test_a_part_that_is_a_link_out_is_refused(model):
    folder, root = model
    shutil.rmtree(folder / "unet")
    (folder / "unet").symlink_to(root.parent)
    with pytest.raises(ValueError, match="leads out"):
        check_inside(folder / "unet" / "secret", root)


def test_a_folder_that_contains_itself_ends(model):
    folder, root = model
    (folder / "unet" / "again").symlink_to(folder)
    with pytest.raises(ValueError, match="a folder that contains it"):
        list(files_below(folder, root))
