"""A tokenizer of a few words, made on the spot, and a tiny model that speaks them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from dllm.processors.spelling import BYTES
from tests.tiny import MASK, STOP, VOCABULARY, tiny_model

LETTERS = {byte: letter for letter, byte in BYTES.items()}
WORDS = (
    *"abc01{}:,",
    *("ab", "ba", "bc", "abc", " ", " a", "00", "10", '"', '":', '{"', '"a"', "true", ": ", "1,", "é"),
)


def tokenizer(words: Sequence[str | bytes], special: Sequence[str], size: int) -> PreTrainedTokenizerFast:
    """Words from id 0 on, special tokens at the end of `size` ids, nothing in between."""
    spelled = ["".join(LETTERS[b] for b in (w.encode() if isinstance(w, str) else w)) for w in words]
    ids = {word: i for i, word in enumerate(spelled)} | {
        name: size - len(special) + i for i, name in enumerate(special)
    }
    backend = Tokenizer(models.WordLevel(ids, unk_token=special[0]))
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=special[0], mask_token=special[1], clean_up_tokenization_spaces=False
    )


@functools.cache
def speaking(geometry: str) -> Any:
    """The tiny model of a geometry with a tokenizer of `WORDS`; its end token is special."""
    words = tokenizer(WORDS, ("<end>", "<mask>"), VOCABULARY)
    assert words.convert_tokens_to_ids(["<end>", "<mask>"]) == [STOP, MASK]
    return replace(tiny_model(geometry), tokenizer=words)
