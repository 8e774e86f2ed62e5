"""Pictures that change between two starts of a job, or under it."""

import os
import random
import shutil

import numpy as np
import pytest
from job_cases import fake_engine, read_lines, run, write_pictures
from PIL import Image

from jaxinv.scale.jobs import read_array, reading

COUNT = 40


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "pictures", COUNT)


@pytest.fixture
def listed(tmp_path, pictures):
    """A manifest that names the pictures whether they are there or not."""
    path = tmp_path / "a.csv"
    names = [f"pictures/{index:04d}.png" for index in range(COUNT)]
    path.write_text("\n".join(["path", *names]) + "\n")
    return path


def picture(pictures, index):
    return pictures / f"{index:04d}.png"


def overwrite(path, rng):
    """Gives a picture other pixels, but the size and the date of the file it had."""
    before = path.stat()
    pixels = np.array(Image.open(path))
    pixels[rng.randrange(8), rng.randrange(8), rng.randrange(3)] ^= 1 << rng.randrange(
        8
    )
    Image.fromarray(pixels).save(path, compress_level=0)
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def stopped(seen, after):
    def engine(requests):
        for number, answer in enumerate(fake_engine(requests, seen=seen)):
            if number == after:
                raise KeyboardInterrupt
            yield answer

    return engine


def noise(out):
    return np.asarray(read_array(out / "noise.zarr").read().result())


def done(out):
    """Rows with a result, from the parts as they lie there."""
    found = {}
    for part in sorted((out / "certificates").glob("*.jsonl")):
        found |= {line["index"]: line for line in read_lines(part)[1:]}
    return {index for index, line in found.items() if not line.get("outdated")}


@pytest.mark.parametrize("seed", range(4))
def test_results_are_those_of_the_pictures_that_are_there(
    seed, pictures, listed, tmp_path
):
    # Stopped at random, any pictures overwritten, and again; at last nothing stops it.
    rng, out, gone, told = random.Random(seed), tmp_path / "out", {}, []
    options = {"commit_every": 1, "on_note": told.append}
    for start in range(5):
        seen, before = [], done(out) if start else set()
        changed = rng.sample(sorted(set(range(COUNT)) - gone.keys()), 12)
        for index in changed:
            overwrite(picture(pictures, index), rng)
        kept = noise(out) if start else None
        for index in rng.sample(sorted(before - set(changed) - gone.keys()), start > 1):
            picture(pictures, index).unlink()
            gone[index] = kept[index]
        todo = sorted(set(range(COUNT)) - before | (before & set(changed)))
        last = start == 4
        engine = stopped(seen, 10**9 if last else rng.randrange(len(todo)))
        if last:
            summary = run(listed, out, engine, **options)
            assert seen == todo
        else:
            with pytest.raises(KeyboardInterrupt):
                run(listed, out, engine, **options)
            assert set(seen) <= set(todo)
        again = len(before & set(changed))
        assert not again or any(f"{again} picture" in note for note in told[-2:])
    assert summary["converged"] == COUNT
    for index, row in gone.items():
        np.testing.assert_array_equal(noise(out)[index], row)
        Image.new("RGB", (8, 8)).save(picture(pictures, index))
    whole = tmp_path / "whole"
    run(listed, whole)
    there = [index for index in range(COUNT) if index not in gone]
    np.testing.assert_array_equal(noise(out)[there], noise(whole)[there])
    lines, wanted = (read_lines(each / "certificates.jsonl") for each in (out, whole))
    assert [lines[index] for index in there] == [wanted[index] for index in there]


def test_a_picture_that_is_put_back_before_it_was_done_again_is_done_again(
    pictures, tmp_path
):
    # Its row of the array may hold either: only a new inversion is sure.
    out, whole, seen = tmp_path / "out", tmp_path / "whole", []
    run(pictures, whole)
    run(pictures, out)
    before = shutil.copy2(picture(pictures, 7), tmp_path / "before.png")
    overwrite(picture(pictures, 7), random.Random(0))
    with pytest.raises(KeyboardInterrupt):
        run(pictures, out, stopped(seen, 0), on_note=str)
    shutil.copy2(before, picture(pictures, 7))
    assert run(pictures, out, stopped(seen, 9))["complete"]
    assert seen == [7, 7]
    np.testing.assert_array_equal(noise(out), noise(whole))


def test_a_finished_job_is_summed_up_again_after_a_change(pictures, tmp_path):
    out, told = tmp_path / "out", []
    first = run(pictures, out)
    overwrite(picture(pictures, 3), random.Random(1))
    picture(pictures, 4).write_bytes(b"no picture")
    summary = run(pictures, out, on_note=told.append)
    assert (summary["converged"], summary["failed"]) == (COUNT - 1, 1)
    assert summary["parts"] > first["parts"]
    assert np.isnan(noise(out)[4]).all()
    assert told == [
        "2 pictures have changed since the inversion and will be inverted again"
    ]


def test_a_link_that_leads_to_another_picture_is_another_picture(pictures, tmp_path):
    link = pictures / "link.png"
    link.symlink_to(picture(pictures, 0))
    out, seen = tmp_path / "out", []
    run(pictures, out)
    link.unlink()
    link.symlink_to(picture(pictures, 1))
    run(pictures, out, lambda r: fake_engine(r, seen=seen), on_note=str)
    assert seen == [COUNT]
    np.testing.assert_array_equal(noise(out)[COUNT], noise(out)[1])


def test_pictures_moved_to_another_folder_are_the_same_pictures(pictures, tmp_path):
    out, seen = tmp_path / "out", []
    run(pictures, out)
    moved = pictures.rename(tmp_path / "moved")
    run(moved, out, lambda r: fake_engine(r, seen=seen), on_note=pytest.fail)
    assert seen == []


def test_a_picture_overwritten_while_it_waits_is_taken_as_it_is_read(
    pictures, tmp_path
):
    out = tmp_path / "out"

    def engine(requests):
        for request in requests:
            overwrite(picture(pictures, request.index), random.Random(request.index))
            yield from fake_engine([request])

    run(pictures, out, engine)
    lines, seen = read_lines(out / "certificates.jsonl"), []
    # Every record names what was inverted, and that is what is there no more.
    run(pictures, out, lambda r: fake_engine(r, seen=seen), on_note=str)
    assert seen == list(range(COUNT))
    again = read_lines(out / "certificates.jsonl")
    for old, new in zip(lines, again, strict=True):
        assert old["picture_sha256"] != new["picture_sha256"]


def test_a_picture_that_changes_while_it_is_read_is_a_failure(
    pictures, tmp_path, monkeypatch
):
    true = reading.read_image

    def slow(path, max_pixels):
        read = true(path, max_pixels)
        if path.name == "0005.png":
            overwrite(path, random.Random(0))
        return read

    monkeypatch.setattr(reading, "read_image", slow)
    summary = run(pictures, tmp_path / "out")
    assert summary["failures"] == {"the file changed while it was read": 1}
