"""Tokenizers of 32 ids whose texts are hard to cut: characters of several tokens, bytes, spaces that are cleaned up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.tiny import MASK, STOP, VOCABULARY

CHARACTERS = "€é😀日"
"""Characters of two, three and four bytes, of which the vocabularies have the single bytes."""


def wrap(tokenizer: Tokenizer, **more: Any) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="<|mask|>", eos_token="<|end|>", **more)


def fill(pieces: list[str]) -> dict[str, int]:
    """A vocabulary of those pieces and, where they leave room, words; the special tokens where the models have them."""
    used = list(dict.fromkeys(pieces))
    used += [f"w{i}" for i in range(VOCABULARY - 2 - len(used))]
    return {piece: i for i, piece in enumerate(used[: VOCABULARY - 2])} | {"<|end|>": STOP, "<|mask|>": MASK}


def byte_level() -> PreTrainedTokenizerFast:
    """Every token stands for bytes, as in GPT-2."""
    written = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(CHARACTERS)
    pieces = [*"".join(piece for piece, _ in written), "Ġa", "b", "Ċ", "."]
    tokenizer = Tokenizer(models.BPE(vocab=fill(pieces), merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    return wrap(tokenizer)


def byte_fallback() -> PreTrainedTokenizerFast:
    """Words, and bytes that count only in runs which are text as a whole, as in SentencePiece."""
    pieces = [f"<0x{byte:02X}>" for byte in CHARACTERS.encode()] + ["▁a", "b", "▁", "日"]
    tokenizer = Tokenizer(models.BPE(vocab=fill(pieces), merges=[], byte_fallback=True))
    replace, fallback, fuse, strip = (
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0),
    )  # fmt: skip
    tokenizer.decoder = decoders.Sequence([replace, fallback, fuse, strip])
    return wrap(tokenizer)


def word_piece() -> PreTrainedTokenizerFast:
    """Words with blanks between them, some of which are cleaned up afterwards, as in BERT."""
    pieces = ["it", "'", "s", "m", "do", "n't", "##ly", ".", ",", "!", "'s", "ve", "##'", "re", "a"]
    tokenizer = Tokenizer(models.WordPiece(vocab=fill(pieces), unk_token="a"))
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return wrap(tokenizer, clean_up_tokenization_spaces=True)


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte-level": byte_level,
    "byte-fallback": byte_fallback,
    "word-piece": word_piece,
}
STRINGS = {"byte-level": (" a b", "€.", "éb"), "byte-fallback": ("b日", "a a"), "word-piece": ("it's", "m do", ".,")}
"""Stop strings that these tokenizers can write with several sequences of tokens."""
