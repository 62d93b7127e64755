"""The spelling of a tokenizer: the bytes that each token adds to a text."""

from __future__ import annotations

import json
import re
from typing import Any

from dllm.errors import ConfigError

SINGLE_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
"""A token of SentencePiece that stands for one byte."""


def spell_tokens(tokenizer: Any, vocabulary: int) -> list[bytes | None]:
    """List the bytes of each of the `vocabulary` ids; None where a token adds nothing to a text (special, or no token).

    Two ways of spelling are known: bytes as letters (GPT-2, Qwen, Llama 3), and pieces in which "▁" stands for a space,
    perhaps with single bytes (SentencePiece: Llama 2).

    Args:
        tokenizer: A tokenizer of `transformers`.
        vocabulary: Number of ids, which may be more than the tokenizer has.

    Raises:
        ConfigError: The tokenizer spells in another way, or there is none.
    """
    if tokenizer is None:
        raise ConfigError("a constraint on text needs a tokenizer, and this checkpoint has none")
    backend = getattr(tokenizer, "backend_tokenizer", None)  # slow tokenizers have none
    kinds = _decoder_types(None if backend is None else json.loads(backend.to_str())["decoder"])
    if "ByteLevel" in kinds:
        read = _bytes_from_letters
    elif kinds & {"Metaspace", "Replace", "ByteFallback"} and "WordPiece" not in kinds:
        read = _bytes_from_piece
    else:
        raise ConfigError(
            f"a constraint on text needs the bytes of every token, and how {type(tokenizer).__name__} spells them "
            f"({', '.join(sorted(kinds)) or 'no decoder'}) is not known"
        )
    count = min(len(tokenizer), vocabulary)
    special = set(tokenizer.all_special_ids)
    added = tokenizer.added_tokens_decoder
    found: list[bytes | None] = [None] * vocabulary
    for token, piece in enumerate(tokenizer.convert_ids_to_tokens(range(count))):
        if token in special or piece is None:
            continue
        # Added tokens are kept as plain text, not in the spelling of the others.
        found[token] = added[token].content.encode() if token in added else read(piece)
    return found


def _decoder_types(part: Any) -> set[str]:
    """Collect the types of the steps by which a tokenizer turns tokens into text."""
    if part is None:
        return set()
    return {part["type"]}.union(*(_decoder_types(inner) for inner in part.get("decoders", ())))


def _bytes_from_letters(piece: str) -> bytes | None:
    """Read bytes that are written as letters; None where a character is none of these."""
    try:
        return bytes(BYTES[letter] for letter in piece)
    except KeyError:
        return None


def _bytes_from_piece(piece: str) -> bytes:
    """Read a piece of text, or a single byte."""
    byte = SINGLE_BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace("▁", " ").encode()


def _byte_alphabet() -> dict[str, int]:
    """List GPT-2's letter of each byte: the byte's own character where it prints, else the next one from 256 on."""
    prints = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in prints]
    return {chr(byte): byte for byte in prints} | {chr(256 + i): byte for i, byte in enumerate(rest)}


BYTES = _byte_alphabet()
