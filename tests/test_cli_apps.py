"""Watermarks, editing and interpolation on the command line."""

import json
import stat

import jax
import numpy as np
import pytest
from cli_cases import (
    BAD_INPUT,
    OK,
    expect_one_clear_line,
    only_json,
    picture,
    run,
    small,
    wide,
)

from jaxinv.apps import watermark
from jaxinv.files.image_reading import read_image
from jaxinv.files.images import write_image

__all__ = ["picture", "small", "wide"]  # fixtures

STEPS = ("--steps", 4)
NOT_FOUND, CANNOT_JUDGE, FAILED = 1, 3, 70


@pytest.mark.parametrize("scheme", watermark.SCHEMES)
def test_an_image_is_marked_and_the_mark_is_found(wide, tmp_path, scheme):
    key, image = tmp_path / "key.json", tmp_path / "marked.png"
    common = ("--key", key, *STEPS, "--json")
    options = ("--scheme", scheme, "--pattern", "random")
    made = run(
        "watermark", "embed", "-p", "red", "-g", 1, *common, *options, "--out", image
    )
    assert made.exit_code == OK, made.output
    assert only_json(made)["new_key"] is True
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    found = run("watermark", "detect", image, *common, "--rate", 0.05)
    assert found.exit_code == OK, found.output
    record = only_json(found)
    assert record["schemes"] == [scheme]
    assert record["detected"] is True
    assert record["verdict"] == "found"
    assert record["reason"] is None
    assert record["p_value"] < 1e-4
    plain = tmp_path / "plain.png"
    run("sample", "-p", "red", "-g", 1, *STEPS, "--out", plain)
    other = run("watermark", "detect", plain, *common, "--rate", 1e-4)
    assert other.exit_code == NOT_FOUND
    assert only_json(other)["detected"] is False
    # A second image with the same key, which is read and not drawn.
    before = key.read_bytes()
    again = run("watermark", "embed", "-p", "red", *common, "--seed", 1, "--out", image)
    assert only_json(again)["new_key"] is False
    assert key.read_bytes() == before


def test_a_drawn_seed_is_said_nowhere_and_a_given_one_is(wide, tmp_path, monkeypatch):
    drawn = 4_815_162_342_108
    monkeypatch.setattr("secrets.randbits", lambda _: drawn)
    embed = ("watermark", "embed", "-p", "red", *STEPS, "--out", tmp_path / "a.png")
    for options in ((), ("--json",)):
        made = run(*embed, "--key", tmp_path / "key.json", *options)
        assert made.exit_code == OK, made.output
        assert str(drawn) not in made.output
        assert f"{drawn:x}" not in made.output.lower()
    assert only_json(made)["seed"] is None
    assert str(drawn) not in (tmp_path / "key.json").read_text()
    given = run(*embed, "--key", tmp_path / "key.json", "--seed", 7, "--json")
    assert only_json(given)["seed"] == 7


def test_a_message_is_embedded_and_read(wide, tmp_path):
    key, image = tmp_path / "key.json", tmp_path / "marked.png"
    embed = ("watermark", "embed", "-p", "red", "-g", 1, *STEPS, "--out", image)
    # The tiny model's noise has 16 bits.
    made = run(*embed, "--key", key, "--message", "hi", "--json")
    assert made.exit_code == OK, made.output
    assert only_json(made)["scheme"] == "gaussian-shading"
    detect = ("watermark", "detect", image, "--key", key, *STEPS)
    record = only_json(run(*detect, "--json"))
    assert record["message_text"] == "hi"
    assert record["message_hex"] == "6869"
    assert record["accuracy"] == 1
    assert "message hi" in run(*detect).stdout
    again = run(*embed, "--key", key, "--message", "hex:6869", "--json")
    assert again.exit_code == OK, again.output
    other = run(*embed, "--key", key, "--message", "ho", "--json")
    expect_one_clear_line(other, "holds another message", "new key file")
    ring = ("--key", tmp_path / "ring.json", "--scheme", "tree-ring")
    refused = run(*embed, *ring, "--message", "hi", "--json")
    expect_one_clear_line(refused, "--message needs --scheme gaussian-shading")
    long = run(*embed, "--key", tmp_path / "long.json", "--message", "long", "--json")
    expect_one_clear_line(long, "16 bits, 2 bytes of text; got 4 bytes")
    assert not (tmp_path / "long.json").exists()


def test_exit_codes_tell_verdicts_from_failures(wide, tmp_path, monkeypatch):
    key, image = tmp_path / "key.json", tmp_path / "flat.png"
    made = watermark.tree_ring_key(
        jax.random.key(3), wide.latent_shape, radius=2, pattern="random"
    )
    watermark.write_key(key, made)
    write_image(image, np.full((32, 32, 3), 128, np.uint8))
    detect = ("watermark", "detect", image, "--key", key, *STEPS)
    result = run(*detect, "--json")
    assert result.exit_code == CANNOT_JUDGE, result.output
    record = only_json(result)
    assert record["verdict"] == "cannot judge"
    assert record["detected"] is None
    assert "power" in record["reason"]
    assert "cannot judge" in run(*detect).stdout
    assert run(*detect, "--rate", 2).exit_code == BAD_INPUT

    def broken(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("jaxinv.scale.jobs.detect.verdict", broken)
    result = run(*detect, "--json")
    assert result.exit_code == FAILED
    assert "out of memory" in result.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [((), True), (("-p", "red"), True), (("-p", "red", "-g", 3), False)],
)
def test_detection_says_what_it_costs_not_to_know_the_prompt(
    wide, tmp_path, options, said
):
    key, image = tmp_path / "key.json", tmp_path / "marked.png"
    embed = ("watermark", "embed", "-p", "red", "--key", key, *STEPS, "--out", image)
    assert run(*embed).exit_code == OK
    result = run("watermark", "detect", image, "--key", key, *STEPS, *options)
    assert ("its mark may be missed" in result.stderr) == said


def test_the_nearest_of_several_keys_is_named(wide, tmp_path):
    keys = [tmp_path / f"{k}.json" for k in range(2)]
    for key in keys:
        made = run(
            *("watermark", "embed", "-p", "red", "-g", 1, "--key", key, *STEPS),
            *("--pattern", "random", "--out", tmp_path / "marked.png", "--json"),
        )
        assert made.exit_code == OK, made.output
    found = run(
        *("watermark", "classify", tmp_path / "marked.png", *STEPS, "--json"),
        *("--key", keys[0], "--key", keys[1]),
    )
    assert found.exit_code == OK, found.output
    record = only_json(found)
    assert set(record["distances"]) == {str(key) for key in keys}
    assert record["nearest"] == str(keys[1])
    assert record["p_value"] < 1e-4


@pytest.mark.parametrize("mask", [None, "auto", "file"])
def test_an_edit_writes_pictures_and_a_report(picture, wide, tmp_path, mask):
    out = tmp_path / "edited"
    options = ()
    if mask == "file":
        pixels = np.zeros((32, 32, 3), np.uint8)
        pixels[:, :8] = 255
        write_image(tmp_path / "mask.png", pixels)
        options = ("--mask", tmp_path / "mask.png")
    elif mask:
        options = ("--mask", mask)
    result = run(
        *("edit", picture, "-p", "red", "-t", "blue", "--steps", 4, "--freeze", 2),
        *("--out", out, "--json", *options),
    )
    assert result.exit_code == OK, result.output
    record = only_json(result)
    names = {"edited.png", "panel.png", "result.json"} | (
        {"mask.png"} if mask else set()
    )
    assert {path.name for path in out.iterdir()} == names
    assert json.loads((out / "result.json").read_text()) == record
    assert read_image(out / "edited.png").pixels.shape == (32, 32, 3)
    if mask == "file":
        assert record["measures"]["changed_share"] == pytest.approx(0.25)
        # The same formula stands for both prompts: nothing changes.
        assert record["latent_change_db"] < -60


def test_interpolation_begins_and_ends_at_the_images(picture, wide, tmp_path):
    other = tmp_path / "other.png"
    write_image(other, read_image(picture).pixels[::-1])
    out = tmp_path / "between"
    result = run(
        *("interpolate", picture, other, "-p", "red", "--points", 3, "--steps", 4),
        *("--out", out, "--json"),
    )
    assert result.exit_code == OK, result.output
    names = {"00.png", "01.png", "02.png", "strip.png", "result.json"}
    assert {path.name for path in out.iterdir()} == names
    # As near as the autoencoder comes.
    decoded = run(
        *("invert", picture, "-p", "red", "--steps", 4, "--out", tmp_path / "inv"),
        "--json",
    )
    limit = only_json(decoded)["reconstruction"]["autoencoder_psnr_db"]
    assert only_json(result)["ends_psnr_db"][0] == pytest.approx(limit, abs=0.5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--scheme", "dots"], ("unknown scheme 'dots'", "tree-ring")),
        (["--pattern", "star"], ("unknown pattern 'star'", "ring")),
        (["--sampler", "edict"], ("unknown sampler", "ddim")),
        (["--out", "marked.xyz"], (".xyz",)),
    ],
)
def test_a_bad_embed_is_explained_and_leaves_no_key(wide, tmp_path, options, words):
    key = tmp_path / "key.json"
    common = ("--key", key, "--out", tmp_path / "marked.png")
    result = run("watermark", "embed", "-p", "red", *common, *options, "--json")
    expect_one_clear_line(result, *words)
    assert not key.exists()


def test_a_key_that_is_none_or_of_another_model_is_explained(picture, wide, tmp_path):
    missing = run("watermark", "detect", picture, "--key", tmp_path / "none.json")
    expect_one_clear_line(missing, "no such key file")
    (tmp_path / "bad.json").write_text("{}")
    bad = run("watermark", "detect", picture, "--key", tmp_path / "bad.json")
    expect_one_clear_line(bad, "is not a watermark key")
    other = watermark.tree_ring_key(jax.random.key(0), (16, 16, 4), radius=3)
    watermark.write_key(tmp_path / "other.json", other)
    wrong = run("watermark", "detect", picture, "--key", tmp_path / "other.json")
    expect_one_clear_line(wrong, "(16, 16, 4)", "(8, 8, 4)")
    rate = run(
        *("watermark", "detect", picture, "--key", tmp_path / "other.json"),
        *("--rate", 2),
    )
    expect_one_clear_line(rate, "--rate must lie between 0 and 1")


def test_an_edit_by_another_method_records_it(picture, wide, tmp_path):
    result = run(
        *("edit", picture, "-p", "red", "-t", "blue", "--steps", 2),
        *("--method", "prompt-to-prompt", "--out", tmp_path, "--json"),
    )
    assert result.exit_code == OK, result.output
    assert only_json(result)["method"] == "prompt_to_prompt"
    assert (tmp_path / "edited.png").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--mask", "nowhere.png"], ("no such image",)),
        (["--freeze", 9, "--steps", 4], ("--freeze 9",)),
        (["--sampler", "magic"], ("unknown sampler",)),
        (["--method", "zoom"], ("unknown editing method 'zoom'", "masactrl")),
        (["--method", "masactrl", "--freeze", 1], ("--freeze needs --method",)),
    ],
)
def test_a_bad_edit_is_explained(picture, wide, tmp_path, options, words):
    common = ("-p", "red", "-t", "blue", "--out", tmp_path)
    expect_one_clear_line(run("edit", picture, *common, *options, "--json"), *words)


def test_a_mask_of_another_size_is_explained(picture, wide, tmp_path):
    write_image(tmp_path / "mask.png", np.zeros((16, 32, 3), np.uint8))
    result = run(
        *("edit", picture, "-p", "red", "-t", "blue", "--out", tmp_path),
        *("--mask", tmp_path / "mask.png", "--json"),
    )
    expect_one_clear_line(result, "32x16", "32x32")


def test_too_few_points_are_explained(picture, wide, tmp_path):
    result = run(
        *("interpolate", picture, picture, "-p", "red", "--points", 1),
        *("--out", tmp_path, "--json"),
    )
    assert result.exit_code == BAD_INPUT
    expect_one_clear_line(result, "--points")
