"""Keys and values of a batch: allocated once, written in place at the columns of each row."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from dllm.types import Query


class KeyValueStore:
    """Keys and values of each layer, (r, h, columns + 1, d) each, in the interface of a `transformers` cache.

    Attention layers call `update`. Each layer is allocated on its first update, with the shape, dtype and device that
    the layer really uses, so sharded and quantised models work. The last column takes what padding slots write.

    Attributes:
        columns: Columns of a row.
        layers: Keys and values of every layer that was updated.
    """

    is_compileable = False

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.layers: list[tuple[Tensor, Tensor]] = []
        self._query: Query | None = None
        self._index: Tensor | None = None
        self._indices: dict[torch.device, Tensor] = {}
        self._rows: dict[torch.device, Tensor] = {}

    def aim(self, query: Query) -> None:
        """Set the columns that the coming forward writes, and the keys that it reads."""
        self._query = query
        self._index = None
        self._indices, self._rows = {}, {}
        if query.start is None:
            kept = query.columns.shape[1] - query.extra
            # Padding slots hold some column of the row, which they must not overwrite: they write behind the last one.
            self._index = torch.where(query.valid, query.columns, self.columns)[:, :kept]

    def keep(self, rows: Int[Tensor, " r"]) -> None:
        """Keep the listed rows (host indices, possibly more than once) and forget every other one."""
        there: dict[torch.device, Tensor] = {}
        for i, layer in enumerate(self.layers):  # one at a time, so that no more than one is there twice
            device = layer[0].device
            if device not in there:
                there[device] = rows.to(device, non_blocking=True)
            keys, values = (plane.index_select(0, there[device]) for plane in layer)
            self.layers[i] = keys, values

    def update(
        self, key: Float[Tensor, "r h q d"], value: Float[Tensor, "r h q e"], layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Float[Tensor, "r h keys d"], Float[Tensor, "r h keys e"]]:
        """Store keys and values of one layer, and return all that the query may read."""
        assert self._query is not None, "aim() comes before a forward"
        while len(self.layers) <= layer_idx:
            part = self._query.subset
            shape = (len(key) if part is None else part.of, key.shape[1], self.columns + 1)
            self.layers.append((key.new_zeros(*shape, key.shape[-1]), value.new_zeros(*shape, value.shape[-1])))
        seen = [self._read(kept, new) for kept, new in zip(self.layers[layer_idx], (key, value), strict=True)]
        return seen[0], seen[1]

    def _read(self, kept: Float[Tensor, "s h t d"], new: Float[Tensor, "r h q d"]) -> Float[Tensor, "r h keys d"]:
        """Store new keys or values, but for the query's shadow slots, and return all that may be read."""
        assert self._query is not None
        extra, start, part = self._query.extra, self._query.start, self._query.subset
        stored = new[:, :, : new.shape[2] - extra] if extra else new
        seen = kept[:, :, : self._query.width]
        if part is not None:
            if new.device not in self._rows:
                self._rows[new.device] = part.rows.to(new.device, non_blocking=True)
            rows = self._rows[new.device]
            self._store_rows(kept, rows, stored)
            seen = seen.index_select(0, rows)
        elif start is not None:
            kept[:, :, start : start + stored.shape[2]] = stored
        else:
            index = rearrange(self._index_on(new.device), "r q -> r 1 q 1")
            kept.scatter_(2, index.expand_as(stored), stored)
        # Shadow slots are not stored, but they may see each other: their keys come last.
        return torch.cat([seen, new[:, :, -extra:]], 2) if extra else seen

    def _store_rows(
        self, kept: Float[Tensor, "s h t d"], rows: Int[Tensor, " r"], stored: Float[Tensor, "r h q d"]
    ) -> None:
        """Store keys or values in some rows."""
        assert self._query is not None
        start = self._query.start
        if start is not None:
            kept[:, :, start : start + stored.shape[2]].index_copy_(0, rows, stored)
        else:
            index = self._index_on(rows.device)
            kept[rearrange(rows, "r -> r 1"), :, index] = rearrange(stored, "r h q d -> r q h d")

    def _index_on(self, device: torch.device) -> Int[Tensor, "r q"]:
        """Copy the columns that are written to the device of a layer, once a forward."""
        assert self._index is not None, "aim() comes before a forward"
        if device not in self._indices:
            self._indices[device] = self._index.to(device)
        return self._indices[device]

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Return 0: positions come with the query."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Return the number of keys that are looked at, and the offset of the first, which is 0."""
        return (self._query.width + self._query.extra if self._query else query_length), 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return 0: positions come with the query."""
        return 0
