"""PIE-Bench: its layout is read strictly, its metrics are the published ones."""

import json
import shutil
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from scipy.ndimage import gaussian_filter

import jaxinv as ji
from benchmarks.pie import emoji, layout, masks, tables, weights
from benchmarks.pie.__main__ import arguments_of, main
from benchmarks.pie.inversions import INVERSIONS, invert, prepare
from benchmarks.pie.metrics import OF_PIXELS
from training.drawings import Drawings

SIDE = 32


def shapes(folder, icons):
    """Discs and squares of any color, in place of the drawings."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-32:32, -32:32]
    outlines = [np.hypot(x, y) < 30, np.maximum(abs(x), abs(y)) < 26]
    rgba = np.zeros((len(icons), 3, 64, 64, 4), np.uint8)
    for drawing in rgba.reshape(-1, 64, 64, 4):
        drawing[..., :3] = rng.integers(0, 256, 3)
        drawing[..., 3] = 255 * outlines[rng.integers(2)]
    return Drawings(tuple(icons), rgba)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of eight pictures, two of each type."""
    folder = tmp_path_factory.mktemp("pie") / "folder"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emoji, "read_drawings", shapes)
        words = ["--data", "unused", "--out", folder, "--each", 2, "--size", SIDE]
        emoji.main(list(map(str, words)))
    return folder


def entry_of(image, mask):
    return layout.Entry("name", "a.png", image, "disc", "square", "1", (), mask)


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_a_mask_is_what_its_runs_say(mask):
    runs = masks.encode(mask)
    assert np.array_equal(masks.decode(runs, mask.shape, border=False), mask)
    inner = masks.decode(runs, mask.shape)[1:-1, 1:-1]
    assert np.array_equal(inner, mask[1:-1, 1:-1])
    assert masks.decode(runs, mask.shape).sum() == inner.sum() + mask.size - inner.size


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 40),
    st.integers(0, 40),
)
def test_a_run_that_leaves_the_picture_is_refused(start, length):
    if start + length <= 30:
        masks.decode([start, length], (5, 6))
        return
    with pytest.raises(ValueError, match="leaves the picture of 6x5 = 30 pixels"):
        masks.decode([start, length], (5, 6))


def test_the_folder_of_emoji_is_of_the_layout_and_reproducible(
    made, tmp_path, monkeypatch
):
    entries, faults = layout.read_folder(made)
    assert len(entries) == 8
    assert not faults
    assert sorted(entry.kind for entry in entries) == sorted("66118899")
    mapping = json.loads((made / layout.MAPPING).read_text())
    for entry in entries:
        fields = mapping[entry.name]
        assert "[" in fields["original_prompt"]
        assert "[" not in entry.source + entry.target
        assert entry.source != entry.target
        assert 0.1 <= entry.mask.mean() <= 1
    monkeypatch.setattr(emoji, "read_drawings", shapes)
    words = ["--data", "unused", "--out", tmp_path / "again", "--each", "2"]
    emoji.main([*map(str, words), "--size", str(SIDE)])
    for entry, same in zip(
        entries, layout.read_folder(tmp_path / "again")[0], strict=True
    ):
        assert np.array_equal(entry.image, same.image)
        assert entry[1:2] + entry[3:7] == same[1:2] + same[3:7]


def _other_size(folder, fields):
    fields["mask_size"] = [SIDE, SIDE + 8]


def _no_picture(folder, fields):
    (folder / layout.IMAGES / fields["image_path"]).unlink()


def _damaged(folder, fields):
    (folder / layout.IMAGES / fields["image_path"]).write_bytes(b"\x89PNG\r\n")


FAULTS = {
    "no such image": _no_picture,
    "is not an image|is damaged": _damaged,
    "the mask is of size": _other_size,
    "leaves the picture": lambda folder, fields: fields["mask"].extend([1020, 9]),
    "pairs of whole numbers": lambda folder, fields: fields["mask"].append(1),
    "mask must be a list": lambda folder, fields: fields.update(mask="1 2"),
    "lacks mask": lambda folder, fields: fields.pop("mask"),
    "lacks editing_prompt": lambda folder, fields: fields.pop("editing_prompt"),
    "editing_type_id must be one of": lambda folder, fields: fields.update(
        editing_type_id="10"
    ),
    "original_prompt must be a text": lambda folder, fields: fields.update(
        original_prompt=3
    ),
    "leaves annotation_images": lambda folder, fields: fields.update(
        image_path="../mapping_file.json"
    ),
}


@settings(max_examples=15, deadline=None)
@given(st.dictionaries(st.integers(0, 7), st.sampled_from(sorted(FAULTS)), max_size=5))
def test_faulty_entries_are_one_line_each_and_the_rest_is_read(
    made, tmp_path_factory, wrong
):
    folder = tmp_path_factory.mktemp("faulty") / "folder"
    shutil.copytree(made, folder)
    mapping = json.loads((folder / layout.MAPPING).read_text())
    names = list(mapping)
    for place, fault in wrong.items():
        FAULTS[fault](folder, mapping[names[place]])
    (folder / layout.MAPPING).write_text(json.dumps(mapping))
    entries, faults = layout.read_folder(folder)
    kept = [name for place, name in enumerate(names) if place not in wrong]
    assert [entry.name for entry in entries] == kept
    for place, line in zip(sorted(wrong), faults, strict=True):
        assert line.startswith(f"{names[place]}: ")
        assert any(part in line for part in wrong[place].split("|"))
        assert "\n" not in line


def test_a_folder_of_another_kind_is_refused_with_what_was_expected(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    said = capsys.readouterr().err
    assert "mapping_file.json with an object of entries" in said


def test_types_take_turns(made):
    entries = layout.read_folder(made)[0]
    chosen = layout.balanced(entries[::-1], 6)
    assert {entry.kind for entry in chosen[:4]} == set("1689")
    assert len(chosen) == 6


@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_the_published_formulas(seed):
    rng = np.random.default_rng(seed)
    image, edited = rng.integers(0, 256, (2, 24, 20, 3), dtype=np.uint8)
    mask = rng.random((24, 20)) < 0.4
    found = {name: of(entry_of(image, mask), edited) for name, of in OF_PIXELS.items()}
    p, q = (np.float32(v) / 255 * ~mask[..., None] for v in (image, edited))
    mse = np.mean((p - q) ** 2)
    assert found["mse"] == pytest.approx(mse, rel=1e-5)
    assert found["psnr"] == pytest.approx(-10 * np.log10(mse), abs=1e-4)

    def blur(v):
        # 11 pixels: 5 to either side.
        return gaussian_filter(v, (1.5, 1.5, 0), mode="mirror", truncate=3.5)

    means = blur(p) * blur(q), blur(p) ** 2 + blur(q) ** 2
    covariance = blur(p * q) - means[0]
    variances = blur(p**2) + blur(q**2) - means[1]
    above = (2 * means[0] + 0.01**2) * (2 * covariance + 0.03**2)
    ssim = np.mean(above / ((means[1] + 0.01**2) * (variances + 0.03**2)))
    assert found["ssim"] == pytest.approx(ssim, abs=1e-5)


def test_psnr_of_a_known_difference():
    image = np.full((16, 16, 3), 100, np.uint8)
    mask = np.zeros((16, 16), bool)
    mask[:8] = True  # half is kept, and half of the difference counts
    found = OF_PIXELS["psnr"](entry_of(image, mask), image + np.uint8(51))
    assert found == pytest.approx(10 * np.log10(1 / (0.5 * 0.2**2)), abs=1e-4)


def test_undefined_and_infinite_values_are_counted_and_not_averaged():
    image = np.zeros((16, 16, 3), np.uint8)
    everything = entry_of(image, np.ones((16, 16), bool))
    assert all(of(everything, image) is None for of in OF_PIXELS.values())
    nothing = entry_of(image, np.zeros((16, 16), bool))
    assert OF_PIXELS["psnr"](nothing, image) == np.inf
    text = tables.mean([None, np.inf, 2.0, 2.0])
    assert text == "2.0 [2 of 4: 1 undefined, 1 infinite]"


def test_clip_similarity_is_of_the_target_prompt(diffusers_folder, tmp_path):
    import torch
    from transformers import (
        AutoTokenizer,
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPProcessor,
    )

    tokenizer = AutoTokenizer.from_pretrained(diffusers_folder / "tokenizer")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "projection_dim": 8}
    text = sizes | {"vocab_size": len(tokenizer), "max_position_embeddings": 77}
    vision = sizes | {"image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    )
    size = {"height": 32, "width": 32}
    shrink = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)
    model.save_pretrained(tmp_path)
    CLIPProcessor(shrink, tokenizer).save_pretrained(tmp_path)
    measures = weights.measures(None, tmp_path, None)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    mask = np.zeros((32, 32), bool)
    mask[:20, :12] = True
    entry = entry_of(image, mask)
    processor = CLIPProcessor.from_pretrained(tmp_path)

    def expected(pixels):
        inputs = processor(
            text=[entry.target], images=Image.fromarray(pixels), return_tensors="pt"
        )
        with torch.no_grad():
            logits = model.eval()(**inputs).logits_per_image / model.logit_scale.exp()
        return max(100 * float(logits), 0)

    assert measures["clip_whole"](entry, image) == pytest.approx(
        expected(image), abs=1e-3
    )
    region = image * np.uint8(mask)[..., None]
    assert measures["clip_edited"](entry, image) == pytest.approx(
        expected(region), abs=1e-3
    )
    nothing = entry_of(image, np.zeros_like(mask))
    assert measures["clip_edited"](nothing, image) is None


def test_structure_distance_is_that_of_the_keys(tmp_path):
    import torch
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    model = ViTModel(
        ViTConfig(
            hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=8, image_size=224, patch_size=56,
        ),
        add_pooling_layer=False,
    ).eval()  # fmt: skip
    model.save_pretrained(tmp_path)
    distance = weights.measures(None, None, tmp_path)["structure"]
    rng = np.random.default_rng(0)
    pair = rng.integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    entry = entry_of(pair[0], np.zeros((224, 224), bool))
    mean, std = np.float32(weights.MEAN), np.float32(weights.STD)

    def similarities(pixels):
        seen = torch.from_numpy((pixels - mean) / std).permute(2, 0, 1)[None]
        with torch.no_grad():
            states = model(seen, output_hidden_states=True).hidden_states[-2]
            layer = model.layers[-1]
            keys = layer.attention.k_proj(layer.layernorm_before(states))[0].numpy()
        keys /= np.linalg.norm(keys, axis=1, keepdims=True)
        return keys @ keys.T

    expected = np.mean((similarities(pair[0]) - similarities(pair[1])) ** 2)
    assert distance(entry, pair[1]) == pytest.approx(expected, rel=1e-3)
    assert distance(entry, pair[0]) == 0


def test_lpips_compares_the_kept_part_by_the_weights_of_the_folder(
    tmp_path, monkeypatch
):
    import torch

    # The packages need a torchvision that matches torch; what is tested is how their
    # parts are put together: layer 1 of the folder's network in the package's slice.
    class Whole(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.features = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1))

    class Package(torch.nn.Module):
        def __init__(self, net, pnet_rand, verbose):
            super().__init__()
            assert net == "squeeze"
            assert pnet_rand
            self.net = torch.nn.Module()
            self.net.slice1 = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1))

        def forward(self, first, second):
            assert first.min() >= -1
            assert first.max() <= 1
            return torch.mean((self.net.slice1(first) - self.net.slice1(second)) ** 2)

    models = SimpleNamespace(squeezenet1_1=lambda weights: Whole())
    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=Package))
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(models=models))
    whole = Whole()
    with torch.no_grad():
        whole.features[0].weight[:] = 2 * torch.eye(3)[..., None, None]
    torch.save(whole.state_dict(), tmp_path / weights.SQUEEZENET)
    distance = weights.measures(tmp_path, None, None)["lpips"]
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[:32] = True
    under, outside = image.copy(), image.copy()
    under[:32] = 0
    outside[32:] = 0
    assert distance(entry_of(image, mask), under) == 0
    # Twice the difference of the kept half, of pixels in [-1, 1].
    expected = np.mean((4 * np.float64(image[32:]) / 255) ** 2) / 2
    assert distance(entry_of(image, mask), outside) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("option", ["lpips", "clip", "dino"])
def test_folders_without_weights_are_refused(option, tmp_path):
    folders = dict.fromkeys(("lpips", "clip", "dino")) | {option: tmp_path}
    with pytest.raises(ValueError, match=f"--{option}: expected"):
        weights.measures(**folders)


def linear(x, t):
    return 0.5 * x


@pytest.mark.parametrize("name", INVERSIONS)
def test_every_inversion_leads_back_to_the_data(name):
    x0 = jax.random.normal(jax.random.key(0), (2, 2, 1))
    schedule = ji.scaled_linear()
    found = invert(prepare(name, schedule, 20), linear, x0, jax.random.key(0))
    again = ji.sample(found.sampler, linear, found.result.state)
    published = {"naive_ddim": -10, "algorithm_2": -20, "rf_solver": -30,
                 "fireflow": -30}  # fmt: skip
    # Approximations are not better than this, and exact inverses are.
    assert ji.nmse_db(again, x0) < published.get(name, -90)
    assert jnp.isfinite(found.result.state_reconstruction)
    levels = found.sampler.num_rows + 1
    assert found.result.trajectory.shape == (levels, *x0.shape)


def test_the_command_writes_pictures_and_a_table(
    made, diffusers_folder, tmp_path, capsys
):
    folder = tmp_path / "folder"
    shutil.copytree(made, folder)
    entries = layout.read_folder(folder)[0]
    (folder / layout.IMAGES / entries[0].path).unlink()
    cells, out = tmp_path / "cells.jsonl", tmp_path / "pie.md"
    words = [folder, "--model", diffusers_folder, "--images", 2, "--steps", 2]
    words += ["--inversions", "naive_ddim", "exact_ddim@2", "unheard"]
    words += ["--methods", "prompt_swap", "unheard_of", "--resume", cells]
    words += ["--out", out, "--pictures", tmp_path / "edited"]
    main([str(word) for word in words])
    text, said = out.read_text(), capsys.readouterr().err
    for line in (entries[0].name, "inversion 'unheard'", "method 'unheard_of'"):
        assert line in text
        assert line in said
    found = [json.loads(line)["found"] for line in cells.read_text().splitlines()]
    assert len(found) == 2 * (1 + 2)
    assert all(np.isfinite(score["mse"]) for score in found)
    assert text.count("| exact DDIM at 2 + prompt swap | 2 |") == 1
    assert text.count("no weights") == 4 * (3 + 3 * 2)
    edited = tmp_path / "edited/exact_ddim@2+prompt_swap" / layout.IMAGES
    written = {str(f.relative_to(edited)) for f in edited.rglob("*.png")}
    left = layout.balanced(layout.read_folder(folder)[0], 2)
    assert written == {entry.path for entry in left}
    assert out.with_suffix(".png").exists()
    before = cells.read_text()
    main([str(word) for word in words])
    assert cells.read_text() == before


def test_pictures_that_the_model_cannot_take_are_left_out():
    from benchmarks.pie.runs import Setting

    setting = SimpleNamespace(pipe=SimpleNamespace(factor=8), faults=[])
    entry = entry_of(np.zeros((20, 16, 3), np.uint8), np.zeros((20, 16), bool))
    assert not Setting.fits(setting, entry)
    assert setting.faults == ["name: the picture is 16x20; the model takes multiples "
                              "of 8"]  # fmt: skip


def test_whatever_changes_a_result_is_kept_with_it(made, diffusers_folder, monkeypatch):
    pipe = ji.load(diffusers_folder)
    monkeypatch.setattr(ji, "load", lambda model: pipe)
    changes = ["", "--decoder encoder", "--seed 1", "--steps 3", "--guidance 2"]
    changes += ["--inversion-guidance 2"]
    words = [str(made), "--model", str(diffusers_folder), "--inversions", "naive_ddim"]
    given = {
        json.dumps(arguments_of([*words, *change.split()]).setting.kept.given)
        for change in changes
    }
    assert len(given) == len(changes)
    fewer = arguments_of([*words, "--images", "1"]).setting.kept.given
    assert json.dumps(fewer) in given


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_edit_that_is_not_finite_has_failed(value, monkeypatch):
    from benchmarks.pie.runs import Edits

    entry = entry_of(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), bool))
    setting = SimpleNamespace(pipe=SimpleNamespace(decode=lambda latent: latent))
    monkeypatch.setattr(Edits, "edited", lambda self, cell: np.full((8, 8, 3), value))
    found = Edits(setting, entry).score(("exact_ddim", "prompt_swap"))
    assert found == {
        "fault": "name, exact_ddim+prompt_swap: the edited picture is not finite"
    }
