"""What a job takes for another model."""

import pytest

from jaxinv.jobs import model_fingerprint


def write(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def diffusers(folder, weights="w"):
    files = {"unet__config.json": "{}", "unet__model.safetensors": weights}
    return write(folder, **{"model_index.json": "{}"}, **files)


def converted(folder, weights="w"):
    files = {"unet__config.json": "{}", "unet__params__d__0": weights}
    index = {"model_index.json": "{}", "jaxinv.json": "{}"}
    return write(folder, **index, **files)


@pytest.mark.parametrize("layout", [diffusers, converted])
def test_other_weights_are_another_model_and_another_place_is_not(layout, tmp_path):
    first = model_fingerprint(layout(tmp_path / "first"))
    assert model_fingerprint(layout(tmp_path / "second")) == first
    assert model_fingerprint(layout(tmp_path / "third", weights="v")) != first


def test_files_that_are_not_read_do_not_count(tmp_path):
    folder = diffusers(tmp_path / "model")
    before = model_fingerprint(folder)
    write(folder, **{"unet__model.bin": "pickle", "README.md": "hello"})
    assert model_fingerprint(folder) == before
