"""The benchmark of jobs kills, plants and counts what it says it does."""

import pytest

from benchmarks.scale_job import kill as scale_job_kill
from benchmarks.scale_job import many as scale_job_many
from benchmarks.scale_job.pictures import BAD
from benchmarks.scale_job.process import Looker
from jaxinv.scale.jobs.array import create_array


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Both measurements share the compiled programs in it."""
    return tmp_path_factory.mktemp("scale-job")


@pytest.fixture(autouse=True)
def keep_all_programs(monkeypatch):
    """Small ones too, so that restarts do not compile."""
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def test_a_killed_job_gives_what_an_undisturbed_one_gives(folder, diffusers_folder):
    found = scale_job_kill.measure(
        folder,
        images=20,
        plans={"both": [0.1, "records"]},
        model=str(diffusers_folder),
        size=32,
        compile_first=False,
    )
    run = found["runs"]["both"]
    early, writing = run["kills"]
    assert early.killed
    # This one comes within a commit, or just after it.
    assert (writing.before, writing.done) in ((0, 0), (0, 20))
    assert not writing.left or ".jsonl." in writing.left[0]
    assert run["looks"] > 50
    assert run["read"] >= 7
    assert run["flaws"] == early.flaws == writing.flaws == {}
    assert run["left"] == []
    assert run["different certificates"] == run["different noises"] == 0
    text = scale_job_kill.section(found)
    assert "| images with exactly one result | 20 of 20 |" in text
    killed = early.killed + writing.killed
    assert f"| starts that were killed | {killed} |" in text


def test_bad_files_are_recorded_and_nothing_else_is_lost(folder, diffusers_folder):
    found = scale_job_many.measure(
        folder,
        images=60,
        bad=len(BAD),
        different=6,
        model=str(diffusers_folder),
        size=32,
    )
    for kind, each in found["kinds"].items():
        assert (each["planted"], each["right"]) == (1, 1), (kind, each["said"])
    assert found["good"] == 60 - len(BAD)
    assert found["lost"] == 0
    assert found["rows that are all NaN"] == found["rows of failures"] == len(BAD)
    # Copies of a picture are told from other pictures by their noise alone.
    assert found["between copies"] < 1e-4 < 0.01 < found["between pictures"]
    text = scale_job_many.section(found)
    assert f"{len(BAD)} of {len(BAD)} failures are recorded" in text


def test_an_image_with_two_results_or_none_is_found(tmp_path):
    head = '{"process": 0}\n'
    out = tmp_path / "certificates"
    out.mkdir()
    (out / "00000-000000.jsonl").write_text(head + '{"index": 0}\n{"index": 1}\n')
    (out / "00000-000001.jsonl").write_text(head + '{"index": 1}\n')
    (tmp_path / "certificates.jsonl").write_text('{"index": 0}\n{"index": 1}\n')
    with pytest.raises(AssertionError, match=r"2 of 3 images .* \[1, 2\]"):
        scale_job_kill.compare(tmp_path, tmp_path, 3)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("job.json", b'{"a": ', "Expecting value"),
        ("summary.json", b"", "Expecting value"),
        ("certificates.jsonl", b'{"index": 0}\n{"ind', "Unterminated"),
        ("certificates.jsonl", b'{"index": 0}', "does not end"),
        ("certificates/00000-000000.jsonl", b"", "empty"),
        ("noise.zarr/c/0/0", b"123", "Not enough data"),
    ],
)
def test_a_partial_file_is_seen_unless_it_is_temporary(tmp_path, name, content, reason):
    path = tmp_path / name
    create_array(tmp_path / "noise.zarr", 4, (2,), 4)
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.x1")
    hidden.write_bytes(content)
    looker = Looker(tmp_path)
    looker.look()
    assert looker.flaws == {}
    hidden.rename(path)
    looker.look()
    assert list(looker.flaws) == [name]
    assert reason in looker.flaws[name]
