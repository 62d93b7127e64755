"""Keys, values and inputs of compiled forwards at fixed addresses, in memory that is used again from batch to batch."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from dllm.models.kv_store import KeyValueStore
from dllm.types import Query, RowSubset

Layers = list[tuple[Tensor, Tensor]]


def bucket(number: int, least: int = 1) -> int:
    """The static size for so many rows, columns or keys: a power of two or one and a half of it, `least` at least."""
    number = max(number, least, 1)
    whole = 1 << (number - 1).bit_length()
    return whole * 3 // 4 if whole >= 4 and number <= whole * 3 // 4 else whole


class InputBuffers:
    """What compiled forwards of one shape read beside weights, keys and values.

    A slot that nothing fills sees key 0 only and writes into the dump column.

    Attributes:
        tokens: (r, q) int64
        columns: (r, q) int64
        index: (r, q) int64, the column of the store that a slot writes; `dump` where it is padding.
        mask: (r, 1, q, w) bool, the keys that a slot sees.
    """

    def __init__(self, shape: tuple[int, int, int], dump: int, device: torch.device, static: bool) -> None:
        rows, slots, keys = shape
        self.tokens, self.columns, self.index = torch.zeros(3, rows, slots, dtype=torch.int64, device=device).unbind()
        self.mask = torch.zeros(rows, 1, slots, keys, dtype=torch.bool, device=device)
        self.dump = dump
        self._region: tuple[Any, ...] = ()
        self._filled: tuple[Any, ...] = ()
        if static:
            for tensor in (self.tokens, self.columns, self.index, self.mask):
                torch._dynamo.mark_static_address(tensor)
            torch._dynamo.maybe_mark_dynamic(self.mask, 3)

    def fill(self, query: Query, places: Tensor | None) -> None:
        """Put in a query of some rows.

        Args:
            query: With at most as many slots and keys as there are here.
            places: (r,) int64, on the device, where its rows lie; None where they are all, in order.
        """
        q, width = query.tokens.shape[1], query.width
        filled = (query.columns, query.valid, query.mask, places)
        region = (q, width, places)
        if len(self._region) != 3 or self._region[:2] != region[:2] or self._region[2] is not places:
            self._reset()
            self._region, self._filled = region, ()
        _put(self.tokens[:, :q], query.tokens, places)
        # A window step that asks the same as the one before has the very same tensors, and only its tokens are new.
        if len(self._filled) == len(filled) and all(a is b for a, b in zip(self._filled, filled, strict=True)):
            return
        self._filled = filled
        _put(self.columns[:, :q], query.columns, places)
        _put(self.index[:, :q], torch.where(query.valid, query.columns, self.dump), places)
        mask = query.valid.new_ones(()) if query.mask is None else query.mask
        _put(self.mask[:, :, :q, :width], mask.expand(len(query.tokens), 1, q, width), places)

    def _reset(self) -> None:
        self.tokens.zero_()
        self.columns.zero_()
        self.index.fill_(self.dump)
        self.mask.zero_()
        self.mask[..., 0].fill_(True)


def _put(buffer: Tensor, values: Tensor, places: Tensor | None) -> None:
    if places is None:
        buffer.copy_(values)
    else:
        buffer.index_copy_(0, places, values)


class StoreMemory:
    """The tensors behind one `StaticStore`: keys and values of each layer, and input buffers by shape."""

    def __init__(self, rows: int, columns: int, layers: Layers) -> None:
        self.rows, self.columns, self.layers = rows, columns, layers
        self._buffers: dict[tuple[int, int], InputBuffers] = {}
        for plane in self.planes:
            torch._dynamo.mark_static_address(plane)
            torch._dynamo.maybe_mark_dynamic(plane, 2)

    @property
    def planes(self) -> list[Tensor]:
        return [plane for layer in self.layers for plane in layer]

    @property
    def bytes(self) -> int:
        return sum(plane.nbytes for plane in self.planes)

    def buffers(self, slots: int, keys: int) -> InputBuffers:
        if (slots, keys) not in self._buffers:
            shape = (self.rows, slots, keys)
            self._buffers[slots, keys] = InputBuffers(shape, self.columns, self.planes[0].device, static=True)
        return self._buffers[slots, keys]


class MemoryPool:
    """Memory of stores that are gone, kept for those to come: CUDA graphs are bound to its addresses.

    Before memory of a new size is allocated, what is unused is freed, the longest unused first, down to `spare` bytes.

    Attributes:
        allocate: Makes the layers for so many rows and columns.
        spare: Bytes.
        unused: Memory that no store has, the latest last.
    """

    def __init__(self, allocate: Callable[[int, int], Layers], spare: int) -> None:
        self.allocate, self.spare = allocate, spare
        self.unused: list[StoreMemory] = []
        self._lock = threading.Lock()

    def take(self, rows: int, columns: int) -> StoreMemory:
        """Memory of a size, all zero."""
        with self._lock:
            fitting = [m for m in self.unused if (m.rows, m.columns) == (rows, columns)]
            if fitting:
                self.unused.remove(fitting[-1])
            else:
                while sum(memory.bytes for memory in self.unused) > self.spare:
                    del self.unused[0]
        if not fitting:
            return StoreMemory(rows, columns, self.allocate(rows, columns))
        for plane in fitting[-1].planes:  # a number that is not finite, left by an earlier batch, would spread
            plane.zero_()
        return fitting[-1]

    def give_back(self, memory: StoreMemory) -> None:
        """Keep memory for later. Called when a store is garbage, so at any time and place: it takes no lock."""
        self.unused.append(memory)


class StaticStore(KeyValueStore):
    """Keys and values at fixed addresses. Rows that are forgotten leave their place unused; no other row moves.

    Attributes:
        rows: (r,) int64, host, the place of each row that is kept; None before the first forward.
        places: The same on the device; None where all places are taken, in order.
    """

    memory: StoreMemory

    def __init__(self, columns: int, pool: MemoryPool) -> None:
        super().__init__(columns)
        self.rows: Tensor | None = None
        self.places: Tensor | None = None
        self._pool = pool

    def furnish(self, rows: int) -> None:
        """Give a store its memory, unless it has some. What the store was begun with is copied there."""
        if self.rows is not None:
            return
        begun = self.layers
        self._take(rows)
        for layer, given in zip(self.layers, begun, strict=False):
            for plane, values in zip(layer, given, strict=True):
                plane[: len(values), :, : values.shape[2]].copy_(values)
        self._seat(torch.arange(rows))

    def keep(self, rows: Tensor) -> None:
        """Forget every row that is not listed; where one is listed again, its copy takes a place that is free."""
        if self.rows is None:
            return
        wanted = self.rows[rows]
        if len(wanted) > self.memory.rows:
            self._move(wanted)
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
        self._seat(wanted)

    def seated(self, query: Query) -> Query:
        """The query of an uncompiled forward, which says at what places its rows lie."""
        if query.subset is None and self.places is None:
            return query
        return query._replace(subset=RowSubset(self._rows_of(query), self.memory.rows))

    def places_of(self, query: Query) -> Tensor | None:
        """`places` of the rows of a query."""
        if query.subset is None:
            return self.places
        return self._rows_of(query).to(query.tokens.device, non_blocking=True)

    def _rows_of(self, query: Query) -> Tensor:
        assert self.rows is not None, "furnish() comes before a forward"
        return self.rows if query.subset is None else self.rows[query.subset.rows]

    def _take(self, rows: int) -> None:
        self.memory = self._pool.take(rows, self.columns)
        self.layers = self.memory.layers
        self._leave = weakref.finalize(self, self._pool.give_back, self.memory)

    def _seat(self, rows: Tensor) -> None:
        self.rows = rows
        full = torch.equal(rows, torch.arange(self.memory.rows))
        self.places = None if full else rows.to(self.memory.planes[0].device, non_blocking=True)

    def _move(self, wanted: Tensor) -> None:
        """Move the rows at some places to memory that has room for them."""
        before, leave, n = self.memory.planes, self._leave, len(wanted)
        self._take(bucket(n))
        here = wanted.to(before[0].device, non_blocking=True)
        for plane, old in zip(self.memory.planes, before, strict=True):
            plane[:n].copy_(old.index_select(0, here))
        leave()
        self._seat(torch.arange(n))


class WrittenLayers:
    """What attention layers see of a store within a compiled forward: tensors only."""

    is_compileable = True

    def __init__(self, layers: Layers, index: Tensor, width: int) -> None:
        self.layers, self.index, self.width = layers, index, width

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        keys, values = self.layers[layer_idx]
        row = rearrange(torch.arange(len(key), device=key.device), "r -> r 1")
        # index_put, which Inductor writes in place; scatter would copy each plane whole, twice.
        keys[row, :, self.index] = rearrange(key, "r h q d -> r q h d")
        values[row, :, self.index] = rearrange(value, "r h q d -> r q h d")
        return keys[:, :, : self.width], values[:, :, : self.width]

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return self.width, 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0
