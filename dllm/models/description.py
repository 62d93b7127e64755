"""Facts about a checkpoint, read from its config and the headers of its weights."""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path
from typing import NamedTuple

from dllm.models.checkpoint import is_local, read_checkpoint
from dllm.models.families.special_ids import IdSource, resolve_special_ids
from dllm.models.third_party import as_checkpoint_error, silence_transformers
from dllm.models.tokenizers import read_tokenizer
from dllm.models.weights import SINGLE, TensorHeader, list_shards, read_headers
from dllm.types import BlockCausal


class CheckpointDescription(NamedTuple):
    """Facts about a checkpoint.

    Attributes:
        name: Name that was asked for.
        folder: Where its files are.
        family: Name of its family.
        title: The family's name as people use it.
        stock: Class of `transformers` that runs it.
        parameters: Numbers in its weights; a tied head is counted once.
        geometry: "bidirectional", "block-causal" or "causal".
        block_size: Columns of an attention block. None where there are none.
        token_shift: Whether the output at column i - 1 predicts column i.
        mask_id: The mask token. None: pass --mask-id (or a plain causal model, which needs none).
        stop_ids: Ids that end a text; may be empty.
        pad_id: Id for columns that do not exist.
        vocabulary: Size of the vocabulary.
        context: Longest canvas that the positions allow. None where the config names no limit.
        dtype: Dtype of most weights on disk, in the words of safetensors.
        tokenizer: Whether a tokenizer could be read.
        chat_template: Whether messages can be turned into a prompt.
    """

    name: str
    folder: str
    family: str
    title: str
    stock: str
    parameters: int
    geometry: str
    block_size: int | None
    token_shift: bool
    mask_id: int | None
    stop_ids: tuple[int, ...]
    pad_id: int
    vocabulary: int
    context: int | None
    dtype: str
    tokenizer: bool
    chat_template: bool


def describe_checkpoint(
    name: str | Path = "embedded", *, revision: str | None = None, family: str | None = None
) -> CheckpointDescription:
    """Describe a checkpoint without loading, or downloading, its weights.

    Args:
        name: A folder, a Hub id, or "embedded".
        revision: Branch, tag or commit on the Hub.
        family: Name of the family, where config.json does not determine it (see `load`).

    Raises:
        CheckpointError: The checkpoint is at fault.
    """
    found = read_checkpoint(name, revision, family)
    kind, plain = found.family, found.plain
    with silence_transformers():
        config = found.stock_config()
        words = read_tokenizer(found.folder, kind)
    ids = resolve_special_ids(
        kind, IdSource(found.config, found.generation, words, config.vocab_size, found.added), None, None
    )
    geometry = kind.geometry(found.config)
    block = geometry.size if isinstance(geometry, BlockCausal) and not plain else None
    tensors = _read_tensor_headers(name, found.folder, revision)
    sizes: Counter[str] = Counter()
    for key, tensor in tensors.items():
        sizes[tensor.dtype] += prod(tensor.shape) if kind.needs(key) else 0
    context = getattr(config, "max_position_embeddings", None)
    return CheckpointDescription(
        name=str(name),
        folder=str(found.folder),
        family=kind.name,
        title=kind.title,
        stock=kind.stock,
        parameters=sizes.total(),
        geometry="causal" if plain else "bidirectional" if block is None else "block-causal",
        block_size=block,
        token_shift=bool(kind.needs_left),
        mask_id=None if plain else ids.mask_id,
        stop_ids=ids.stop_ids,
        pad_id=ids.pad_id,
        vocabulary=config.vocab_size,
        context=context - kind.first_position if context else None,
        dtype=sizes.most_common(1)[0][0] if sizes else "",
        tokenizer=words is not None,
        chat_template=bool(getattr(words, "chat_template", None)),
    )


def _read_tensor_headers(name: str | Path, folder: Path, revision: str | None) -> dict[str, TensorHeader]:
    """Read the headers of the weights from the folder, or else from the Hub, which sends them without the weights."""
    if is_local(name) or (folder / SINGLE).is_file():
        return read_headers(list_shards(folder))
    from huggingface_hub import get_safetensors_metadata

    with as_checkpoint_error(f"{name}: the Hub did not tell the shapes of its weights"):
        files = get_safetensors_metadata(str(name), revision=revision).files_metadata.values()
    return {key: TensorHeader(t.dtype, tuple(t.shape)) for file in files for key, t in file.tensors.items()}
