"""What is refused before several processes join; that they do is in test_scale."""

import pytest
from typer.testing import CliRunner

from jaxinv.cli import app
from jaxinv.scale import hosts as distributed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("host:1", None, None), "go together"),
        ((None, 2, 0), "go together"),
        (("host:1", 2, 2), "must lie in 0 to 1, got 2"),
        (("host:1", 2, -1), "must lie in 0 to 1, got -1"),
        (("host", 2, 0), "host:port, got 'host'"),
        ((None, None, None), "could not be joined"),  # no cluster here
    ],
)
def test_processes_that_cannot_be_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        distributed.join(*given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--coordinator", "host:1"], "need --distributed"),
        (["--process", "0"], "need --distributed"),
        (["--model-parallel", "1000"], "cannot be divided into groups of 1000"),
    ],
)
def test_options_of_devices_are_checked_before_anything_is_written(
    options, message, tmp_path
):
    manifest = tmp_path / "images.jsonl"
    manifest.write_text('{"path": "a.png"}\n')
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["batch", str(manifest), str(out), *options])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not out.exists()
