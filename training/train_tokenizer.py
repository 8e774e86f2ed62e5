"""Train the byte-pair tokenizer of ``emoji64``, in CLIP's file format.

    python -m training.train_tokenizer --data package --out work/tokenizer

CLIP's vocabulary is built in a fixed order: 256 bytes, 256 bytes that end a word, one
token per merge, then the two specials. The trainer only finds the merges; the
vocabulary is laid out here, so that every byte string has a tokenization.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from training.backgrounds import random_background
from training.captions import caption, subject_phrases
from training.emoji import load_emoji

START, END = "<|startoftext|>", "<|endoftext|>"
#: CLIP's word pattern.
PATTERN = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|"
    r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


def bytes_in_clip_order() -> list[str]:
    """The 256 byte characters in the order of CLIP's vocabulary."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def learn_merges(texts: list[str], count: int) -> list[tuple[str, str]]:
    """Find byte-pair merges.

    Args:
        texts: The corpus.
        count: How many merges at most.

    Returns:
        The merges, most frequent first.
    """
    tokenizer = Tokenizer(
        models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>")
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=512 + count,
        min_frequency=2,
        end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    pairs = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in merges]
    return pairs[:count]


def vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    """CLIP's vocabulary for a list of merges."""
    single = bytes_in_clip_order()
    tokens = single + [c + "</w>" for c in single]
    # Two merges can make one token; it is listed once.
    tokens += dict.fromkeys("".join(pair) for pair in merges)
    tokens += [START, END]
    return {token: i for i, token in enumerate(tokens)}


def write_tokenizer(
    folder: Path, merges: list[tuple[str, str]], max_length: int
) -> None:
    """Write ``vocab.json``, ``merges.txt`` and the configs that transformers reads."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(vocabulary(merges), ensure_ascii=False)
    (folder / "vocab.json").write_text(text, encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {
        "bos_token": START,
        "eos_token": END,
        "pad_token": END,
        "unk_token": END,
    }
    config = {
        **special,
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": max_length,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(
        json.dumps(special, indent=2) + "\n"
    )


def main() -> None:
    """Train on every phrase and on random captions of the training emoji."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--merges", type=int, default=2300)
    parser.add_argument("--max-length", type=int, default=24)
    args = parser.parse_args()
    data = load_emoji(args.data)
    rng = np.random.default_rng(0)
    texts = []
    for index in data.train_indices:
        emoji = data.entries[index]
        if not emoji.tones:
            repeats = 5 if emoji.iconic else 2
            texts += [p for p in subject_phrases(emoji) for _ in range(repeats)]
        texts.append(caption(emoji, random_background(rng, 4).colours, rng))
    merges = learn_merges(texts, args.merges)
    write_tokenizer(args.out, merges, args.max_length)
    print(f"{len(merges)} merges, vocabulary of {len(vocabulary(merges))}")


if __name__ == "__main__":
    main()
