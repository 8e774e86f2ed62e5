"""Pictures of inversions."""

import numpy as np
import pytest
from PIL import Image

from jaxinv import plotting

NOISE = np.random.default_rng(0).standard_normal((8, 8, 4))


def test_no_difference_is_mid_grey_and_the_gain_magnifies():
    np.testing.assert_array_equal(
        plotting.difference_picture(NOISE, NOISE, gain=10.0), np.full((8, 8, 3), 0.5)
    )
    a = plotting.difference_picture(NOISE + 0.01, NOISE, gain=10.0)
    np.testing.assert_allclose(a, 0.55, atol=1e-9)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 16])
def test_latents_of_any_number_of_channels_become_colours(channels):
    latent = np.random.default_rng(0).standard_normal((4, 6, channels))
    picture = plotting.latent_picture(latent)
    assert picture.shape == (4, 6, 3)
    assert 0 <= picture.min() < picture.max() <= 1


def test_values_that_are_not_finite_are_drawn_all_the_same():
    latent = np.full((2, 2, 3), np.nan)
    assert np.isfinite(plotting.latent_picture(latent)).all()
    assert np.isfinite(
        plotting.difference_picture(latent, NOISE[:2, :2, :3], gain=1)
    ).all()


@pytest.mark.parametrize(
    "title", ["plain", r"costs $5 or $\frac{", "a\nb", "[bold", ""]
)
def test_any_text_can_stand_in_a_panel(tmp_path, title):
    tile = plotting.Tile(plotting.latent_picture(NOISE), "noise", "-90 dB", True)
    rows = [plotting.Row("one", [tile, None, tile]), plotting.Row("two", [None, tile])]
    plotting.save_figure(plotting.panel(rows, title, title), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > image.height > 300
