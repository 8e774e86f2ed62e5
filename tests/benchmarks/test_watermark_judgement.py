"""The benchmark of verdicts: tables of what is found, and of what is not."""

import numpy as np
import pytest

from benchmarks.watermark_judgement import __main__ as watermark_judgement
from benchmarks.watermark_judgement.latents import CHANNEL, DISC, SHAPE, all_kinds
from benchmarks.watermark_judgement.recovered import COPIED, REPLAYED, forged


def test_a_small_run_has_every_kind_and_few_false_positives(monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"pictures": rng.random((2, *SHAPE))}
    monkeypatch.setattr(watermark_judgement, "pictures", lambda: arrays)
    watermark_judgement.main(["--count", "40", "--out", str(tmp_path / "a.md")])
    text = (tmp_path / "a.md").read_text()
    kinds = [name for name, _ in all_kinds(0, 1, arrays)]
    for name in (*kinds, "another ring key", "-10 dB"):
        assert f"| {name} |" in text
    # Of 40 latents in each of some 100 cells, 1 or 2 by chance here and there.
    worst = text.split("false positives is ")[1].split(" %")[0]
    assert float(worst) <= 5


@pytest.mark.parametrize("how", [COPIED, REPLAYED])
def test_a_forger_copies_the_disc_or_all(how):
    copies = np.random.default_rng(1).standard_normal((2, *SHAPE))
    found, wanted = (np.fft.fft2(x, axes=(1, 2)) for x in (forged(how, copies), copies))
    np.testing.assert_allclose(
        found[:, DISC, CHANNEL], wanted[:, DISC, CHANNEL], atol=1e-3
    )
    assert np.allclose(found, wanted, atol=1e-3) == (how == REPLAYED)
