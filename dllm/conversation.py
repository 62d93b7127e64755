"""Conversations: keys and values of finished blocks are kept from one answer to the next.

With block-causal attention a finished block's keys and values depend on what stands left of its end and on nothing
else. So an answer may begin with those of the answer before it, as far as its prompt holds the same tokens, and every
step then shows what it would show without them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dllm.caches.base import StoredCache
from dllm.caches.memory import CacheState
from dllm.models.kv_store import KeyValueStore
from dllm.strategy import Strategy
from dllm.types import Cache, Canvas, Guess, Model, Seen, Window


@dataclass
class History:
    """The keys and values that the last answer of a conversation left behind; one row at a time.

    Attributes:
        tokens: Tokens of the columns whose keys and values are kept: all of them final.
        store: The store that holds them. None before the first answer.
        size: Columns of the attention block under which they are exact.
        reused: Columns that the last answer began with.
    """

    tokens: list[int] = field(default_factory=list)
    store: KeyValueStore | None = None
    size: int = 0
    reused: int = 0

    def strategy(self, strategy: Strategy) -> Strategy:
        """Make a strategy go on from what is kept; one whose cache stores nothing is left as it is."""
        if not isinstance(strategy.cache, StoredCache):
            return strategy
        return replace(strategy, cache=ContinuedCache(strategy.cache, self))

    def clear(self) -> None:
        """Forget everything."""
        self.tokens, self.store, self.reused = [], None, 0

    def shared(self, canvas: Canvas, size: int) -> int:
        """Count the columns at the beginning of a canvas, in whole blocks, whose keys and values are kept."""
        if self.store is None or size != self.size:
            return 0
        known = int(canvas.rows.given[0].long().cumprod(0).sum())
        own = canvas.tokens[0, :known].tolist()
        same = next((i for i, (a, b) in enumerate(zip(own, self.tokens, strict=False)) if a != b), None)
        same = min(len(own), len(self.tokens)) if same is None else same
        return min(same, len(own) - 1) // size * size

    def note(self, canvas: Canvas, state: CacheState, size: int) -> None:
        """Keep the store of a step and the tokens of its exact columns, which later steps do not change."""
        exact = int(state.exact[0])
        if isinstance(state.store, KeyValueStore) and len(state.rows) and exact > 0:
            self.tokens, self.store, self.size = canvas.tokens[0, :exact].tolist(), state.store, size


@dataclass(frozen=True, repr=False)
class ContinuedCache(Cache):
    """A cache that begins with what a conversation has kept. It shows what `cache` would, and its repr is the same.

    A batch of more than one row, attention in both directions and models with a store of their own begin as usual.

    Attributes:
        cache: Any cache that stores.
        history: The conversation's.
    """

    cache: StoredCache
    history: History = field(compare=False)

    def init(self, canvas: Canvas, model: Model, /) -> CacheState:
        state: CacheState = self.cache.init(canvas, model)
        self.history.reused = 0
        if not _can_continue(model, state):
            return state
        assert model.geometry.block is not None
        shared = self.history.shared(canvas, model.geometry.block)
        if not shared:
            return state
        state = state._replace(store=_copy_columns(self.history.store, state.store, shared))
        self.history.reused = shared
        return state._replace(exact=torch.full_like(state.exact, shared))

    def step(self, model: Model, canvas: Canvas, window: Window, state: CacheState, /) -> tuple[Seen, CacheState]:
        seen, state = self.cache.step(model, canvas, window, state)
        if _can_continue(model, state):
            assert model.geometry.block is not None
            self.history.note(canvas, state, model.geometry.block)
        return seen, state

    def observe(
        self,
        guess: Guess,
        window: Window,
        commit: Bool[Tensor, "b k"],
        score: Float[Tensor, "b k"],
        state: CacheState,
        /,
    ) -> CacheState:
        state = self.cache.observe(guess, window, commit, score, state)
        return state

    def renew(
        self, state: CacheState, fresh: CacheState, rows: Bool[Tensor, " b"], renew_rows: Callable[..., Any], /
    ) -> Any:
        return self.cache.renew(state, fresh, rows, renew_rows)

    def forget(self, state: CacheState, moved: Int[Tensor, "b t"], /) -> CacheState:
        return self.cache.forget(state, moved)

    def __repr__(self) -> str:
        return repr(self.cache)


def _can_continue(model: Model, state: CacheState) -> bool:
    """Tell whether a run is one row of a model whose finished blocks are exact, in a store that can be copied.

    Blocks that begin at the end of the prompt lie elsewhere in the next answer, so they have to be aligned.
    """
    geometry = model.geometry
    aligned = geometry.block is not None and geometry.aligned
    return aligned and isinstance(state.store, KeyValueStore) and len(state.exact) == 1


def _copy_columns(kept: KeyValueStore | None, empty: Any, columns: int) -> KeyValueStore:
    """Put the first columns of a store that was kept into an empty one, which may be wider."""
    assert kept is not None and isinstance(empty, KeyValueStore)
    for layer in kept.layers:
        wide = [x.new_zeros((*x.shape[:2], empty.columns + 1, x.shape[-1])) for x in layer]
        for new, old in zip(wide, layer, strict=True):
            new[:, :, :columns] = old[:, :, :columns]
        empty.layers.append((wide[0], wide[1]))
    return empty
