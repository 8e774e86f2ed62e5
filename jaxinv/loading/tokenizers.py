"""Tokenizers: the folders in which transformers stores them, and their checks."""

import os
from pathlib import Path
from typing import Annotated, Any

from jaxinv.checks import Range, one_line
from jaxinv.files.folders import files_below
from jaxinv.files.json_fields import check_field, naming
from weights_convert.reader import read_json

_VOCABULARY = ("vocab.json", "merges.txt")
_TOKENIZER_BYTES = 16 * 2**20  # limit on the size of one of its files
# transformers writes 1e30 for no limit.
_MaxLength = (
    Annotated[int, Range(1, 10**31)] | Annotated[float, Range(1e20, 1e31)] | None
)
#: The files of a tokenizer's folder that are read, if they are there.
TOKENIZER_FILES = (
    *_VOCABULARY, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
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


def load_tokenizer(folder: Path, root: Path, *, pad_first: bool = False) -> Any:
    """Load a tokenizer of CLIP, without running any code of its folder.

    Args:
        folder: The folder.
        root: The folder that links must not leave, from
            :func:`jaxinv.files.folders.model_root`.
        pad_first: Whether texts are padded with the first token of the vocabulary, as
            OpenCLIP's are, in place of what the folder says.

    Returns:
        The tokenizer of transformers.

    Raises:
        ValueError: If the folder is incomplete or its files are damaged.
    """
    missing = [name for name in _VOCABULARY if not (folder / name).is_file()]
    if missing and not (folder / "tokenizer.json").is_file():
        raise ValueError(f"{folder} is incomplete: {', '.join(missing)} missing")
    for path in files_below(folder, root):
        if path.suffix == ".json":
            options = read_json(path, max_bytes=_TOKENIZER_BYTES)
            if path.name == "tokenizer_config.json":
                with naming(path):
                    key = "model_max_length"
                    check_field(key, options.get(key), _MaxLength)
    try:
        tokenizer = _tokenizer_class().from_pretrained(folder, local_files_only=True)
        if pad_first:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
        tokenizer("a")
        return tokenizer
    except Exception as error:  # transformers and its parser have no common base class
        raise ValueError(
            f"{folder} does not hold a readable tokenizer ({type(error).__name__}: "
            f"{one_line(error)})"
        ) from None


def _tokenizer_class() -> Any:
    # transformers warns on import that PyTorch was not found; it is not needed here.
    variable = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
    before = os.environ.get(variable)
    os.environ[variable] = "1"
    try:
        from transformers import CLIPTokenizer
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before
    return CLIPTokenizer
