"""Jobs: one result for every image, and what a start makes of an earlier one."""

import concurrent.futures
import importlib.metadata
import json
import logging
import os
import threading

import numpy as np
import pytest
from job_cases import (
    NOT_FINITE,
    ROW_SHAPE,
    SIZE,
    expected_row,
    fake_engine,
    read_lines,
    run,
    write_pictures,
)
from PIL import Image

from jaxinv.files.image_reading import read_image
from jaxinv.scale.jobs import (
    EngineError,
    TooManyFailuresError,
    read_array,
    read_manifest,
)
from jaxinv.scale.jobs.job import process_rows


@pytest.fixture
def pictures(tmp_path):
    """Forty good pictures: two and a half chunks."""
    return write_pictures(tmp_path / "pictures", 40)


def noise(out):
    """The array of a job."""
    return np.asarray(read_array(out / "noise.zarr").read().result())


def snapshot(out):
    """All files of a job, with content and time of writing."""
    return {
        path.relative_to(out): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in out.rglob("*")
        if path.is_file() and not path.name.startswith(".lock")
    }


def interrupted(after, error=KeyboardInterrupt):
    """The engine, stopped after some answers."""

    def engine(requests):
        for number, answer in enumerate(fake_engine(requests)):
            if number == after:
                raise error("stopped by the test")
            yield answer

    return engine


# --- results -------------------------------------------------------------------------


def test_every_image_has_one_result_and_row_i_is_that_of_image_i(pictures, tmp_path):
    out = tmp_path / "out"
    summary = run(pictures, out)
    assert summary["complete"]
    assert summary["converged"] == summary["images"] == 40
    assert summary["num_evals"] == 400
    lines = read_lines(out / "certificates.jsonl")
    rows = read_lines(out / "manifest.jsonl")
    assert [line["index"] for line in lines] == list(range(40))
    assert [row["index"] for row in rows] == list(range(40))
    assert [line["path"] for line in lines] == [row["path"] for row in rows]
    found = noise(out)
    assert found.shape == (40, *ROW_SHAPE)
    assert found.dtype == np.float32
    for row in rows:
        pixels = read_image(pictures / row["path"]).pixels
        np.testing.assert_array_equal(found[row["index"]], expected_row(pixels))


def test_any_name_that_a_file_can_have_is_a_name(tmp_path):
    """Names that are no text, and paths that are longer than any text in JSON."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    names = [
        bytes(rng.choice([*b"abc \n'\"\\", 0x80, 0xFF, 0xC3], 8).tolist()) + b".png"
        for _ in range(8)
    ]
    deep = folder.joinpath(*["d" * 200] * 6)
    deep.mkdir(parents=True)
    made = write_pictures(tmp_path / "made", len(set(names)) + 1)
    places = [os.path.join(os.fsencode(folder), name) for name in set(names)]
    for place, picture in zip(
        [*places, os.fsencode(deep / "e.png")], sorted(made.iterdir()), strict=True
    ):
        os.replace(picture, place)
    summary = run(folder, tmp_path / "out")
    assert summary["complete"]
    assert summary["converged"] == len(places) + 1
    before = snapshot(tmp_path / "out")
    assert run(folder, tmp_path / "out") == summary
    assert snapshot(tmp_path / "out") == before


def test_a_job_runs_in_a_checkout_that_is_not_installed(
    pictures, tmp_path, monkeypatch
):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert run(pictures, tmp_path / "out")["complete"]


def test_an_image_is_inverted_with_its_own_settings(pictures, tmp_path):
    manifest = tmp_path / "a.csv"
    manifest.write_text(
        "path,prompt,guidance\n"
        "pictures/0001.png,hard,2\n"
        "pictures/0001.png,,\n"
        "pictures/0002.png,easy,\n"
    )
    rows = read_manifest(manifest, prompt="cat", guidance=3.0)
    asked = []

    def engine(requests):
        for request in requests:
            asked.append((request.prompt, request.guidance))
            yield from fake_engine([request])

    summary = run(rows, tmp_path / "out", engine)
    assert asked == [("hard", 2.0), ("cat", 3.0), ("easy", 3.0)]
    assert summary["unconverged"] == 1
    lines = read_lines(tmp_path / "out" / "certificates.jsonl")
    assert [line["converged"] for line in lines] == [False, True, True]
    found = noise(tmp_path / "out")
    pixels = read_image(pictures / "0001.png").pixels
    np.testing.assert_array_equal(found[0], expected_row(pixels, 2.0))
    np.testing.assert_array_equal(found[1], expected_row(pixels, 3.0))


def test_what_was_changed_in_a_picture_is_in_its_certificate(pictures, tmp_path):
    Image.new("RGB", (24, 16)).save(pictures / "wide.png")
    summary = run(pictures, tmp_path / "out", resize=True)
    assert summary["changed_images"] == 1
    line = read_lines(tmp_path / "out" / "certificates.jsonl")[-1]
    assert line["path"] == "wide.png"
    assert "center-crop 24x16" in line["changes"][0]


def test_failures_are_recorded_and_nothing_else_is_lost(pictures, tmp_path):
    (pictures / "0003.png").write_bytes(b"")
    (pictures / "0017.png").unlink()
    Image.new("RGB", SIZE, NOT_FINITE).save(pictures / "0020.png")
    Image.new("RGB", (9, 9)).save(pictures / "0039.png")
    manifest = tmp_path / "a.jsonl"
    names = [f"pictures/{index:04d}.png" for index in range(40)]
    manifest.write_text("".join(json.dumps({"path": name}) + "\n" for name in names))
    out = tmp_path / "out"
    summary = run(manifest, out)
    assert (summary["failed"], summary["converged"]) == (4, 36)
    assert summary["failures"] == {
        "the file is not an image that can be read": 1,
        "no such image": 1,
        "the inversion gave values that are NaN or infinite": 1,
        "the file is NxN and the model works at NxN": 1,
    }
    lines = read_lines(out / "certificates.jsonl")
    failed = [line["index"] for line in lines if "failure" in line]
    assert failed == [3, 17, 20, 39]
    assert np.isnan(noise(out)).all((1, 2, 3)).nonzero()[0].tolist() == failed


def test_progress_counts_to_the_end(pictures, tmp_path):
    (pictures / "0003.png").write_bytes(b"")
    seen = []
    run(pictures, tmp_path / "out", on_progress=seen.append)
    assert [counts.done for counts in seen] == list(range(41))
    assert seen[-1]._asdict() == {
        "total": 40,
        "done": 40,
        "converged": 39,
        "unconverged": 0,
        "failed": 1,
        "new": 40,
        "new_failed": 1,
    }


# --- going on ------------------------------------------------------------------------


def test_a_second_start_of_a_finished_job_does_and_writes_nothing(pictures, tmp_path):
    out = tmp_path / "out"
    first = run(pictures, out)
    before, seen = snapshot(out), []
    assert run(pictures, out, lambda r: fake_engine(r, seen=seen)) == first
    assert seen == []
    assert snapshot(out) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_was_answered_is_kept_and_only_the_rest_is_done(pictures, tmp_path, error):
    out = tmp_path / "out"
    with pytest.raises(error):
        run(pictures, out, interrupted(13, error), commit_every=5)
    assert not (out / "certificates.jsonl").exists()
    seen = []
    run(pictures, out, lambda requests: fake_engine(requests, seen=seen))
    # Fours are answered backwards: of the fourth four, the first answer was kept.
    assert seen == [12, 13, 14, *range(16, 40)]
    whole = tmp_path / "whole"
    run(pictures, whole)
    merged = (out / "certificates.jsonl").read_bytes()
    assert merged == (whole / "certificates.jsonl").read_bytes()
    np.testing.assert_array_equal(noise(out), noise(whole))


def test_a_job_is_given_up_after_too_many_failures_and_goes_on_later(
    pictures, tmp_path
):
    for index in (5, 6, 30):
        (pictures / f"{index:04d}.png").write_bytes(b"")
    out = tmp_path / "out"
    with pytest.raises(
        TooManyFailuresError, match="1 images failed, more than the allowed 0"
    ):
        run(pictures, out, max_failures=0)
    with pytest.raises(TooManyFailuresError):  # the second is new, the first is not
        run(pictures, out, max_failures=0)
    summary = run(pictures, out, max_failures=1)
    assert summary["complete"]
    assert summary["failed"] == 3


def test_failures_are_tried_again_only_if_asked_for_and_then_replaced(
    pictures, tmp_path
):
    good = (pictures / "0007.png").read_bytes()
    for index in (7, 8):
        (pictures / f"{index:04d}.png").write_bytes(b"")
    out = tmp_path / "out"
    assert run(pictures, out)["failed"] == 2
    (pictures / "0007.png").write_bytes(good)
    seen = []
    assert run(pictures, out, lambda r: fake_engine(r, seen=seen))["failed"] == 2
    assert seen == []
    summary = run(
        pictures, out, lambda r: fake_engine(r, seen=seen), retry_failures=True
    )
    assert seen == [7]
    assert (summary["failed"], summary["converged"]) == (1, 39)
    lines = read_lines(out / "certificates.jsonl")
    assert [line["index"] for line in lines] == list(range(40))
    assert [line["index"] for line in lines if "failure" in line] == [8]
    assert np.isnan(noise(out)).all((1, 2, 3)).nonzero()[0].tolist() == [8]


def test_what_a_killed_writer_left_is_removed_and_does_no_harm(pictures, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(pictures, out, interrupted(8))
    left = [
        out / ".job.json.abc",
        out / ".status-00000.json.abc",
        out / ".summary.json.abc",
        out / "certificates" / ".00000-000007.jsonl.abc",
        out / "certificates" / ".00003-000007.jsonl.abc",  # there were more processes
        out / "noise.zarr" / "zarr.json.__lock",
        out / "noise.zarr" / "c" / "0" / "0" / "0" / "0.__lock",
    ]
    for path in left:
        path.write_bytes(b"x" * 100_000)
    run(pictures, out)
    assert [path for path in left if path.exists()] == []
    assert np.isfinite(noise(out)).all()


# --- what a service needs ------------------------------------------------------------


def status(out):
    return json.loads((out / "status-00000.json").read_text())


def test_a_status_file_says_how_far_a_job_is_and_how_it_ended(pictures, tmp_path):
    (pictures / "0003.png").write_bytes(b"")
    out, seen = tmp_path / "out", []

    def engine(requests):
        for answer in fake_engine(requests):
            seen.append(status(out)["state"])
            yield answer

    with pytest.raises(KeyboardInterrupt):
        run(pictures, out, interrupted(8))
    found = status(out)
    assert (found["state"], found["images"]) == ("stopped", 40)
    assert found["done"] == found["converged"] + found["failed"] == 9
    run(pictures, out, engine)
    assert set(seen) == {"running"}
    found = status(out)
    assert (found["state"], found["done"], found["failed"]) == ("complete", 40, 1)
    assert found["images_per_second"] > 0
    assert found["seconds_left"] == 0
    assert found["started"] <= found["updated"]


def test_a_job_that_breaks_down_says_why_in_its_status(pictures, tmp_path):
    def broken(requests):
        next(requests)
        raise ValueError("out of luck")
        yield

    with pytest.raises(EngineError):
        run(pictures, tmp_path / "out", broken)
    found = status(tmp_path / "out")
    assert found["state"] == "failed"
    assert "out of luck" in found["reason"]


def test_a_status_file_that_cannot_be_written_ends_nothing(
    pictures, tmp_path, monkeypatch
):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jaxinv.scale.jobs.status.write_json", full)
    assert run(pictures, tmp_path / "out")["converged"] == 40


def test_progress_and_failures_are_logged(pictures, tmp_path, caplog):
    (pictures / "0003.png").write_bytes(b"")
    with caplog.at_level(logging.INFO, logger="jaxinv"):
        run(pictures, tmp_path / "out")
    text = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert ("INFO", "0 of 40 images; compiling") in text
    assert any("image 3 (0003.png): the file is" in line for _, line in text)
    assert text[-1][1].startswith("complete: 40 of 40 images")


# --- what is refused -----------------------------------------------------------------


def test_an_output_of_other_settings_is_refused_and_left_alone(pictures, tmp_path):
    out = tmp_path / "out"
    run(pictures, out, settings={"steps": 20, "sampler": {"name": "ddim"}})
    before = snapshot(out)
    with pytest.raises(ValueError, match="results of another job") as error:
        run(
            pictures,
            out,
            settings={"steps": 10, "sampler": {"name": "edict"}},
            chunk_rows=8,
            resize=True,
        )
    for difference in (
        "settings.steps is 20 there and 10 now",
        "settings.sampler.name is 'ddim' there and 'edict' now",
        "settings.resize is False there and True now",
        "noise.chunk_rows is 16 there and 8 now",
    ):
        assert difference in str(error.value)
    (pictures / "0001.png").unlink()
    with pytest.raises(ValueError, match=r"manifest\.rows is 40 there and 39 now"):
        run(pictures, out, settings={"steps": 20, "sampler": {"name": "ddim"}})
    assert snapshot(out) == before


def test_a_folder_of_something_else_is_refused_and_left_alone(pictures, tmp_path):
    before = snapshot(pictures)
    with pytest.raises(
        ValueError, match=r"not empty and holds no job \(it contains \d+\.png"
    ):
        run(pictures, pictures)
    assert snapshot(pictures) == before
    for content in ("{", "[]", '{"format": "something"}'):
        (tmp_path / "job.json").write_text(content)
        with pytest.raises(ValueError, match="not a job of this version"):
            run(pictures, tmp_path)
        assert (tmp_path / "job.json").read_text() == content


def test_an_output_that_cannot_be_written_to_is_refused(pictures, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="it is a file"):
        run(pictures, tmp_path / "file")


@pytest.mark.parametrize(
    "content", [b"", b"{}\n", b'{"seconds": 1}\n{"index": 40, "failure": "x"}\n', b"["]
)
def test_a_damaged_record_is_named(pictures, tmp_path, content):
    out = tmp_path / "out"
    run(pictures, out)
    (out / "certificates" / "00000-000009.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=r"00000-000009\.jsonl is damaged"):
        run(pictures, out)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"chunk_rows": 0}, "chunk_rows must be an integer of at least 1"),
        ({"commit_every": 0}, "commit_every must be an integer of at least 1"),
        ({"max_failures": -1}, "max_failures must be an integer of at least 0"),
        ({"process_index": 2, "process_count": 2}, "must lie in 0 to 1, got 2"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(pictures, tmp_path, wrong, reason):
    with pytest.raises(ValueError, match=reason):
        run(pictures, tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_an_engine_that_breaks_its_word_is_found_out(pictures, tmp_path):
    def twice(requests):
        for answer in fake_engine(requests):
            yield answer
            yield answer

    def forgetful(requests):
        answers = iter(fake_engine(requests))
        next(answers)
        yield from answers

    with pytest.raises(EngineError, match="answered 3 unasked"):
        run(pictures, tmp_path / "twice", twice)
    with pytest.raises(EngineError, match="left 1 requests unanswered"):
        run(pictures, tmp_path / "forgetful", forgetful)
    # Not taken for wrong input, which has no traceback.
    with pytest.raises(EngineError, match="stopped by the test"):
        run(pictures, tmp_path / "broken", interrupted(3, ValueError))


# --- several processes ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "chunk", "count"), [(40, 16, 2), (7, 3, 5), (1, 8, 3)]
)
def test_processes_share_all_rows_and_no_chunk(rows, chunk, count):
    ranges = [process_rows(rows, chunk, index, count) for index in range(count)]
    assert [row for own in ranges for row in own] == list(range(rows))
    chunks = [{row // chunk for row in own} for own in ranges]
    assert sum(map(len, chunks)) == len(set().union(*chunks))


def test_processes_together_give_the_results_of_one(pictures, tmp_path):
    (pictures / "0020.png").write_bytes(b"")
    together, alone = tmp_path / "together", tmp_path / "alone"
    with pytest.raises(ValueError, match="process 0 creates it, so start process 0"):
        run(pictures, together, process_index=1, process_count=2, wait_seconds=0)
    first = run(pictures, together, process_index=0, process_count=2)
    assert (first["complete"], first["done"]) == (False, 16)
    assert not (together / "certificates.jsonl").exists()
    summary = run(pictures, together, process_index=1, process_count=2)
    whole = run(pictures, alone)
    for each in (summary, whole):
        del each["seconds"], each["parts"]
    assert summary == whole
    merged = (together / "certificates.jsonl").read_bytes()
    assert merged == (alone / "certificates.jsonl").read_bytes()
    np.testing.assert_array_equal(noise(together), noise(alone))


def test_another_number_of_processes_goes_on_with_the_rest(pictures, tmp_path):
    out, seen = tmp_path / "out", []
    good = (pictures / "0030.png").read_bytes()
    (pictures / "0030.png").write_bytes(b"")
    for index in (0, 2):
        run(pictures, out, process_index=index, process_count=3)
    run(pictures, out, lambda requests: fake_engine(requests, seen=seen))
    assert seen == [*range(16, 30), 31]
    # The first process now tries again what the second one failed at.
    (pictures / "0030.png").write_bytes(good)
    assert run(pictures, out, retry_failures=True)["failed"] == 0


def test_all_processes_wait_until_the_first_has_prepared_the_folder(pictures, tmp_path):
    out, asked = tmp_path / "out", threading.Event()

    def engine(requests):
        asked.set()
        yield from fake_engine(requests)

    options = {"process_count": 2, "wait_seconds": 600}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        second = pool.submit(run, pictures, out, engine, process_index=1, **options)
        assert not asked.wait(1)  # the folder is not even there
        run(pictures, out, process_index=0, **options)
        assert second.result()["done"] > 0
    assert (out / "certificates.jsonl").exists()


def test_a_folder_of_something_else_is_not_waited_for(pictures, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("dear")
    with pytest.raises(ValueError, match=r"it contains thesis\.tex"):
        run(pictures, tmp_path / "out", process_index=1, process_count=2)
