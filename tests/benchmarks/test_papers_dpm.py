"""The first paper's tables measure what they say, at their smallest size."""

import numpy as np
import pytest

from benchmarks.papers.__main__ import TABLES
from benchmarks.papers.dpm import round_trip
from benchmarks.papers.dpm.confusion import confusion, nearest
from benchmarks.papers.dpm.detection import MARKS
from benchmarks.papers.dpm.reconstruction import cell_of
from benchmarks.papers.dpm.text import decibels
from benchmarks.papers.protocol import Found
from benchmarks.papers.setting import Setting

GUIDANCE = 3.0
MADE = {"DDIM": ("DDIM", "log_snr", 3), "2M": ("2M", "log_snr", 3)}


@pytest.fixture(scope="module")
def setting(diffusers_folder):
    return Setting(str(diffusers_folder))


def cell(sampler, inverse, decoder="none", steps=3, **others):
    return cell_of(MADE[sampler], GUIDANCE, inverse, steps, decoder) | others


def found(setting, name, cells, images=1):
    """The results of some cells of a table, and its text."""
    table, measured = TABLES[name], {k: [] for k in range(len(cells))}
    for index in range(images):
        for k, one in enumerate(cells):
            assert set(one) == set(table.cells(setting)[0])
            measured[k].append(table.measure(setting, one, index))
        setting.forget_image()
    results = Found([(one, measured[k]) for k, one in enumerate(cells)], setting)
    return results, table.show(results)


def db(value):
    return 10 * np.log10(value)


def test_the_exact_inverse_finds_the_noise_and_the_published_ones_come_near(setting):
    ways = {
        "DDIM": ("naive", "algorithm 1", "ours"),
        "2M": ("naive", "algorithm 2", "ours"),
    }
    for sampler, inverses in ways.items():
        cells = [cell(sampler, inverse) for inverse in inverses]
        results, text = found(setting, "dpm-table-1", cells)
        errors = {c["inverse"]: m[0]["noise"] for c, m in results.cells}
        assert db(errors["ours"]) < -80
        for inverse in inverses[1:-1]:
            assert db(errors["ours"]) < db(errors[inverse]) < db(errors["naive"])
        assert text.count("0 % (0 to 79)") >= 1


def test_the_inverse_of_another_order_is_not_exact(setting):
    cells = [
        cell("2M", "ours"),
        cell("2M", "algorithm 1"),
        cell("2M", "naive", steps=9),
    ]
    results, _ = found(setting, "dpm-orders", cells)
    own, *others = (m[0]["noise"] for _, m in results.cells)
    assert db(own) < -80
    assert all(db(other) > -60 for other in others)


def test_the_decoder_limits_what_the_inverse_can_find(setting):
    cells = [cell("DDIM", "ours", decoder) for decoder in ("none", "encoder")]
    results, text = found(setting, "dpm-decoder", cells)
    none, encoder = (m[0]["noise"] for _, m in results.cells)
    assert db(none) < -80
    assert db(encoder) > -40
    assert "| DDIM | log_snr | 3 | ours | 3 | encoder | 1 |" in text


def test_figure_2_draws_every_cell(setting):
    cells = [cell("DDIM", "ours"), cell("DDIM", "ours", "encoder")]
    results, _ = found(setting, "dpm-figure-2", cells)
    figure = TABLES["dpm-figure-2"].draw(results)
    assert len(figure.axes) == 2 * 5


def test_models_of_pixels_have_no_cells_with_decoders():
    pixels = Setting("emoji16")
    table = TABLES["dpm-figure-2"]
    decoders = {c["decoder"] for c in table.cells(pixels) if table.fits(pixels.pipe, c)}
    assert decoders == {"none"}
    assert round_trip.image_of(pixels, np.ones((2, 2, 3))).dtype != np.uint8
    for name in ("dpm-watermark", "dpm-editing", "dpm-switch"):
        assert TABLES[name].refuse(pixels.pipe)


def marked_cells(inverse, decoder="none", **others):
    values = {"prompt": "known", "disc": "centered"} | others
    return [cell("2M", inverse, decoder, **values, key=key) for key in range(3)]


def test_the_exact_inverse_tells_the_published_keys_apart(setting):
    results, text = found(setting, "dpm-watermark", marked_cells("ours"))
    for one, (measures,) in results.cells:
        assert nearest(measures["true"]) == one["key"]
        assert nearest(measures["distances"]) == one["key"]
        assert measures["nmae"] < 1e-3
    assert "| 1 0 0 / 0 1 0 / 0 0 1 |" in text
    naive, _ = found(setting, "dpm-figure-4", marked_cells("naive", prompt="unknown"))
    assert all(m[0]["nmae"] > 0.01 for _, m in naive.cells)
    assert TABLES["dpm-watermark"].draw(results).axes
    assert len(TABLES["dpm-figure-4"].draw(results).axes) == 3 * (2 + 2)


def test_noises_that_overflowed_have_no_key():
    lost = {"distances": [None] * 3}
    near = {"distances": [None, 0.1, 0.2]}
    counts = confusion([(0, lost), (2, near)], "distances")
    assert counts.tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert decibels([0.01, None]) == "-20.0, 1 of 2 not finite"
    assert decibels([0.0, 0.0]) == "exact"


def test_every_published_mark_is_nearer_in_marked_images(setting):
    cells = [
        cell("2M", "ours", pattern=pattern, mask=mask, channel=channel)
        for pattern, mask, channel in MARKS
    ]
    results, text = found(setting, "dpm-detection", cells)
    for _, (measures,) in results.cells:
        assert measures["marked"] < 0.5 * measures["unmarked"]
    assert "| ring, square, channel 0 | ours, none | 1 |" in text


def test_a_switch_of_prompts_is_inverted_only_by_who_knows_it(setting):
    cells = [cell("2M", "ours", known=known) for known in (True, False)]
    cells.append(cell("2M", "naive", known=True))
    results, _ = found(setting, "dpm-switch", cells)
    known, unknown, naive = (m[0]["noise"] for _, m in results.cells)
    assert db(known) < -80
    assert db(unknown) > -60
    assert db(naive) > -60


def test_an_edit_with_kept_states_keeps_the_background(setting):
    cells = [
        cell("DDIM", "true states", mask=True),
        cell("DDIM", "true states", mask=False),
    ]
    results, text = found(setting, "dpm-editing", cells)
    masked, free = (m[0]["kept"] for _, m in results.cells)
    assert masked > free
    assert "| DDIM 3 log_snr | true states, none | yes | 1 |" in text
    assert len(TABLES["dpm-editing"].draw(results).axes) == 2 + 2
