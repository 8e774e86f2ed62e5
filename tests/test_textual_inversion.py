"""Words of textual inversion: diffusers' token ids and text vectors."""

import diffusers
import jax
import numpy as np
import pytest
import torch
from cli_cases import OK, only_json, run
from safetensors.numpy import save_file
from sdxl_cases import WIDTHS, diffusers_pipeline, write_sdxl_pipeline

import jaxinv as ji

WIDTH = 16  # of the random pipeline's text vectors


def vectors(seed, number, width=WIDTH, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((number, width)).astype(dtype)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of all kinds with their words; None for the one in the file."""
    folder = tmp_path_factory.mktemp("words")
    contents = {
        "diffusers": ({"<cat>": vectors(0, 1)}, None),
        "several": ({"<red cat>": vectors(1, 3, dtype=np.float16)}, None),
        "flat": ({"<dog>": vectors(2, 1)[0]}, None),
        "a1111": ({"emb_params": vectors(3, 2)}, "style"),
        "renamed": ({"<cat>": vectors(4, 2)}, "<my-cat>"),
    }
    found = []
    for name, (tensors, token) in contents.items():
        save_file(tensors, folder / f"{name}.safetensors")
        found.append((folder / f"{name}.safetensors", token))
    return found


WORDS = ["<cat>", "<red cat>", "<dog>", "style", "<my-cat>", "red", "cat", "a"]


def prompts():
    rng = np.random.default_rng(5)
    drawn = [" ".join(rng.choice(WORDS, 4)) for _ in range(6)]
    return ["", "red cat", "<my-cat>,<cat>", "a style_1 cat", *drawn]


def test_ids_and_vectors_are_those_of_diffusers(diffusers_folder, tiny, files):
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(diffusers_folder)
    for path, token in files:
        theirs.load_textual_inversion(path.parent, weight_name=path.name, token=token)
    ours = ji.load(diffusers_folder, textual_inversion=files)
    assert [word.token for word in ours.words] == WORDS[:5]
    for prompt in prompts():
        converted = theirs.maybe_convert_prompt(prompt, theirs.tokenizer)
        length = theirs.tokenizer.model_max_length
        wanted = theirs.tokenizer(
            converted, padding="max_length", max_length=length, truncation=True
        )["input_ids"]
        np.testing.assert_array_equal(ours.tokenize(prompt), wanted)
        with torch.no_grad():
            text, _ = theirs.encode_prompt(prompt, "cpu", 1, False)
        found = ours.encode_prompt(prompt)
        np.testing.assert_allclose(found, text[0], rtol=0, atol=1e-5)
    # The model that was loaded without them has not changed.
    plain = ji.add_textual_inversion(tiny, files[:1])
    assert tiny.words == ()
    assert len(plain.tokenizers[0]) == len(tiny.tokenizers[0]) + 1
    text = "a <cat> cat"
    assert (plain.tokenize(text) != tiny.tokenize(text)).any()
    np.testing.assert_array_equal(
        plain.encode_prompt("red cat"), tiny.encode_prompt("red cat")
    )
    encoder = plain.text_encoders[0]
    assert encoder.config.vocab_size == len(plain.tokenizers[0])
    assert [x.shape for x in jax.tree.leaves(tiny.text_encoders[0])] != [
        x.shape for x in jax.tree.leaves(encoder)
    ]


def test_sdxl_has_a_matrix_for_each_text_encoder(tmp_path):
    folder = tmp_path / "sdxl"
    write_sdxl_pipeline(folder)
    first, second = (vectors(i, 2, width) for i, width in enumerate(WIDTHS))
    file = tmp_path / "word.safetensors"
    save_file({"clip_l": first, "clip_g": second}, file)
    theirs = diffusers_pipeline(folder)
    for name, matrix in (("", first), ("_2", second)):
        theirs.load_textual_inversion(
            {"<s>": torch.from_numpy(matrix)},
            tokenizer=getattr(theirs, f"tokenizer{name}"),
            text_encoder=getattr(theirs, f"text_encoder{name}"),
        )
    ours = ji.load(folder, textual_inversion=[(file, "<s>")])
    with torch.no_grad():
        text, _, pooled, _ = theirs.encode_prompt("red <s> cat", device="cpu")
    found = ours.encode_prompt("red <s> cat")
    np.testing.assert_allclose(found.text, text[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.pooled, pooled[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("tensors", "token", "message"),
    [
        ({"emb_params": vectors(0, 1)}, None, "names no word"),
        ({"<cat>": vectors(0, 1, 12)}, None, r"shape \(1, 12\).*requires \(n, 16\)"),
        ({"<cat>": vectors(0, 0)}, None, r"requires \(n, 16\)"),
        ({"<cat>": np.ones((1, WIDTH), np.int32)}, None, "I32"),
        ({"<cat>": np.full((1, WIDTH), np.nan)}, None, "NaN"),
        ({"a": vectors(0, 1), "b": vectors(1, 1)}, None, "but holds 2"),
        (
            {"clip_l": vectors(0, 1), "clip_g": vectors(1, 1)},
            "<a>",
            "clip_g.* no place",
        ),
        ({"<cat>": vectors(0, 1)}, "a", "'a' is in the tokenizer's vocabulary"),
        ({"<cat>": vectors(0, 1)}, "a_2", "'a' is in the tokenizer's vocabulary"),
        ({"<cat>": vectors(0, 1)}, " \n", "Unicode text that is not blank"),
        ({"<cat>": vectors(0, 1)}, "\ud83d", "Unicode text that is not blank"),
    ],
)
def test_files_that_do_not_fit_are_refused_before_the_weights_are_read(
    diffusers_folder, tmp_path, monkeypatch, tensors, token, message
):
    def read(*_, **__):
        raise AssertionError("weights were read")

    monkeypatch.setattr("weights_convert.load_component", read)
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match=message):
        ji.load(
            diffusers_folder,
            textual_inversion=[(tmp_path / "bad.safetensors", token)],
        )


def test_pickles_and_words_that_are_known_are_refused(tiny, files, tmp_path):
    file = tmp_path / "cat.pt"
    file.write_bytes(b"not opened")
    with pytest.raises(ValueError, match=r"cat\.pt is a pickle.*emb_params"):
        ji.add_textual_inversion(tiny, [(file, "<cat>")])
    once = ji.add_textual_inversion(tiny, files[1:2])
    for token in ("<red cat>", "<red cat>_1"):
        with pytest.raises(ValueError, match="in the tokenizer's vocabulary already"):
            ji.add_textual_inversion(once, [(files[0][0], token)])


def test_vectors_that_the_parameters_type_cannot_hold_are_refused(
    diffusers_folder, tmp_path
):
    file = tmp_path / "large.safetensors"
    save_file({"<cat>": 1e5 * vectors(0, 1)}, file)
    given = {"textual_inversion": [(file, None)], "param_dtype": "float16"}
    with pytest.raises(ValueError, match="too large for float16"):
        ji.load(diffusers_folder, dtype="bfloat16", **given)
    ji.load(diffusers_folder, **given | {"param_dtype": "bfloat16"})


def test_the_command_line_adds_words_and_records_them(
    diffusers_folder, files, tmp_path
):
    (cat, _), *_, (renamed, _) = files
    result = run(
        *("sample", "--model", diffusers_folder, "--prompt", "<my-cat> <cat>"),
        *("--textual-inversion", cat, "--textual-inversion", f"{renamed}:<my-cat>"),
        *("--steps", 3, "--out", tmp_path / "a.png", "--json"),
    )
    assert result.exit_code == OK, result.output
    words = only_json(result)["words"]
    assert [word["token"] for word in words] == ["<cat>", "<my-cat>"]
