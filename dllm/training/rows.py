"""From examples to batches: prompt and answer as token ids, grouped so that a batch needs no padding mask.

A row is `<|user|> prompt <|assistant|> answer <|end|>`, exactly what the chat template gives. For block diffusion the
tail up to the block's end is filled with the end token and supervised, so that the model learns to stop.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dllm.training.noise import IGNORE
from dllm.training.tokenizer import ASSISTANT, END, PAD, USER


class Row(NamedTuple):
    """prompt ids (template included) and answer ids (end token included)."""

    prompt: list[int]
    answer: list[int]


class Batch(NamedTuple):
    """What one update trains on.

    tokens  (b, t) int64
    labels  (b, t) int64  `IGNORE` outside answers
    """

    tokens: Tensor
    labels: Tensor


def encode(tokenizer: Any, prompt: str, completion: str) -> Row:
    """Token ids of one example, as the chat template lays it out."""
    user, assistant, end = tokenizer.convert_tokens_to_ids([USER, ASSISTANT, END])
    ids = tokenizer.backend_tokenizer.encode
    return Row([user, *ids(prompt).ids, assistant], [*ids(completion).ids, end])


def block_batches(rows: Iterable[Row], *, block: int, positions: int, end: int) -> Iterator[Batch]:
    """Batches for block diffusion: rows of equal padded length whose answers begin in the same block.

    positions  about how many columns a batch should cost, both noised copies and the clean one
    """
    held: dict[tuple[int, int], list[Row]] = defaultdict(list)
    for row in rows:
        key = (-(-(len(row.prompt) + len(row.answer)) // block), (len(row.prompt) - 1) // block)
        held[key].append(row)
        cost = (key[0] - 1 + 2 * (key[0] - key[1])) * block
        if len(held[key]) >= max(1, positions // cost):
            yield _stack(held.pop(key), key[0] * block, fill=end, supervise=True)


def causal_batches(rows: Iterable[Row], *, grain: int, positions: int, pad: int) -> Iterator[Batch]:
    """Batches for next-token training: rows of nearly equal length, padded at the end without supervision."""
    held: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        key = -(-(len(row.prompt) + len(row.answer)) // grain)
        held[key].append(row)
        if len(held[key]) >= max(1, positions // (key * grain)):
            yield _stack(held.pop(key), key * grain, fill=pad, supervise=False)


def _stack(rows: list[Row], length: int, *, fill: int, supervise: bool) -> Batch:
    tokens, labels = torch.full((len(rows), length), fill), torch.full((len(rows), length), IGNORE)
    for index, (prompt, answer) in enumerate(rows):
        stop = len(prompt) + len(answer)
        tokens[index, :stop] = torch.tensor(prompt + answer)
        labels[index, len(prompt) : stop] = tokens[index, len(prompt) : stop]
        if supervise:
            labels[index, stop:] = fill
    return Batch(tokens, labels)


def special_ids(tokenizer: Any) -> tuple[int, int]:
    """(end id, pad id) of a tokenizer made by `word_tokenizer`."""
    end, pad = tokenizer.convert_tokens_to_ids([END, PAD])
    return end, pad
