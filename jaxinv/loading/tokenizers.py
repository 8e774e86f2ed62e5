"""Tokenizers: the folders in which transformers stores them, and their checks.

Tokenizers of T5 are published as SentencePiece models (``spiece.model``), as a
``tokenizer.json``, or as both. ``tokenizer.json`` holds the whole tokenizer and takes
precedence. ``spiece.model`` is read with the protocol that transformers includes; the
package ``sentencepiece`` is not needed.

References:
    Kudo & Richardson 2018, "SentencePiece", arXiv:1808.06226.
"""

import os
from pathlib import Path
from typing import Annotated, Any

from jaxinv.checks import Range, one_line
from jaxinv.files.folders import files_below, read_regular
from jaxinv.files.json_fields import check_field, naming
from jaxinv.pipeline.text import T5_TOKENIZERS
from weights_convert.reader import read_json

_VOCABULARY = ("vocab.json", "merges.txt")
_WHOLE, _PIECES = "tokenizer.json", "spiece.model"
_TOKENIZER_BYTES = 64 * 2**20  # limit on the size of one of its files; UMT5's has 17 MB
# transformers writes 1e30 for no limit.
_MaxLength = (
    Annotated[int, Range(1, 10**31)] | Annotated[float, Range(1e20, 1e31)] | None
)
_ExtraIds = Annotated[int, Range(0, 2**12)]
#: The files of a tokenizer's folder that are read, if they are there.
TOKENIZER_FILES = (
    *_VOCABULARY, _WHOLE, _PIECES, "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja",
)  # fmt: skip


def check_vocabulary(folder: Path, tokenizer: Any, vocabulary: int) -> None:
    """Raise ValueError unless the text encoder knows all of a tokenizer's tokens."""
    largest = max(tokenizer.get_vocab().values(), default=0)
    many = len(tokenizer) > vocabulary
    if many or largest >= vocabulary:
        what = f"{len(tokenizer)} tokens" if many else f"the token id {largest}"
        raise ValueError(
            f"{folder}: the tokenizer has {what}, but the text encoder has only "
            f"{vocabulary} tokens (vocab_size)"
        )


def load_tokenizer(
    folder: Path, root: Path, kind: str = "CLIPTokenizer", *, pad_first: bool = False
) -> Any:
    """Load a tokenizer without running any code of its folder.

    Args:
        folder: The folder.
        root: The folder that links must not leave, from
            :func:`jaxinv.files.folders.model_root`.
        kind: The class that the model's index names: CLIP's or T5's.
        pad_first: Whether texts are padded with the first token of the vocabulary, as
            OpenCLIP's are, in place of what the folder says.

    Returns:
        The tokenizer of transformers.

    Raises:
        ValueError: If the folder is incomplete or its files are damaged.
    """
    t5 = kind in T5_TOKENIZERS
    needed = (_PIECES,) if t5 else _VOCABULARY
    missing = [name for name in needed if not (folder / name).is_file()]
    whole = (folder / _WHOLE).is_file()
    if missing and not whole:
        either = f" ({_WHOLE} would do, too)" if t5 else ""
        raise ValueError(
            f"{folder} is incomplete: {', '.join(missing)} missing{either}"
        )
    options: dict[str, Any] = {}
    for path in files_below(folder, root):
        if path.suffix == ".json":
            found = read_json(path, max_bytes=_TOKENIZER_BYTES)
            if path.name == "tokenizer_config.json":
                options = found
                with naming(path):
                    key = "model_max_length"
                    check_field(key, options.get(key), _MaxLength)
                    check_field("extra_ids", options.get("extra_ids", 0), _ExtraIds)
    try:
        if t5 and not whole:
            tokenizer = _of_pieces(folder / _PIECES, root, options)
        else:
            tokenizer = _tokenizer_class(t5).from_pretrained(
                folder, local_files_only=True
            )
        if pad_first:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
        tokenizer("a")
        return tokenizer
    except Exception as error:  # transformers and its parser have no common base class
        raise ValueError(
            f"{folder} does not hold a readable tokenizer ({type(error).__name__}: "
            f"{one_line(error)})"
        ) from None


def _of_pieces(file: Path, root: Path, options: dict[str, Any]) -> Any:
    """Return T5's tokenizer from a SentencePiece model of the unigram kind."""
    _tokenizer_class(t5=True)  # imports transformers without its advice
    from transformers import T5Tokenizer
    from transformers.convert_slow_tokenizer import import_protobuf

    model = import_protobuf().ModelProto()
    model.ParseFromString(read_regular(file, _TOKENIZER_BYTES, root))
    unknown = model.trainer_spec.unk_id
    if unknown != 2:  # transformers' class has it there
        raise ValueError(f"the unknown token is number {unknown}: {_WHOLE} is needed")
    extra = options.get("extra_ids", 100)
    vocabulary = [(piece.piece, piece.score) for piece in model.pieces]
    vocabulary += [(f"<extra_id_{i}>", 0.0) for i in reversed(range(extra))]
    length = options.get("model_max_length")
    return T5Tokenizer(
        vocab=vocabulary,
        _spm_precompiled_charsmap=model.normalizer_spec.precompiled_charsmap or None,
        extra_ids=extra,
        **({} if length is None else {"model_max_length": length}),
    )


def _tokenizer_class(t5: bool) -> Any:
    """Return the class that reads a folder.

    That of T5 reads ``tokenizer.json`` as it is. The class ``T5Tokenizer`` would take
    the vocabulary alone and replace the other rules, which are not those of UMT5.
    """
    # transformers warns on import that PyTorch was not found; it is not needed here.
    variable = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
    before = os.environ.get(variable)
    os.environ[variable] = "1"
    try:
        from transformers import CLIPTokenizer, PreTrainedTokenizerFast
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before
    return PreTrainedTokenizerFast if t5 else CLIPTokenizer
