"""The pure pieces of training: drawings, scenes, captions, controllers, optimizer."""

import json

import numpy as np
import pytest
import torch

from training import (
    backgrounds,
    captions,
    control,
    drawings,
    optimizer,
    placements,
    scenes,
    text_gain,
)
from training.folds import BOUND, GUIDANCE, fold_penalty

CENTERED = placements.Placement(0.75, 0.5, 0.5, 0.0, mirrored=False)
NO_LIGHT = np.zeros((1, 1, 1), np.float32)


def square(side=128):
    """A red left half and a blue right half, opaque."""
    rgba = np.zeros((side, side, 4), np.uint8)
    rgba[:, : side // 2] = (255, 0, 0, 255)
    rgba[:, side // 2 :] = (0, 0, 255, 255)
    return rgba


def test_every_kind_has_phrases_and_none_is_held_out():
    assert all(drawings.phrases(kind) for kind in drawings.KINDS)
    assert drawings.phrases("red-heart")[0] == "red heart"
    assert not set(drawings.KINDS) & set(drawings.HELD_OUT)
    assert set(drawings.NOT_MIRRORED) <= set(drawings.KINDS)


def test_crop_is_the_square_around_what_is_drawn():
    rgba = np.zeros((40, 40, 4), np.uint8)
    rgba[10:20, 4:34, 3] = 255
    assert drawings.crop_to_square(rgba) == (4, 0, 34, 30)


def test_icons_and_their_aliases_are_read_from_the_packages(tmp_path):
    pytest.importorskip("resvg_py")
    body = '<rect x="4" y="4" width="8" height="8" fill="#ff0000"/>'
    pack = {
        "icons": {"box": {"body": body}},
        "aliases": {"crate": {"parent": "box"}},
        "width": 16,
        "height": 16,
    }
    for style in drawings.STYLES:
        folder = tmp_path / style / "package"
        folder.mkdir(parents=True)
        (folder / "icons.json").write_text(json.dumps(pack))
    read = drawings.read_drawings(tmp_path, ("crate",))
    side = drawings.RESOLUTION
    assert read.rgba.shape == (1, len(drawings.STYLES), side, side, 4)
    np.testing.assert_array_equal(read.rgba[0, 0, 64, 64], [255, 0, 0, 255])


def test_missing_package_names_the_command_that_fetches_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="npm pack @iconify-json/noto"):
        drawings.read_drawings(tmp_path, ("pizza",))


def test_placed_drawing_has_the_size_and_the_center_asked_for():
    where = placements.Placement(0.5, 0.3, 0.6, 0.0, mirrored=False)
    placed = placements.place(square(), where)
    alpha = placed[..., 3]
    assert alpha.sum() / 64**2 == pytest.approx(0.25, rel=0.02)
    rows, columns = np.indices(alpha.shape) + 0.5
    assert (columns * alpha).sum() / alpha.sum() / 64 == pytest.approx(0.3, abs=0.01)
    assert (rows * alpha).sum() / alpha.sum() / 64 == pytest.approx(0.6, abs=0.01)


def test_mirrored_drawing_is_the_mirror_image():
    plain = placements.place(square(), CENTERED)
    mirrored = placements.place(square(), CENTERED._replace(mirrored=True))
    np.testing.assert_allclose(mirrored, plain[:, ::-1], atol=1 / 255)


def test_turn_is_counterclockwise():
    rgba = np.zeros((128, 128, 4), np.uint8)
    rgba[60:68, 64:] = 255  # a hand that points to the right
    placed = placements.place(rgba, CENTERED._replace(turn=90.0))
    rows, columns = np.nonzero(placed[..., 3] > 0.5)
    assert rows.max() <= 32
    assert abs(columns.mean() - 31.5) < 1


def test_random_placements_stay_inside_of_the_picture():
    rng = np.random.default_rng(0)
    drawn = [placements.random_placement(rng, may_mirror=False) for _ in range(500)]
    for p in drawn:
        assert p.size / 2 <= min(p.x, p.y, 1 - p.x, 1 - p.y)
        assert not p.mirrored
    sizes = [p.size for p in drawn]
    assert min(sizes) < 0.55
    assert max(sizes) > 0.9


def test_opaque_pixels_hide_the_background_and_grain_falls_on_both():
    rng = np.random.default_rng(0)
    rgba = np.zeros((64, 64, 4), np.float32)
    rgba[:32] = (0.5, 0.5, 0.5, 1.0)
    background = np.full((64, 64, 3), 0.3, np.float32)
    image = backgrounds.composite(rgba, background, NO_LIGHT, rng)
    for half, mean in ((image[:32], 0.5), (image[32:], 0.3)):
        # 6,144 samples: the std is known to about 1 %.
        assert half.std() == pytest.approx(backgrounds.GRAIN_STD, rel=0.05)
        assert half.mean() == pytest.approx(mean, abs=1e-3)


def test_gradient_runs_from_the_first_named_color_to_the_second():
    rng = np.random.default_rng(1)
    drawn = [backgrounds.random_background(rng, 16, 1.0, 0.0) for _ in range(400)]
    for corner, which in (((0, 0), 0), ((-1, -1), 1)):
        named = [d.words.removesuffix(" gradient").split(" to ")[which] for d in drawn]
        off = [
            d.pixels[corner] - backgrounds.COLORS[n]
            for d, n in zip(drawn, named, strict=True)
        ]
        # A color is a region: 400 corners have its mean; clipping pulls a little.
        np.testing.assert_allclose(np.mean(off, 0), 0.0, atol=0.02)


def test_caption_names_kind_and_background_in_this_order():
    rng = np.random.default_rng(2)
    texts = {
        captions.caption("pizza", "noto", CENTERED, "orange", rng, background_share=1)
        for _ in range(50)
    }
    assert all("pizza" in text for text in texts)
    assert all(text.endswith("on an orange background") for text in texts)
    assert any("in noto style" in text for text in texts)


def test_half_of_the_captions_leave_the_background_open():
    rng = np.random.default_rng(3)
    texts = [
        captions.caption("sun", "fluent", CENTERED, "red", rng) for _ in range(2000)
    ]
    share = np.mean(["background" in text for text in texts])
    # Three standard deviations of a binomial share.
    assert share == pytest.approx(captions.BACKGROUND_SHARE, abs=3 * 0.5 / 2000**0.5)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (0.3, 0.3, "at the top left"),
        (0.5, 0.7, "at the bottom"),
        (0.7, 0.5, "at the right"),
        (0.5, 0.5, ""),
    ],
)
def test_place_is_named_away_from_the_middle_only(x, y, words):
    assert captions.place_phrase(x, y) == words


def test_scene_is_reproducible_from_its_generator():
    rgba = np.stack([square()] * len(drawings.STYLES))[None]
    known = drawings.Drawings(("pizza",), rgba)
    first, second = (
        scenes.random_scene(np.random.default_rng(4), known) for _ in range(2)
    )
    np.testing.assert_array_equal(first.image, second.image)
    assert first.placement == second.placement
    assert first.image.shape == (64, 64, 3)
    assert 0 <= first.image.min() <= first.image.max() <= 1


class CrossAttention(torch.nn.Module):
    """The mean of a context, through a linear layer, added to every position."""

    def __init__(self):
        super().__init__()
        self.to_out = torch.nn.ModuleList([torch.nn.Linear(4, 4)])

    def forward(self, context):
        return self.to_out[0](context.mean(1, keepdim=True))


class Texted(torch.nn.Module):
    """A noise predictor with one cross-attention and nothing else."""

    def __init__(self):
        super().__init__()
        self.unet = torch.nn.Module()
        self.unet.attn2 = CrossAttention()
        self.embed = torch.nn.Embedding(5, 4)

    def forward(self, noisy, timesteps, ids):
        return noisy + self.unet.attn2(self.embed(ids)).mT[..., None]


def test_weaker_text_leaves_the_empty_prompt_and_scales_the_difference():
    torch.manual_seed(0)
    model = Texted()
    latents, time = torch.randn(3, 4, 2, 2), torch.zeros(3)
    empty, prompt = torch.tensor([0, 0, 0]), torch.tensor([1, 2, 3])
    before = [model(latents, time, ids.expand(3, -1)) for ids in (empty, prompt)]
    text_gain.weaken_text(model, 0.7, latents, empty, torch.linspace(1, 0, 1000))
    after = [model(latents, time, ids.expand(3, -1)) for ids in (empty, prompt)]
    torch.testing.assert_close(after[0], before[0])
    torch.testing.assert_close(after[1] - after[0], 0.7 * (before[1] - before[0]))


def test_learning_rate_peaks_after_warmup_and_ends_at_zero():
    rates = [control.learning_rate(t, 100.0, 1.0, 10.0) for t in range(101)]
    assert max(rates) == rates[10] == 1.0
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    assert all(np.diff(rates[10:]) <= 0)


def test_ratio_controller_finds_the_weight_of_a_simple_plant():
    # A posterior whose width grows like the square root of the weight.
    controller = control.RatioController(target=0.1, weight=1e-3)
    for _ in range(2000):
        ratio = np.sqrt(controller.weight)
        controller.update(ratio)
    assert np.sqrt(controller.weight) == pytest.approx(0.1, rel=0.02)


def test_ema_of_a_constant_is_that_constant():
    layer = torch.nn.Linear(3, 2)
    ema = control.Ema(layer, 0.99)
    for p in layer.parameters():
        p.data.fill_(2.0)
    for _ in range(2000):
        ema.update(layer)
    ema.copy_to(layer)
    for p in layer.parameters():
        torch.testing.assert_close(p, torch.full_like(p, 2.0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(4, 6, 20), (4, 20, 6), (2, 8, 8)])
def test_orthogonalise_brings_singular_values_near_one(shape):
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(shape, generator=generator)
    values = torch.linalg.svdvals(optimizer.orthogonalise(matrices, iterations=8))
    # The quintic oscillates between about 0.68 and 1.21 and does not converge.
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="unknown"):
        optimizer.make_optimizer(torch.nn.Linear(2, 2), "sgd")


class Stretch(torch.nn.Module):
    """Predicts ``x``, and ``more`` times one of its numbers if there is a caption."""

    def __init__(self, where, more):
        super().__init__()
        self.where, self.more = where, torch.nn.Parameter(torch.tensor(more))

    def forward(self, noisy, timesteps, ids):
        added = torch.zeros_like(noisy)
        added[(slice(None), *self.where)] = noisy[(slice(None), *self.where)]
        has_text = (ids.sum(1) > 0)[:, None, None, None]
        return noisy + has_text * self.more * added


@pytest.mark.parametrize("seed", range(3))
def test_folds_are_found_where_guidance_stretches_most(seed):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    where = tuple(int(rng.integers(size)) for size in (4, 16, 16))
    more = float(rng.uniform(0.3, 0.6))
    model = Stretch(where, more)
    alphas = torch.linspace(0.9, 0.1, 10)
    times = torch.tensor([3, 8])
    ids, empty = torch.ones((2, 5), dtype=torch.long), torch.zeros(5, dtype=torch.long)
    penalty, largest = fold_penalty(
        model, torch.randn(2, 4, 16, 16), times, ids, empty, alphas
    )
    # The derivative of the guided prediction is 1 + 7.5 more along that number.
    expected = (1 - alphas[times]).sqrt() * (1 + GUIDANCE * more)
    assert torch.allclose(largest, expected, rtol=1e-3)
    excess = (expected - BOUND).clamp(min=0)
    assert torch.allclose(penalty, excess.square().mean(), rtol=1e-2, atol=1e-6)
    penalty.backward()
    assert (model.more.grad > 0) == bool((excess > 0).any())


def test_steps_that_do_not_fold_are_free():
    model = Stretch((0, 0, 0), 0.1)
    ids, empty = torch.ones((2, 5), dtype=torch.long), torch.zeros(5, dtype=torch.long)
    penalty, _ = fold_penalty(
        model,
        torch.randn(2, 4, 16, 16),
        torch.tensor([0, 9]),
        ids,
        empty,
        torch.linspace(0.9, 0.1, 10),
    )
    assert penalty == 0
