"""Fast-dLLM's loop for LLaDA as published: what a decoder costs when nobody looks at what it computes.

Logits of every column that is run, a float64 softmax over all of them, candidates of all columns though only masked
ones of one block can be taken, a Python loop over rows and ranks, and a host synchronisation for each. Tokens are the
same as ours with `FactorAsPublished` or `Threshold`; that is a test.

Reference: v1/llada/generate.py of the Fast-dLLM repository (November 2025), written anew from its description.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


class _ReplacedCache:
    """Keys and values of one run of the whole canvas, of which each later run replaces the columns [start, end).

    prefix  what lies right of `start` is dropped and concatenated anew in every layer
    dual    only [start, end) is replaced, in place
    """

    is_compileable = False

    def __init__(self, dual: bool) -> None:
        self.dual = dual
        self.layers: list[tuple[Tensor, Tensor]] = []
        self.start = self.end = 0
        self.filling = True

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        if self.filling:
            self.layers.append((key, value))
            return key, value
        keys, values = self.layers[layer_idx]
        if self.dual:
            keys[:, :, self.start : self.end] = key
            values[:, :, self.start : self.end] = value
            return keys, values
        return torch.cat([keys[:, :, : self.start], key], dim=2), torch.cat([values[:, :, : self.start], value], dim=2)

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


def _propose_tokens(logits: Tensor, masked: Tensor, tokens: Tensor, mask_id: int) -> tuple[Tensor, Tensor]:
    """Proposed tokens and confidences (b, t), by a float64 softmax over every column.

    The mask id is not proposed: with a model that prefers it the published loop never ends.
    """
    chances = logits.to(torch.float64).softmax(-1)
    logits[..., mask_id] = -torch.inf
    proposed = logits.argmax(-1)
    confidence = chances.gather(-1, proposed.unsqueeze(-1)).squeeze(-1)
    return torch.where(masked, proposed, tokens), torch.where(masked, confidence, -torch.inf)


def _select_columns(
    confidence: Tensor, masked: Tensor, tau: float | None, f: float | None, quota: int | None = None
) -> Tensor:
    """Mark the columns (b, t) to take, row by row and rank by rank."""
    take = torch.zeros_like(masked)
    for row in range(len(confidence)):
        count = int(masked[row].sum().item())
        if count == 0:
            continue
        if quota is not None:
            take[row, confidence[row].topk(min(quota, count)).indices] = True
            continue
        if f is None:
            ranked, order = confidence[row].topk(count)
            take[row, order[0]] = True
            for i in range(1, count):
                if ranked[i].item() >= (tau or 0.0):
                    take[row, order[i]] = True
            continue
        ranked, order = confidence[row].sort(descending=True)
        top = 0
        for top in range(count):
            if top > 0 and ranked[top].item() < 1 - f / (top + 2):
                break
        if top == 0 or top == count - 1:
            top += 1
        take[row, order[:top]] = True
    return take


@torch.no_grad()
def decode_as_published(
    network: Any,
    prompt: Tensor,
    length: int,
    block: int,
    mask_id: int,
    cache: str = "dual",
    tau: float | None = None,
    f: float | None = None,
    quotas: Iterator[int] | None = None,
) -> tuple[Tensor, int]:
    """Tokens (b, prompt + length) and the number of forwards. `cache` is none, prefix or dual; give tau or f, or the
    number of columns to take at each forward (the published loop's fixed steps)."""
    network.config.is_causal = False
    b, start = prompt.shape
    x = torch.full((b, start + length), mask_id, dtype=torch.int64, device=prompt.device)
    x[:, :start] = prompt
    columns = torch.arange(x.shape[1], device=x.device).expand(b, -1)
    nfe = 0

    def forward(begin: int, end: int, store: _ReplacedCache | None) -> Tensor:
        logits: Tensor = network(
            input_ids=x[:, begin:end],
            position_ids=columns[:, begin:end],
            past_key_values=store,
            use_cache=store is not None,
            is_causal=False,
        ).logits
        return logits

    for first in range(start, start + length, block):
        last = min(first + block, start + length)
        store = None if cache == "none" else _ReplacedCache(cache == "dual")
        begin, end = 0, x.shape[1]
        while True:
            masked = x[:, begin:end] == mask_id
            masked[:, last - begin :] = False
            if not masked.any():
                break
            logits = forward(begin, end, store)
            nfe += 1
            proposed, confidence = _propose_tokens(logits, masked, x[:, begin:end], mask_id)
            take = _select_columns(confidence, masked, tau, f, None if quotas is None else next(quotas))
            x[:, begin:end] = torch.where(take, proposed, x[:, begin:end])
            if store is not None:
                store.filling, store.start, store.end = False, first, last
                begin, end = first, (last if cache == "dual" else x.shape[1])
    return x, nfe
