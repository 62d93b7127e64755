"""What a conversation need not compute again: keys and values of its finished blocks, kept from one answer to the next.

With block-causal attention a finished block's keys and values depend on what stands left of its end and on nothing
else. So an answer may begin with those of the answer before it, as far as its prompt says the same; what it shows is
what it would show without them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from dllm.caches.base import StoredCache
from dllm.caches.memory import CacheState
from dllm.models.kv_store import KeyValueStore
from dllm.strategy import Strategy
from dllm.types import Cache, Canvas, Guess, Model, Seen, Window


@dataclass
class History:
    """What the last answer left behind; one conversation, one row at a time.

    tokens  of the columns whose keys and values are kept: all of them final
    store   where these are; None before the first answer
    size    columns of the attention block under which they are exact
    reused  columns that the last answer began with
    """

    tokens: list[int] = field(default_factory=list)
    store: KeyValueStore | None = None
    size: int = 0
    reused: int = 0

    def strategy(self, strategy: Strategy) -> Strategy:
        """The strategy, made to go on from what is kept. One whose cache stores nothing is left as it is."""
        if not isinstance(strategy.cache, StoredCache):
            return strategy
        return replace(strategy, cache=ContinuedCache(strategy.cache, self))

    def clear(self) -> None:
        self.tokens, self.store, self.reused = [], None, 0

    def shared(self, canvas: Canvas, size: int) -> int:
        """Columns of a canvas, in whole blocks, that begin with what is kept."""
        if self.store is None or size != self.size:
            return 0
        known = int(canvas.rows.given[0].long().cumprod(0).sum())
        own = canvas.tokens[0, :known].tolist()
        same = next((i for i, (a, b) in enumerate(zip(own, self.tokens, strict=False)) if a != b), None)
        same = min(len(own), len(self.tokens)) if same is None else same
        return min(same, len(own) - 1) // size * size

    def note(self, canvas: Canvas, memory: CacheState, size: int) -> None:
        """Keep what a step has left; later steps change nothing of it."""
        exact = int(memory.exact[0])
        if isinstance(memory.store, KeyValueStore) and len(memory.rows) and exact > 0:
            self.tokens, self.store, self.size = canvas.tokens[0, :exact].tolist(), memory.store, size


@dataclass(frozen=True, repr=False)
class ContinuedCache(Cache):
    """A cache that begins with what a conversation has kept. It shows what `cache` would, and is recorded as that.

    A batch of more than one row, attention in both directions and models with a store of their own begin as usual.
    """

    cache: StoredCache
    history: History = field(compare=False)

    def init(self, canvas: Canvas, model: Model, /) -> CacheState:
        memory: CacheState = self.cache.init(canvas, model)
        self.history.reused = 0
        if not _can_continue(model, memory):
            return memory
        assert model.geometry.block is not None
        shared = self.history.shared(canvas, model.geometry.block)
        if not shared:
            return memory
        memory = memory._replace(store=_copy_columns(self.history.store, memory.store, shared))
        self.history.reused = shared
        return memory._replace(exact=torch.full_like(memory.exact, shared))

    def step(self, model: Model, canvas: Canvas, window: Window, memory: CacheState, /) -> tuple[Seen, CacheState]:
        seen, memory = self.cache.step(model, canvas, window, memory)
        if _can_continue(model, memory):
            assert model.geometry.block is not None
            self.history.note(canvas, memory, model.geometry.block)
        return seen, memory

    def observe(self, guess: Guess, window: Window, commit: Tensor, score: Tensor, state: CacheState, /) -> CacheState:
        return self.cache.observe(guess, window, commit, score, state)

    def renew(self, state: CacheState, fresh: CacheState, rows: Tensor, renew_rows: Callable[..., Any], /) -> Any:
        return self.cache.renew(state, fresh, rows, renew_rows)

    def forget(self, state: CacheState, moved: Tensor, /) -> CacheState:
        return self.cache.forget(state, moved)

    def __repr__(self) -> str:
        return repr(self.cache)


def _can_continue(model: Model, memory: CacheState) -> bool:
    """Whether a run is one row of a model whose finished blocks are exact, in a store that we can copy from."""
    geometry = model.geometry
    aligned = geometry.block is not None and geometry.aligned
    return aligned and isinstance(memory.store, KeyValueStore) and len(memory.exact) == 1


def _copy_columns(kept: KeyValueStore | None, empty: Any, columns: int) -> KeyValueStore:
    """A store as wide as an empty one, with the first columns of one that was kept."""
    assert kept is not None and isinstance(empty, KeyValueStore)
    for layer in kept.layers:
        wide = [x.new_zeros((*x.shape[:2], empty.columns + 1, x.shape[-1])) for x in layer]
        for new, old in zip(wide, layer, strict=True):
            new[:, :, :columns] = old[:, :, :columns]
        empty.layers.append((wide[0], wide[1]))
    return empty
