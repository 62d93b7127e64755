"""Memory of compiled forwards at fixed addresses: keys, values and inputs, used again from batch to batch.

A CUDA graph replays reads and writes of the addresses that it was recorded with. So everything that a compiled forward
touches stays where it is: the input buffers of each shape, and the keys and values, also when rows leave the batch or
a batch ends. A *place* is a row of that memory; the rows of a store lie at some of the places.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from dllm.types import Query

Layers = list[tuple[Tensor, Tensor]]


def bucket(number: int, least: int = 1) -> int:
    """Round so many rows, columns or keys up to a static size, a power of two or one and a half of it.

    Sizes a factor of 4/3 or 3/2 apart are few, and at most half as much again is computed in vain.

    Args:
        number: Rows, columns or keys.
        least: The result is the static size of so many at least.
    """
    number = max(number, least, 1)
    whole = 1 << (number - 1).bit_length()
    return whole * 3 // 4 if whole >= 4 and number <= whole * 3 // 4 else whole


class InputBuffers:
    """The inputs of compiled forwards of one shape, beside weights, keys and values.

    A slot that nothing fills sees key 0 only and writes into the dump column.

    Attributes:
        tokens: Tokens of each slot, (r, q) int64.
        columns: Columns of each slot, (r, q) int64.
        index: Column of the store that a slot writes, (r, q) int64; `dump` where it is padding.
        mask: The keys that a slot sees, (r, 1, q, keys) bool.
        dump: Column of the store that takes what padding writes.
    """

    def __init__(self, shape: tuple[int, int, int], dump: int, device: torch.device, static: bool) -> None:
        rows, slots, keys = shape
        self.tokens, self.columns, self.index = torch.zeros(3, rows, slots, dtype=torch.int64, device=device).unbind()
        self.mask = torch.zeros(rows, 1, slots, keys, dtype=torch.bool, device=device)
        self.dump = dump
        self._region: tuple[Any, ...] = ()
        self._filled: tuple[Any, ...] = ()
        if static:
            # A graph would copy inputs to memory of its own, unless they are marked as staying where they are. Only the
            # number of keys is left open, so that one compilation serves any.
            for tensor in (self.tokens, self.columns, self.index, self.mask):
                torch._dynamo.mark_static_address(tensor)
            torch._dynamo.maybe_mark_dynamic(self.mask, 3)

    def fill(self, query: Query, places: Int[Tensor, " r"] | None) -> None:
        """Copy a query of some rows into the buffers.

        Args:
            query: Query with at most as many slots and keys as there are here.
            places: Places of its rows, on the device. None where they are all, in order.
        """
        q, width = query.tokens.shape[1], query.width
        filled = (query.columns, query.valid, query.mask, places)
        region = (q, width, places)
        # What the query before filled and this one would not is padding again. Other places of the same number are
        # another tensor (`StaticStore` makes one when rows leave), so identity shows whether the region is the same.
        if len(self._region) != 3 or self._region[:2] != region[:2] or self._region[2] is not places:
            self._reset()
            self._region, self._filled = region, ()
        _copy_rows(self.tokens[:, :q], query.tokens, places)
        # A window step that asks the same as the one before has the very same tensors, and only its tokens are new.
        if len(self._filled) == len(filled) and all(a is b for a, b in zip(self._filled, filled, strict=True)):
            return
        self._filled = filled
        _copy_rows(self.columns[:, :q], query.columns, places)
        _copy_rows(self.index[:, :q], torch.where(query.valid, query.columns, self.dump), places)
        mask = query.valid.new_ones(()) if query.mask is None else query.mask
        _copy_rows(self.mask[:, :, :q, :width], mask.expand(len(query.tokens), 1, q, width), places)

    def _reset(self) -> None:
        """Make every slot padding. It sees one key, since a slot that sees none would be NaN."""
        self.tokens.zero_()
        self.columns.zero_()
        self.index.fill_(self.dump)
        self.mask.zero_()
        self.mask[..., 0].fill_(True)


def _copy_rows(buffer: Shaped[Tensor, "p ..."], values: Shaped[Tensor, "r ..."], places: Tensor | None) -> None:
    """Copy rows to some places of a buffer, in place."""
    if places is None:
        buffer.copy_(values)
    else:
        buffer.index_copy_(0, places, values)


class StoreMemory:
    """The tensors behind one `StaticStore`: keys and values of each layer, and input buffers by shape.

    Attributes:
        rows: Number of places.
        columns: Columns of a place, without the dump column.
        layers: Keys and values of each layer, (rows, h, columns + 1, d) each.
    """

    def __init__(self, rows: int, columns: int, layers: Layers) -> None:
        self.rows, self.columns, self.layers = rows, columns, layers
        self._buffers: dict[tuple[int, int], InputBuffers] = {}
        for plane in self.planes:
            torch._dynamo.mark_static_address(plane)
            torch._dynamo.maybe_mark_dynamic(plane, 2)

    @property
    def planes(self) -> list[Tensor]:
        """All keys and values."""
        return [plane for layer in self.layers for plane in layer]

    @property
    def bytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(plane.nbytes for plane in self.planes)

    def buffers(self, slots: int, keys: int) -> InputBuffers:
        """Return the input buffers for forwards of a shape; they are made once."""
        if (slots, keys) not in self._buffers:
            shape = (self.rows, slots, keys)
            self._buffers[slots, keys] = InputBuffers(shape, self.columns, self.planes[0].device, static=True)
        return self._buffers[slots, keys]


class MemoryPool:
    """Memory of stores that are gone, kept for those to come: CUDA graphs are bound to its addresses.

    Before memory of a new size is allocated, what is unused is freed, the longest unused first, down to `spare` bytes.

    Attributes:
        allocate: Makes the layers for so many rows and columns.
        spare: Bytes of unused memory that are kept.
        unused: Memory that no store has, the latest last.
    """

    def __init__(self, allocate: Callable[[int, int], Layers], spare: int) -> None:
        self.allocate, self.spare = allocate, spare
        self.unused: list[StoreMemory] = []
        self._lock = threading.Lock()

    def take(self, rows: int, columns: int) -> StoreMemory:
        """Take memory of a size, all zero, out of the pool."""
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
        """Keep memory for later.

        It is called when a store is garbage, so at any time and in any thread, perhaps in one that is inside `take`. So
        it takes no lock, which that thread would wait for forever; appending to a list is atomic.
        """
        self.unused.append(memory)
