"""The data of the first model: captions, compositor, split."""

import json

import numpy as np
import pytest
from PIL import Image

from training.first import backgrounds, captions, emoji


def make_emoji(**changes):
    """A plain emoji, with changes."""
    fields = {
        "base": "1F355",
        "image": "1f355.png",
        "name": "slice of pizza",
        "short_names": ("pizza",),
        "category": "food and drink",
        "tones": (),
        "iconic": True,
        "weight": 3.0,
    }
    return emoji.Emoji(**{**fields, **changes})


def test_opaque_pixels_keep_their_colour_and_clear_ones_show_grain():
    rng = np.random.default_rng(0)
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[:32] = (255, 0, 0, 255)
    image = backgrounds.composite(rgba, np.full((64, 64, 3), 0.5, np.float32), rng)
    np.testing.assert_array_equal(image[:32], np.broadcast_to([1, 0, 0], (32, 64, 3)))
    clear = image[32:]
    # 6,144 samples: the std is known to about 1 %.
    assert clear.std() == pytest.approx(backgrounds.GRAIN_STD, rel=0.05)
    assert clear.mean() == pytest.approx(0.5, abs=1e-3)


def test_gradient_runs_from_the_first_named_colour_to_the_second():
    rng = np.random.default_rng(1)
    drawn = backgrounds.random_background(rng, gradient_share=1.0)
    first, second = (np.array(backgrounds.COLOURS[n]) for n in drawn.colours)
    np.testing.assert_allclose(drawn.pixels[0, 0], first, atol=0.1)
    np.testing.assert_allclose(drawn.pixels[-1, -1], second, atol=0.1)


def test_caption_names_subject_tone_and_background():
    rng = np.random.default_rng(2)
    waving = make_emoji(
        name="waving hand sign", short_names=("wave",), tones=("dark skin tone",)
    )
    text = captions.caption(waving, ("orange",), rng, background_share=1.0)
    assert text.endswith("with dark skin tone on an orange background")
    assert "wav" in text


def test_caption_without_background_does_not_name_one():
    rng = np.random.default_rng(3)
    texts = {
        captions.caption(make_emoji(), ("red", "blue"), rng, background_share=0.0)
        for _ in range(50)
    }
    assert all("background" not in text and "pizza" in text for text in texts)


@pytest.mark.parametrize("name", ["Café №5", "A  B\tc", "man-woman_boy"])
def test_clean_words_are_lower_case_ascii_words(name):
    text = emoji.clean_words(name)
    assert all(word.isalnum() and word.isascii() for word in text.split(" "))
    assert text == text.lower()


def test_split_keeps_variants_together_and_iconic_emoji_in_training():
    entries = [
        make_emoji(base=f"B{i}", iconic=i < 20, tones=("dark skin tone",) * v)
        for i in range(200)
        for v in range(2)
    ]
    held = emoji.split(entries)
    sides = {}
    for entry, out in zip(entries, held, strict=True):
        sides.setdefault(entry.base, set()).add(bool(out))
    assert all(len(side) == 1 for side in sides.values())
    assert sum(True in side for side in sides.values()) == 10
    assert not any(held[i] for i, e in enumerate(entries) if e.iconic)


def test_package_folder_is_read_with_its_skin_tone_variants(tmp_path):
    pictures = tmp_path / "img" / "google" / "64"
    pictures.mkdir(parents=True)
    for name in ("1f44b.png", "1f44b-1f3ff.png"):
        Image.new("RGBA", (64, 64), (1, 2, 3, 255)).save(pictures / name)
    variant = {"image": "1f44b-1f3ff.png", "has_img_google": True}
    entry = {
        "unified": "1F44B",
        "name": "WAVING HAND SIGN",
        "short_name": "wave",
        "short_names": ["wave"],
        "category": "People & Body",
        "image": "1f44b.png",
        "has_img_google": True,
        "skin_variations": {"1F3FF": variant},
    }
    (tmp_path / "emoji.json").write_text(json.dumps([entry]))
    data = emoji.load_emoji(tmp_path)
    assert data.rgba.shape == (2, 64, 64, 4)
    assert [e.tones for e in data.entries] == [(), ("dark skin tone",)]
    assert sum(e.weight for e in data.entries) == pytest.approx(1.25)


def test_wrong_data_folder_says_how_to_get_the_right_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="npm pack"):
        emoji.load_emoji(tmp_path)
