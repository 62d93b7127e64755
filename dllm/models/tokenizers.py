"""The tokenizer of a checkpoint: stock classes only, never code that a checkpoint brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dllm.errors import CheckpointError
from dllm.models.checkpoint import read_json
from dllm.models.families import Family
from dllm.models.third_party import as_checkpoint_error

FILES = ("tokenizer.json", "vocab.json", "tokenizer.model")
PLAIN = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""Class names by which a checkpoint declares that `tokenizer.json` is complete. For some model types, Qwen2 among them,
`AutoTokenizer` takes the type's own class all the same, which replaces the file's rules for splitting a text."""


def read_tokenizer(folder: Path, family: Family) -> Any:
    """Read a checkpoint's tokenizer.

    A checkpoint that asks for its own code is tried with the family's stock class, which reads the same files. Where a
    chat template is missing and the vocabulary has the token it needs, the family's is set.

    Returns:
        The tokenizer. None where the folder has none, or only one that needs code of its own.

    Raises:
        CheckpointError: The files are there but broken.
    """
    if not any((folder / file).is_file() for file in FILES):
        return None
    import transformers

    config = _read_tokenizer_config(folder)
    tokenizer = None
    plain = (folder / FILES[0]).is_file() and config.get("tokenizer_class") in PLAIN
    for stock in filter(None, ("PreTrainedTokenizerFast" if plain else None, "AutoTokenizer", family.tokenizer)):
        try:
            with as_checkpoint_error(
                f"{folder}: its tokenizer cannot be read", "; repair it, or pass tokenizer=False to work with ids"
            ):
                tokenizer = getattr(transformers, stock).from_pretrained(str(folder), trust_remote_code=False)
                break
        except CheckpointError as error:
            failure = error
    if tokenizer is None:
        if config.get("auto_map"):  # its tokenizer is a class of its own, and only that
            return None
        raise failure
    if family.chat_template and not tokenizer.chat_template and family.chat_token in tokenizer.get_vocab():
        tokenizer.chat_template = family.chat_template
    return tokenizer


def _read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """Read tokenizer_config.json; {} where it is not there."""
    file = folder / "tokenizer_config.json"
    return read_json(file) if file.is_file() else {}
