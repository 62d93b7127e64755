"""A model whose forwards are compiled: queries take a few static shapes, so that nothing is compiled twice."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad

from dllm.errors import ConfigError
from dllm.models.kv_store import KeyValueStore
from dllm.models.transformer import TransformerModel
from dllm.types import Query

GRAIN = 8
"""Shortest query that is compiled, and the step between lengths up to eight times as long."""


def bucket_length(columns: int) -> int:
    """The static length for so many columns: a quarter more at most from 32 on, and four lengths an octave."""
    step = GRAIN
    while columns > 8 * step:
        step *= 2
    return max(1, -(-columns // step)) * step


class _StaticStore(KeyValueStore):
    """Keys and values at fixed addresses: rows that are forgotten stay in place, unused.

    rows  (r,) int64  host; the place of each row that is kept
    """

    def __init__(self, columns: int) -> None:
        super().__init__(bucket_length(columns))
        self.rows: Tensor | None = None

    @property
    def size(self) -> int:
        """Rows that there is room for."""
        return len(self.layers[0][0])

    def keep(self, rows: Tensor) -> None:
        if self.rows is None:
            return
        if len(rows) > len(self.rows) or len(rows.unique()) < len(rows):  # copies are asked for, not a selection
            super().keep(self.rows[rows])
            self.rows = torch.arange(len(rows))
        else:
            self.rows = self.rows[rows]


class _CompiledStoreView:
    """What attention layers see of a store within a compiled forward: tensors only."""

    is_compileable = True

    def __init__(self, layers: list[tuple[Tensor, Tensor]], index: Tensor, width: int) -> None:
        self.layers, self.index, self.width = layers, index, width

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        keys, values = self.layers[layer_idx]
        keys.scatter_(2, self.index.expand_as(key), key)
        values.scatter_(2, self.index.expand_as(value), value)
        return keys[:, :, : self.width], values[:, :, : self.width]

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return self.width, 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


@dataclass(eq=False)
class CompiledModel(TransformerModel):
    """A `TransformerModel` whose forwards run through `torch.compile`, on CUDA as graphs.

    Queries are padded to the lengths of `bucket`, keys likewise and masked, and rows that are finished stay in the
    batch, so that the shapes are few and the same from prompt to prompt: after a prompt of each size nothing is
    compiled again. The store's memory is used again from batch to batch for the same reason. Results differ from those
    of the model itself by rounding only. Queries with shadow slots (WINO) run uncompiled.

    The first forward of each shape is slow. Not for models spread over several devices.
    """

    _forwards: Any = field(init=False, repr=False)
    _free: dict[tuple[int, int], list[Any]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.apart = 2**31  # all rows in every forward, or there would be more shapes
        if len(set((getattr(self.network, "hf_device_map", None) or {"": 0}).values())) > 1:
            raise ConfigError(f"{self.name or self.family}: spread over several devices, which cannot be compiled")
        graphs = self.device.type == "cuda"
        config = torch._dynamo.config  # each shape is a compilation of its own on CUDA, and beyond the limit an error
        config.recompile_limit = max(config.recompile_limit, 256)
        self._forwards = torch.compile(
            self.decode, dynamic=not graphs, fullgraph=True, mode="reduce-overhead" if graphs else None
        )

    @classmethod
    def of(cls, model: TransformerModel) -> CompiledModel:
        """The same weights, compiled."""
        if type(model) is not TransformerModel:
            raise ConfigError(f"compile: a {type(model).__name__} cannot be compiled; leave --compile out")
        return cls(**{f.name: getattr(model, f.name) for f in fields(TransformerModel) if f.init})

    def store(self, columns: int) -> _StaticStore:
        return _StaticStore(columns)

    def forward(self, query: Query, store: KeyValueStore | None) -> Tensor:
        q, rows = query.tokens.shape[1], torch.arange(len(query.tokens))
        if isinstance(store, _StaticStore):
            if store.rows is None:
                self.furnish(store, len(rows))
            assert store.rows is not None
            rows = store.rows
            query = _scatter_query_rows(query, rows, store.size)
        if query.extra:
            return super().forward(query, store)[rows.to(self.device)]
        query = _pad_query(query, None if store is None else store.columns + 1)
        if self.device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        out = self._forwards(*self.inputs(query, store))
        return out[rows.to(out.device), :q].clone()

    def furnish(self, store: _StaticStore, rows: int) -> None:
        """Give a store its memory: what an earlier one of its size had, or new. What it was begun with is copied."""
        begun, free = store.layers, self._free.setdefault((store.columns, rows), [])
        store.layers = free.pop() if free else self.allocate(store.columns + 1, rows)
        store.rows = torch.arange(rows)
        for planes, given in zip(store.layers, begun, strict=False):
            for plane, values in zip(planes, given, strict=True):
                plane.copy_(values)
        weakref.finalize(store, free.append, store.layers)

    def allocate(self, columns: int, rows: int) -> list[tuple[Tensor, Tensor]]:
        config = self.network.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        layers = []
        for _ in range(config.num_hidden_layers):
            planes = [torch.zeros(rows, heads, columns, width, device=self.device, dtype=self.dtype) for _ in range(2)]
            for plane in planes:
                torch._dynamo.mark_static_address(plane)
            layers.append((planes[0], planes[1]))
        return layers

    def inputs(self, query: Query, store: KeyValueStore | None) -> tuple[Any, ...]:
        """What a compiled forward takes: tensors only."""
        mask = query.mask
        assert mask is not None
        if self._additive:
            mask = torch.zeros(mask.shape, dtype=self.dtype, device=mask.device).masked_fill(
                ~mask, torch.finfo(self.dtype).min
            )
        if store is None:
            return query.tokens, query.columns, mask, None, None
        index = torch.where(query.valid, query.columns, store.columns)
        return query.tokens, query.columns, mask, rearrange(index, "r q -> r 1 q 1"), store.layers

    def decode(self, tokens: Tensor, columns: Tensor, mask: Tensor, index: Tensor | None, layers: Any) -> Tensor:
        """Hidden states (r, q, d): all that is compiled."""
        slots = None if index is None else _CompiledStoreView(layers, index, mask.shape[-1])
        out = self._decoder(
            input_ids=tokens,
            position_ids=columns,
            attention_mask=mask,
            past_key_values=slots,
            use_cache=slots is not None,
            is_causal=False,
        )
        return out.last_hidden_state


def _scatter_query_rows(query: Query, rows: Tensor, size: int) -> Query:
    """The query with its rows at their places (r,) among `size`; the other rows have nothing to run."""
    if len(rows) == size:
        return query
    there = rows.to(query.tokens.device)

    def put(x: Tensor | None) -> Any:
        return None if x is None else x.new_zeros(size, *x.shape[1:]).index_copy_(0, there, x)

    mask = query.mask
    if mask is not None:
        mask = mask.new_ones(size, *mask.shape[1:]).index_copy_(0, there, mask)
    return query._replace(
        tokens=put(query.tokens), columns=put(query.columns), valid=put(query.valid), given=put(query.given),
        mask=mask, start=None,
    )  # fmt: skip


def _pad_query(query: Query, most: int | None) -> Query:
    """The query with as many columns and keys as a bucket has, `most` keys at most, and an explicit mask.

    Without a store (`most` None) the columns are the keys, and as many.
    """
    r, q = query.tokens.shape
    long = bucket_length(q)
    width = long if most is None else min(bucket_length(query.width), most)
    mask = query.mask if query.mask is not None else query.valid.new_ones(r, 1, 1, query.width)
    mask = pad(mask.expand(r, 1, q, query.width), (0, width - query.width))
    mask = pad(mask, (0, 0, 0, long - q), value=True)
    return query._replace(
        tokens=pad(query.tokens, (0, long - q)),
        columns=pad(query.columns, (0, long - q)),
        valid=pad(query.valid, (0, long - q), value=False),
        mask=mask,
        width=width,
        start=None,
    )
