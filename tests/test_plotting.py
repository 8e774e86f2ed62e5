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


def test_a_film_strip_has_both_ends_and_evenly_chosen_frames_between():
    pictures = [np.full((4, 4, 3), k / 20) for k in range(21)]
    figure = plotting.film_strip(pictures, "from noise to data", frames=5)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["0", "5", "10", "15", "20"]
    with pytest.raises(ValueError, match="a label for each"):
        plotting.film_strip(pictures, "", labels=["one"])
    with pytest.raises(ValueError, match="expected pictures"):
        plotting.film_strip([], "")


def test_curves_leave_out_what_has_no_logarithm(tmp_path):
    figure = plotting.residual_curves({"a": np.array([1.0, 0.0, np.nan, 1e-6])}, "t")
    (line,) = figure.axes[0].lines
    np.testing.assert_array_equal(
        np.isfinite(line.get_ydata()), [True, False, False, True]
    )
    plotting.save_figure(figure, tmp_path / "curves.png")


def test_spectra_and_confusion_matrices_show_one_picture_for_each(tmp_path):
    noise = np.random.default_rng(0).standard_normal((16, 16))
    figure = plotting.spectra({"a": noise, "b": noise}, 3, "rings")
    assert len(figure.axes) == 3  # and the scale
    plotting.save_figure(figure, tmp_path / "spectra.png")
    counts = np.array([[3, 1], [0, 4]])
    figure = plotting.confusion_matrices({str(k): counts for k in range(4)}, "keys")
    numbers = [text.get_text() for text in figure.axes[0].texts]
    assert numbers == ["3", "1", "0", "4"]
    plotting.save_figure(figure, tmp_path / "confusion.png")


def test_what_is_not_a_number_does_not_look_like_no_difference():
    broken = NOISE.copy()
    broken[2, 3] = np.nan
    shown = plotting.difference_picture(broken, NOISE, gain=1.0)
    np.testing.assert_array_equal(shown[2, 3], [1, 0, 1])


def test_captions_are_not_mathematics(tmp_path):
    tile = plotting.Tile(np.zeros((4, 4, 3)), "a $\\foo$ b", "a $\\foo$ b")
    figure = plotting.panel([plotting.Row("$\\foo$", [tile])], "$\\foo$")
    plotting.save_figure(figure, tmp_path / "panel.png")
