"""A model whose forwards are compiled: queries take a few static shapes, so that nothing is compiled twice."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dllm.errors import ConfigError
from dllm.models.kv_store import KeyValueStore
from dllm.models.static_memory import InputBuffers, Layers, MemoryPool, bucket
from dllm.models.static_store import StaticStore, WrittenLayers
from dllm.models.transformer import TransformerModel
from dllm.types import Probe, Query

GRAIN = 8
"""Columns and keys of forwards that are compiled for any shape are a multiple of it."""

LONGEST = 128
"""Most columns of a row that run as a CUDA graph. The device takes longer over more than the host takes to enqueue
them, so that a graph would save nothing; and every length is a compilation."""

LEAST = 64
"""Least columns, of all rows together, of a CUDA graph: so many cost no more than one, since weights are read once."""

KEYS = 128
"""Least keys of a CUDA graph."""

SPARE = {"cpu": 2**30, "cuda": 2**33}
"""Default of `CompiledModel.spare`."""

LIMIT = 256
"""Compilations of one function before `torch.compile` refuses more."""


@dataclass(eq=False)
class CompiledModel(TransformerModel):
    """A `TransformerModel` whose forwards run through `torch.compile`, on CUDA as graphs.

    Queries and keys are padded and masked, and rows that are finished stay in the batch, so that shapes are few and the
    same from prompt to prompt. On a CPU one compilation serves all lengths. On CUDA every number of rows and of columns
    (`bucket`, `LONGEST` at most) is a compilation of its own, and any number of keys is served by it, as a graph for
    each; forwards over more columns run uncompiled, rows with many apart from those with few. A store's memory is
    used again from batch to batch, since graphs are bound to it. Results differ from those of the model itself by
    rounding only. Queries with shadow slots (WINO) run uncompiled. The first forward of each shape is slow.

    Before torch 2.13 CUDA graphs work in one thread only (pytorch#123177); forwards in others are compiled without.

    Attributes:
        graphs: Whether forwards run as CUDA graphs. None: on CUDA.
        spare: Bytes of stores that nobody uses which are kept while others are allocated. None: `SPARE`.

    Raises:
        ConfigError: The network is spread over several devices.
    """

    graphs: bool | None = field(default=None, kw_only=True)
    spare: int | None = field(default=None, kw_only=True)
    _refused: set[tuple[Any, ...]] = field(init=False, repr=False, default_factory=set)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set((getattr(self.network, "hf_device_map", None) or {"": 0}).values())) > 1:
            raise ConfigError(f"{self.name or self.family}: spread over several devices, which cannot be compiled")
        if self.graphs is None:
            self.graphs = self.device.type == "cuda"
        if self.spare is None:
            self.spare = SPARE["cuda" if self.device.type == "cuda" else "cpu"]
        if not self.graphs:
            self.forward_overhead_columns = 2**31  # all rows in every forward: they share one compilation
        # All rows of a window step share one shape, hence one graph; only forwards too long for one are divided.
        self.undivided_columns = LONGEST
        self._pool = MemoryPool(self._allocate, self.spare)
        # The default limit of 8 shapes is meant to catch shapes that never repeat; ours are bucketed, and more.
        config = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, LIMIT)
        self._without_graphs = torch.compile(self.decode, dynamic=not self.graphs, fullgraph=True)
        self._forwards = self._without_graphs
        if self.graphs and self.device.type == "cuda":
            self._forwards = torch.compile(self.decode, dynamic=False, fullgraph=True, mode="reduce-overhead")

    @classmethod
    def of(cls, model: TransformerModel) -> CompiledModel:
        """Make a compiled model of the same weights.

        Raises:
            ConfigError: The model is of another kind, which cannot be compiled.
        """
        if type(model) is not TransformerModel:
            raise ConfigError(f"compile: a {type(model).__name__} cannot be compiled; leave --compile out")
        return cls(**{f.name: vars(model)[f.name] for f in fields(TransformerModel) if f.init})

    def store(self, columns: int) -> StaticStore:
        return StaticStore(self._static_size(columns, KEYS), self._pool)

    def forward(self, query: Query, store: KeyValueStore | None) -> Float[Tensor, "r q d"]:
        assert store is None or isinstance(store, StaticStore), "the store is another model's"
        r, q = query.tokens.shape
        if store is not None:
            store.allocate(r if query.subset is None else query.subset.of)
        if query.extra or (self.graphs and q > LONGEST):
            return super().forward(query if store is None else store.place_query(query), store)
        # A compiled forward always runs every place of the store, so that its shape does not depend on which rows are
        # left. Rows of the query lie at `places`; the others compute padding, which writes into the dump column.
        places = None if store is None else store.places_of(query)
        buffers = self._buffers(query, store)
        buffers.fill(query, places)
        index, layers = (None, None) if store is None else (buffers.index, store.layers)
        out = self._run(buffers.tokens, buffers.columns, buffers.mask, index, layers)[:, :q]
        if places is not None:
            return out.index_select(0, places)
        return out.clone() if self.graphs else out  # the output of a graph is overwritten by the next one

    def forward_with_probes(
        self, query: Query, store: KeyValueStore | None, probes: tuple[Probe, ...], columns: int
    ) -> tuple[Tensor, dict[Probe, Tensor]]:
        raise ConfigError(f"{probes[0]}: a compiled model shows nothing of its inside; leave --compile out")

    def _buffers(self, query: Query, store: StaticStore | None) -> InputBuffers:
        """Choose the buffers that a query is copied to: those of a store's memory, or new ones.

        Without a store the columns that are run are also the keys, so there are as many of the one as of the other.
        """
        r, q = query.tokens.shape
        if store is None:
            slots = self._static_size(q, -(-LEAST // r))
            return InputBuffers((r, slots, slots), slots, query.tokens.device, static=False)
        keys = min(self._static_size(query.width, KEYS), store.columns)
        return store.memory.buffers(self._static_size(q, -(-LEAST // store.memory.rows)), keys)

    def _static_size(self, columns: int, least: int) -> int:
        """Round so many columns or keys up to a static size.

        Graphs are compiled for one size each, so there are few sizes (`bucket`); without graphs one compilation serves
        all, and a multiple of `GRAIN` is enough to keep memory aligned.
        """
        return max(GRAIN, bucket(columns, least)) if self.graphs else -(-max(columns, 1) // GRAIN) * GRAIN

    def _run(
        self,
        tokens: Int[Tensor, "r q"],
        columns: Int[Tensor, "r q"],
        mask: Bool[Tensor, "r 1 q keys"],
        index: Int[Tensor, "r q"] | None,
        layers: Layers | None,
    ) -> Float[Tensor, "r q d"]:
        """Run a compiled forward; an uncompiled one for shapes that `torch.compile` refuses."""
        shape = (tokens.shape, mask.shape, layers and layers[0][0].shape)
        if shape in self._refused:
            return self.decode(tokens, columns, mask, index, layers)
        forwards = self._forwards if _graphs_work_here() else self._without_graphs
        if forwards is not self._without_graphs:
            torch.compiler.cudagraph_mark_step_begin()
        try:
            return forwards(tokens, columns, mask, index, layers)
        except torch._dynamo.exc.FailOnRecompileLimitHit:
            if not self._refused:
                reason = (
                    f"compiled {torch._dynamo.config.recompile_limit} shapes of forwards, the limit of torch.compile"
                )
                warnings.warn(f"{self.name or self.family}: {reason}; further ones run uncompiled", stacklevel=2)
            self._refused.add(shape)
            return self.decode(tokens, columns, mask, index, layers)

    def _allocate(self, rows: int, columns: int) -> Layers:
        """Allocate keys and values of a store, with a dump column.

        Unlike in a `KeyValueStore` they have to exist before the first forward, so their shape is read from the config.
        """
        config = self.network.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (rows, heads, columns + 1, width)
        return [
            (
                torch.zeros(shape, device=self.device, dtype=self.dtype),
                torch.zeros(shape, device=self.device, dtype=self.dtype),
            )
            for _ in range(config.num_hidden_layers)
        ]

    def decode(
        self,
        tokens: Int[Tensor, "r q"],
        columns: Int[Tensor, "r q"],
        mask: Bool[Tensor, "r 1 q keys"],
        index: Int[Tensor, "r q"] | None,
        layers: Layers | None,
    ) -> Float[Tensor, "r q d"]:
        """Compute hidden states: this is all that is compiled.

        Args:
            tokens: Tokens to run.
            columns: Their columns.
            mask: Keys that each slot sees.
            index: Column of the store that each slot writes. None without a store.
            layers: Keys and values of the store. None without a store.
        """
        written = None if index is None or layers is None else WrittenLayers(layers, index, mask.shape[-1])
        hidden: Tensor = self._run_decoder(tokens, columns, mask, written).last_hidden_state
        return hidden


def _graphs_work_here() -> bool:
    """Tell whether CUDA graphs work in this thread: before torch 2.13 only in the first that imported their module."""
    if torch.__version__ >= "2.13":  # a `TorchVersion`, which compares as versions do
        return True
    from torch._inductor import cudagraph_trees

    return hasattr(cudagraph_trees.local, "tree_manager_containers")
