"""Models of the hub, with a cache on the disk and no network."""

import json
import os
import random
import shutil
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import jax
import numpy as np
import pytest
from typer.testing import CliRunner

import jaxinv as ji
import weights_convert
from jaxinv.cli import app
from jaxinv.loading.convert import convert
from jaxinv.loading.find import find_model, wanted_files
from jaxinv.scale.jobs import model_fingerprint

NAME, COMMIT = "somebody/model", "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = "unet/diffusion_pytorch_model"
# Everything that an HTTP client raises before there is an answer, and answers.
ERRORS = [
    "ConnectError", "ConnectTimeout", "ReadError", "ReadTimeout", "WriteError",
    "WriteTimeout", "PoolTimeout", "CloseError", "ProxyError", "RemoteProtocolError",
    "LocalProtocolError", "UnsupportedProtocol", "DecodingError", "TooManyRedirects",
    OSError, ValueError, RuntimeError, 401, 403, 404, 500, 502,
]  # fmt: skip


def in_cache(source, cache, subfolder="", **renamed):
    """Writes a snapshot as ``huggingface_hub`` does: links to blobs."""
    root = cache / f"models--{NAME.replace('/', '--')}"
    snapshot = root / "snapshots" / COMMIT
    for folder in (root / "refs", root / "blobs", snapshot):
        folder.mkdir(parents=True)
    (root / "refs/main").write_text(COMMIT)
    (root / "refs/v1").write_text(COMMIT)
    for number, path in enumerate(p for p in source.rglob("*") if p.is_file()):
        shutil.copy(path, root / f"blobs/{number}")
        link = snapshot / subfolder / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(root / f"blobs/{number}", link.parent))
    return snapshot / subfolder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, the only one there is."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


@pytest.fixture
def network(monkeypatch):
    """Sets what every request ends with, and counts them."""
    client = huggingface_hub.utils.get_session()
    library = sys.modules[type(client).__mro__[-2].__module__.split(".")[0]]
    asked = []

    def set_error(error, text=""):
        def send(self, request):
            asked.append(request)
            if isinstance(error, int):
                return library.Response(error, request=request)
            kind = getattr(library, error) if isinstance(error, str) else error
            raise kind(text)

        monkeypatch.setattr(type(client), "_send_single_request", send)
        return asked

    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("waits"))
    return set_error


def same(first, second):
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(np.array_equal(*pair) for pair in pairs)


@pytest.mark.parametrize("error", ERRORS)
def test_a_cached_model_loads_whatever_the_network_does(
    error, network, cache, diffusers_folder, tiny
):
    in_cache(diffusers_folder, cache)
    asked = network(error, "what the client says\nin two lines")
    with pytest.warns(UserWarning, match="hub did not answer for somebody/model"):
        pipe = ji.load(NAME, revision=random.Random(str(error)).choice([None, "v1"]))
    assert asked
    assert pipe.name == NAME
    assert same(pipe, tiny)


@pytest.mark.parametrize("error", ERRORS)
def test_a_model_that_is_not_cached_is_one_clear_line(error, network, cache, tmp_path):
    network(error, random.Random(str(error)).choice(["", "two\nlines"]))
    with pytest.raises(FileNotFoundError, match="hub and its local cache") as caught:
        ji.load(NAME)
    message = str(caught.value)
    assert "\n" not in message
    assert "()" not in message  # there is a reason, if only the error's name
    with pytest.raises(FileNotFoundError, match="hub and its local cache"):
        convert(NAME, tmp_path / "converted")
    result = CliRunner().invoke(app, ["sample", "--model", NAME, "--prompt", "cat"])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("offline", [True, False])
def test_asking_for_the_cache_alone_asks_nobody_and_warns_of_nothing(
    offline, network, cache, diffusers_folder, monkeypatch
):
    in_cache(diffusers_folder, cache)
    asked = network("ConnectError")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        ji.load(NAME, local_files_only=not offline)
    assert not asked
    shutil.rmtree(cache)
    with pytest.raises(FileNotFoundError, match=r"\(Cannot (find|reach) "):
        ji.load(NAME, local_files_only=not offline)


def test_another_cache_and_a_subfolder_are_where_they_are_said_to_be(
    network, cache, diffusers_folder, tmp_path, tiny
):
    in_cache(diffusers_folder, tmp_path / "other", "deep/er")
    options = {"cache_dir": tmp_path / "other", "local_files_only": True}
    assert same(ji.load(NAME, subfolder="deep/er", **options), tiny)
    with pytest.raises(ValueError, match="has no folder shallow"):
        ji.load(NAME, subfolder="shallow", **options)
    with pytest.raises(ValueError, match=r"no model_index\.json"):
        ji.load(NAME, **options)
    with pytest.raises(FileNotFoundError):
        ji.load(NAME, local_files_only=True)
    for wrong in ("../x", "/x", "a/../../x"):
        with pytest.raises(ValueError, match="not a folder inside"):
            ji.load(NAME, subfolder=wrong, **options)
    shutil.copytree(diffusers_folder, tmp_path / "local/inner")
    assert same(ji.load(tmp_path / "local", subfolder="inner"), tiny)


def test_a_snapshot_that_lacks_a_part_says_which(network, cache, diffusers_folder):
    (in_cache(diffusers_folder, cache) / f"{WEIGHTS}.safetensors").unlink()
    network("ConnectError")
    with (
        pytest.warns(UserWarning, match="did not answer"),
        pytest.raises(ValueError, match="unet does not hold a"),
    ):
        ji.load(NAME)


def test_a_variant_is_read_where_there_is_one(diffusers_folder, tmp_path, tiny):
    folder = shutil.copytree(diffusers_folder, tmp_path / "model")
    other = tiny.network.conv_in.bias + 1
    values = weights_convert.load_component(folder / "unet")
    values.conv_in.bias.set_value(other)
    weights_convert.save_component(values, tmp_path / "other")
    (tmp_path / f"other/{WEIGHTS.split('/')[1]}.safetensors").rename(
        folder / f"{WEIGHTS}.half.safetensors"
    )
    assert same(ji.load(folder), tiny)
    pipe = ji.load(folder, variant="half")
    np.testing.assert_array_equal(pipe.network.conv_in.bias, other)
    assert same(pipe.vae, tiny.vae)
    with pytest.raises(
        ValueError, match=r"no part of .* has weights of variant='fp16'"
    ):
        ji.load(folder, variant="fp16")
    convert(diffusers_folder, tmp_path / "orbax")
    with pytest.raises(ValueError, match="has no variants"):
        ji.load(tmp_path / "orbax", variant="half")


def test_what_is_said_of_the_hub_reaches_it(monkeypatch, cache, diffusers_folder):
    given, listed = {}, {}
    files = [f"sub/{WEIGHTS}{kind}.safetensors" for kind in ("", ".fp16", ".bf16")]
    files += ["sub/model_index.json", "sub/vae/diffusion_pytorch_model.safetensors"]

    class Api:
        def __init__(self, **options):
            listed.update(options)

        def model_info(self, name, revision=None):
            listed.update(name=name, revision=revision)
            siblings = [SimpleNamespace(rfilename=file) for file in files]
            return SimpleNamespace(siblings=siblings)

    def download(name, **options):
        given.update(options, name=name)
        return str(diffusers_folder.parent)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    options = {"token": "secret", "cache_dir": cache, "revision": "v1"}
    find_model(NAME, **options, variant="fp16", subfolder=diffusers_folder.name)
    assert listed == {"token": "secret", "name": NAME, "revision": "v1"}
    patterns = given.pop("allow_patterns")
    assert given == {"name": NAME, **options}
    wanted = wanted_files(files, variant="fp16", subfolder="sub")
    assert set(wanted) == {files[1], files[3], files[4]}
    assert patterns == [f"{diffusers_folder.name}/model_index.json"]


def test_a_job_is_of_the_files_that_it_loads(network, cache, diffusers_folder):
    """The hub is asked once: a branch that moves in between gives no other digest."""
    in_cache(diffusers_folder, cache)
    asked = network("ConnectError")
    with open("empty.png", "wb"):
        pass
    found = CliRunner().invoke(app, ["batch", ".", "job", "--model", NAME])
    assert found.exit_code == 3, found.output
    assert len([one for one in asked if NAME in str(one.url)]) == 1
    job = json.loads(Path("job/job.json").read_text())
    assert job["settings"]["model_sha256"] == model_fingerprint(diffusers_folder)
