"""Tokenizers of T5: transformers' token ids, from either published file."""

import numpy as np
import pytest
import transformers
from t5_cases import WORDS, write_t5_tokenizer
from transformers.convert_slow_tokenizer import import_protobuf

from jaxinv.loading.tokenizers import load_tokenizer
from jaxinv.pipeline.text import T5_TOKENIZERS, padded_ids

KIND = T5_TOKENIZERS[0]


def write_pieces(folder, source, unk_id=2):
    """Writes a ``spiece.model`` with the vocabulary of a tokenizer's folder."""
    known = transformers.T5Tokenizer.from_pretrained(source)
    model = import_protobuf().ModelProto()
    model.trainer_spec.unk_id = unk_id
    for piece, score in known._vocab_scores:
        if not piece.startswith("<extra_id_"):
            model.pieces.add(piece=piece, score=score)
    folder.mkdir()
    (folder / "spiece.model").write_bytes(model.SerializeToString())
    (folder / "tokenizer_config.json").write_text('{"extra_ids": 4}')


def prompts():
    rng = np.random.default_rng(0)
    words = [*WORDS, "zebra", "<extra_id_1>", "  \n", "\u00e9", "\u6f22"]
    return ["", *(" ".join(rng.choice(words, 6)) for _ in range(8))]


@pytest.mark.parametrize("file", ["tokenizer.json", "spiece.model"])
def test_ids_are_those_of_transformers(file, tmp_path):
    write_t5_tokenizer(tmp_path / "whole")
    theirs = transformers.T5Tokenizer.from_pretrained(tmp_path / "whole")
    if file == "spiece.model":
        write_pieces(tmp_path / "pieces", tmp_path / "whole")
    folder = tmp_path / ("whole" if file == "tokenizer.json" else "pieces")
    ours = load_tokenizer(folder, folder, KIND)
    for prompt in prompts():
        wanted = theirs(prompt, padding="max_length", max_length=40, truncation=True)
        found = padded_ids(ours, 40, prompt)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, wanted["input_ids"])


def test_a_long_prompt_is_cut_before_the_end_token_with_a_warning(tmp_path):
    write_t5_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path, tmp_path, KIND)
    whole = padded_ids(tokenizer, 9, "red cat red cat")
    assert whole.tolist()[4:] == [1, 0, 0, 0, 0]
    with pytest.warns(UserWarning, match="has 5 tokens, of which .* reads 3"):
        cut = padded_ids(tokenizer, 3, "red cat red cat")
    assert cut.tolist() == [*whole[:2], 1]


def test_what_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"spiece.model missing \(tokenizer.json"):
        load_tokenizer(tmp_path, tmp_path, KIND)
    (tmp_path / "spiece.model").write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match="does not hold a readable tokenizer"):
        load_tokenizer(tmp_path, tmp_path, KIND)
    write_t5_tokenizer(tmp_path / "whole")
    write_pieces(tmp_path / "pieces", tmp_path / "whole", unk_id=3)
    with pytest.raises(ValueError, match="unknown token is number 3"):
        load_tokenizer(tmp_path / "pieces", tmp_path, KIND)
