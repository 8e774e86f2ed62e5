"""Small random T5 encoders and their tokenizers, as transformers saves them."""

from pathlib import Path

import torch
import transformers

WORDS = ("red", "cat", "dog", "a", "photo", "of", "blue", "house")
T5_VOCABULARY = 3 + 1 + 95 + len(WORDS) + 4
# Small, with several buckets of distances in ten tokens.
T5_OPTIONS = {
    "vocab_size": T5_VOCABULARY + 5,  # published tables have unused rows
    "d_model": 16,
    "d_kv": 6,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 2,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "feed_forward_proj": "gated-gelu",
}


def write_t5_tokenizer(folder: Path, max_length: int = 512) -> None:
    """Saves a SentencePiece tokenizer of letters and a few words, as T5's."""
    letters = [chr(c) for c in range(33, 128)]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocab += [(letter, -5.0) for letter in letters]
    vocab += [(f"▁{word}", -3.0) for word in WORDS]
    vocab += [(f"<extra_id_{i}>", 0.0) for i in reversed(range(4))]
    transformers.T5Tokenizer(
        vocab=vocab, extra_ids=4, model_max_length=max_length
    ).save_pretrained(folder)


def write_t5_encoder(folder: Path, *, kind: str = "T5", seed: int = 0, **options):
    """Saves a random encoder of the kind ``"T5"`` or ``"UMT5"``, and returns it."""
    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(**(T5_OPTIONS | options))
    model = getattr(transformers, f"{kind}EncoderModel")(config).eval()
    with torch.no_grad():  # transformers starts so small that texts hardly count
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model
