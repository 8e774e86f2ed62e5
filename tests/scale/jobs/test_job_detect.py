"""Watermarks over a data set: verdicts, counts, and false alarms to expect."""

import jax
import numpy as np
import pytest
from job_cases import SIZE, fake_engine, read_lines, run, write_pictures

from jaxinv.apps import watermark
from jaxinv.scale.jobs import read_detector

SHAPE = (16, 16, 4)
MARKED, MARKED_BY_SECOND, FAILS = range(0, 10), range(10, 15), 29


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Two tree-ring keys and a message."""
    folder = tmp_path_factory.mktemp("keys")
    made = [
        watermark.tree_ring_key(jax.random.key(seed), SHAPE, radius=3, pattern="random")
        for seed in range(2)
    ]
    made.append(watermark.gaussian_shading_key(SHAPE, blocks=(4, 4, 1)))
    paths = [folder / f"{name}.json" for name in ("first", "second", "message")]
    for path, key in zip(paths, made, strict=True):
        watermark.write_key(path, key)
    return paths


def marked_noise(keys):
    """An engine whose noises carry keys: the first ten one, the next five another."""
    first, second = (watermark.read_key(path) for path in keys[:2])
    plain = np.random.default_rng(0).standard_normal((30, *SHAPE)).astype(np.float32)

    def engine(requests):
        for answer in fake_engine(requests):
            noise = plain[answer.index]
            if answer.index in MARKED:
                noise = np.asarray(first.embed(noise))
            elif answer.index in MARKED_BY_SECOND:
                noise = np.asarray(second.embed(noise))
            failure = "no noise" if answer.index == FAILS else None
            yield answer._replace(state=noise, noise=noise, failure=failure)

    return engine


def test_marked_images_are_found_and_told_apart(keys, tmp_path):
    pictures = write_pictures(tmp_path / "pictures", 30)
    detector = read_detector(keys[:2], 1e-4, SHAPE)
    out = tmp_path / "out"
    options = {"row_shape": SHAPE, "detector": detector, "keep_noise": False}
    summary = run(pictures, out, marked_noise(keys), **options)
    first, second = map(str, keys[:2])
    found = summary["watermarks"]
    assert found["images"] == 29
    assert found["marked"] == 15
    assert found["detected"] == {first: 10, second: 5}
    assert found["nearest_of_marked"] == {first: 10, second: 5}
    assert found["expected_false_alarms_per_key"] == pytest.approx(29e-4)
    assert found["expected_false_alarms"] == pytest.approx(58e-4)
    assert not (out / "noise.zarr").exists()
    lines = read_lines(out / "certificates.jsonl")
    assert [line["index"] for line in lines] == list(range(30))
    assert "watermarks" not in lines[FAILS]
    for line in lines[:15]:
        verdict = {each["key"]: each for each in line["watermarks"]}
        right = first if line["index"] in MARKED else second
        assert line["nearest"] == right
        assert verdict[right]["detected"]
        assert verdict[right]["p_value"] < 1e-6


def test_what_cannot_be_judged_is_counted_and_says_why(keys, tmp_path):
    pictures = write_pictures(tmp_path / "pictures", 30)
    plain = marked_noise(keys)

    def loud(requests):
        for answer in plain(requests):
            scale = 4 if answer.index < 5 else 1
            yield answer._replace(noise=scale * answer.noise)

    out = tmp_path / "out"
    detector = read_detector(keys, 1e-4, SHAPE)
    summary = run(pictures, out, loud, row_shape=SHAPE, detector=detector)
    found = summary["watermarks"]
    assert found["cannot_judge"] == {str(key): 5 for key in keys}
    assert found["detected"][str(keys[0])] == 5
    for line in read_lines(out / "certificates.jsonl")[:5]:
        for verdict in line["watermarks"]:
            assert verdict["verdict"] == "cannot judge"
            assert verdict["detected"] is None
            assert "power" in verdict["reason"]


def test_verdicts_are_those_of_the_watermark_itself(keys, tmp_path):
    detector = read_detector([keys[0], keys[2]], 1e-3, SHAPE)
    noise = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    ring, message = (watermark.read_key(path) for path in (keys[0], keys[2]))
    record = detector.verdict(np.asarray(message.embed(noise)))
    assert "nearest" not in record  # a message and a ring cannot be compared
    ringed, read = record["watermarks"]
    score = ring.score(message.embed(noise))
    assert ringed["p_value"] == pytest.approx(float(watermark.p_value(score)), rel=1e-4)
    assert ringed["distance"] == pytest.approx(float(score.distance), rel=1e-5)
    assert not ringed["detected"]
    assert read["detected"]
    assert read["matches"] == read["bits"] == len(message.message)
    assert read["message"] == "".join(str(int(bit)) for bit in message.message)


def test_other_keys_or_another_rate_are_another_job(keys, tmp_path):
    pictures = write_pictures(tmp_path / "pictures", 30)
    out, engine = tmp_path / "out", marked_noise(keys)
    options = {"row_shape": SHAPE, "image_size": SIZE}
    first = read_detector(keys[:1], 1e-3, SHAPE)
    run(pictures, out, engine, detector=first, **options)
    for paths, rate, name in ((keys[1:2], 1e-3, "keys"), (keys[:1], 1e-2, "rate")):
        other = read_detector(paths, rate, SHAPE)
        with pytest.raises(ValueError, match=rf"settings\.detection\.{name} is"):
            run(pictures, out, engine, detector=other, **options)
    # A key's name is not what it is: the file may have been moved.
    moved = tmp_path / "moved.json"
    moved.write_bytes(keys[0].read_bytes())
    again = read_detector([moved], 1e-3, SHAPE)
    assert run(pictures, out, engine, detector=again, **options)["complete"]


def test_wrong_keys_are_refused(keys, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such key file"):
        read_detector([tmp_path / "gone.json"], 1e-3, SHAPE)
    with pytest.raises(ValueError, match="but this model's has"):
        read_detector(keys, 1e-3, (8, 8, 4))
    with pytest.raises(ValueError, match="given twice"):
        read_detector([keys[0], keys[0]], 1e-3, SHAPE)
    for rate in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="rate must be a number above 0"):
            read_detector(keys, rate, SHAPE)
