"""A store whose keys and values stay at fixed addresses (`static_memory`), and the same as compiled forwards see it."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from dllm.models.kv_store import KeyValueStore
from dllm.models.static_memory import Layers, MemoryPool, StoreMemory, bucket
from dllm.types import Query, RowSubset


class StaticStore(KeyValueStore):
    """Keys and values at fixed addresses. Rows that are forgotten leave their place unused; no other row moves.

    Attributes:
        rows: Place of each row that is kept, (r,) int64 (host). None before the first forward.
        places: The same on the device. None where all places are taken, in order.
        memory: The memory behind it, from the first forward on.
    """

    memory: StoreMemory

    def __init__(self, columns: int, pool: MemoryPool) -> None:
        super().__init__(columns)
        self.rows: Tensor | None = None
        self.places: Tensor | None = None
        self._pool = pool

    def allocate(self, rows: int) -> None:
        """Take memory for so many rows from the pool, unless the store has some.

        Keys and values that were put into the store before (`conversation`) are copied there.
        """
        if self.rows is not None:
            return
        begun = self.layers
        self._take_memory(rows)
        for layer, given in zip(self.layers, begun, strict=False):
            for plane, values in zip(layer, given, strict=True):
                plane[: len(values), :, : values.shape[2]].copy_(values)
        self._set_places(torch.arange(rows))

    def keep(self, rows: Int[Tensor, " r"]) -> None:
        """Forget every row that is not listed; where one is listed again, its copy takes a place that is free.

        Only copies are written, so that a row which is listed once costs nothing and stays where it is. Where there
        are not enough places for all, the rows move to larger memory.
        """
        if self.rows is None:
            return
        wanted = self.rows[rows]
        if len(wanted) > self.memory.rows:
            self._move_to_larger_memory(wanted)
            return
        there = wanted.tolist()
        free = sorted(set(range(self.memory.rows)).difference(there), reverse=True)
        again = [i for i, place in enumerate(there) if place in there[:i]]
        source = wanted[again]
        wanted[again] = torch.tensor([free.pop() for _ in again], dtype=torch.int64)
        if again:
            device = self.memory.planes[0].device
            here, to = source.to(device, non_blocking=True), wanted[again].to(device, non_blocking=True)
            for plane in self.memory.planes:
                plane.index_copy_(0, to, plane.index_select(0, here))
        self._set_places(wanted)

    def place_query(self, query: Query) -> Query:
        """Make the query of an uncompiled forward, which names the places of its rows."""
        if query.subset is None and self.places is None:
            return query
        return query._replace(subset=RowSubset(self._rows_of(query), self.memory.rows))

    def places_of(self, query: Query) -> Int[Tensor, " r"] | None:
        """Find the places of the rows of a query, on the device; None where these are all, in order."""
        if query.subset is None:
            return self.places
        return self._rows_of(query).to(query.tokens.device, non_blocking=True)

    def _rows_of(self, query: Query) -> Int[Tensor, " r"]:
        """Find the places of the rows of a query (host)."""
        assert self.rows is not None, "allocate() comes before a forward"
        return self.rows if query.subset is None else self.rows[query.subset.rows]

    def _take_memory(self, rows: int) -> None:
        """Take memory from the pool; it goes back when this store is garbage."""
        self.memory = self._pool.take(rows, self.columns)
        self.layers = self.memory.layers
        self._return_memory = weakref.finalize(self, self._pool.give_back, self.memory)

    def _set_places(self, rows: Int[Tensor, " r"]) -> None:
        """Set the place of each row."""
        self.rows = rows
        full = torch.equal(rows, torch.arange(self.memory.rows))
        self.places = None if full else rows.to(self.memory.planes[0].device, non_blocking=True)

    def _move_to_larger_memory(self, wanted: Int[Tensor, " r"]) -> None:
        """Move the rows at some places to memory that has room for them."""
        before, return_memory, n = self.memory.planes, self._return_memory, len(wanted)
        self._take_memory(bucket(n))
        here = wanted.to(before[0].device, non_blocking=True)
        for plane, old in zip(self.memory.planes, before, strict=True):
            plane[:n].copy_(old.index_select(0, here))
        return_memory()
        self._set_places(torch.arange(n))


class WrittenLayers:
    """The store as attention layers see it within a compiled forward: tensors only, and no decisions on the host.

    Attributes:
        layers: Keys and values of each layer.
        index: Column that each slot writes, (r, q) int64.
        width: Keys that are looked at.
    """

    is_compileable = True

    def __init__(self, layers: Layers, index: Int[Tensor, "r q"], width: int) -> None:
        self.layers, self.index, self.width = layers, index, width

    def update(
        self, key: Float[Tensor, "r h q d"], value: Float[Tensor, "r h q e"], layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Float[Tensor, "r h keys d"], Float[Tensor, "r h keys e"]]:
        """Store keys and values of one layer, and return all that the query may read."""
        keys, values = self.layers[layer_idx]
        row = rearrange(torch.arange(len(key), device=key.device), "r -> r 1")
        # index_put, which Inductor writes in place; scatter would copy each plane whole, twice.
        keys[row, :, self.index] = rearrange(key, "r h q d -> r q h d")
        values[row, :, self.index] = rearrange(value, "r h q d -> r q h d")
        return keys[:, :, : self.width], values[:, :, : self.width]

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Return 0: positions come with the query."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Return the number of keys that are looked at, and the offset of the first, which is 0."""
        return self.width, 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return 0: positions come with the query."""
        return 0
