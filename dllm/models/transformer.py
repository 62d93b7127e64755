"""Any decoder of `transformers` as a diffusion model: stock class in, hidden states at chosen columns out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dllm.errors import ConfigError
from dllm.models.kv_store import KeyValueStore
from dllm.models.placement import choose_attention_kernels
from dllm.types import Geometry, Model, Probe, Query

APART = {"cpu": 64, "cuda": 512}
"""Columns that cost about as much as reading the weights once more."""


def default_forward_overhead(device: torch.device) -> int:
    """Choose `TransformerModel.forward_overhead_columns` where none is given."""
    return APART["cuda" if device.type == "cuda" else "cpu"]


def to_additive_mask(mask: Bool[Tensor, "..."], dtype: torch.dtype) -> Float[Tensor, "..."]:
    """Turn a mask into what eager attention adds to the scores: 0 where True, else the lowest number of the dtype.

    The lowest number, not minus infinity: a slot that sees nothing, as padding may, would get NaN.
    """
    zeros = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return zeros.masked_fill(~mask, torch.finfo(dtype).min)


@dataclass(eq=False)
class TransformerModel(Model):
    """A stock `transformers` causal-LM class that denoises.

    Attributes:
        network: Any `…ForCausalLM`; attention runs with the mask that each query brings, never a causal one.
        geometry: How columns attend.
        needs_left: 1 for token-shifted families, whose output at column i - 1 predicts column i.
        mask_id: Id of the mask token; never proposed as an answer.
        stop_ids: Ids that end a text.
        pad_id: Id for columns that do not exist.
        family: Name of the family, for messages.
        name: Where the checkpoint came from.
        tokenizer: The checkpoint's tokenizer, or None.
        chunk: Block-causal families: most columns of a row that go through the network at once while a prompt is
            stored, so that a long one needs no more memory than its keys and values. All pieces count as one forward.
        forward_overhead_columns: Columns that cost about as much as one more forward: where more padding is saved, rows
            of a batch that run many columns go through the network apart from the others. None: what suits the device;
            0: always.
        cudnn_attention: Whether to allow cuDNN's attention on CUDA, in the whole process
            (`placement.choose_attention_kernels`).
        max_columns: Longest canvas that the positions allow.
    """

    network: Any
    geometry: Geometry
    needs_left: int = 0
    mask_id: int | None = None
    stop_ids: tuple[int, ...] = ()
    pad_id: int = 0
    family: str = "custom"
    name: str = ""
    tokenizer: Any = None
    chunk: int | None = 4096
    forward_overhead_columns: int | None = field(default=None, kw_only=True)
    cudnn_attention: bool = field(default=False, kw_only=True)
    max_columns: int = field(init=False)

    def __post_init__(self) -> None:
        self._prepare_network()
        config = self.network.config
        config.is_causal = False
        self.max_columns = int(getattr(config, "max_position_embeddings", 0) or 2**31)
        self._decoder = self.network.get_decoder()
        self._head = self.network.get_output_embeddings()

    def _prepare_network(self) -> None:
        """Set the network to inference, and settle what depends on its device and its config."""
        self.network.eval()
        if self.forward_overhead_columns is None:
            self.forward_overhead_columns = default_forward_overhead(self.device)
        choose_attention_kernels(self.device, self.cudnn_attention)
        self.vocabulary = int(self.network.config.vocab_size)
        self._additive = self.network.config._attn_implementation == "eager"

    @property
    def device(self) -> torch.device:
        """Device on which tokens have to be: the embedding's, or that of accelerate where weights are offloaded."""
        embedding = self.network.get_input_embeddings()
        place: torch.device = embedding.weight.device
        return _execution_device(embedding) or place if place.type == "meta" else place

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the embedding."""
        dtype: torch.dtype = self.network.get_input_embeddings().weight.dtype
        return dtype

    def with_block(self, size: int) -> TransformerModel:
        if self.geometry.block is None:
            raise ConfigError(f"{self.family} attends in both directions everywhere: it has no attention block to set")
        return replace(self, geometry=self.geometry.with_block(size))

    def store(self, columns: int) -> KeyValueStore:
        return KeyValueStore(columns)

    def forward(self, query: Query, store: KeyValueStore | None) -> Float[Tensor, "r q d"]:
        if store is not None:
            store.aim(query)
        hidden: Tensor = self._run_decoder(query.tokens, query.columns, query.mask, store).last_hidden_state
        return hidden.to(query.tokens.device)  # the last layer may lie on another one

    def forward_with_probes(
        self, query: Query, store: KeyValueStore | None, probes: tuple[Probe, ...], columns: int
    ) -> tuple[Float[Tensor, "r q d"], dict[Probe, Tensor]]:
        if store is not None:
            store.aim(query)
        attentions = any(probe.attentions for probe in probes)
        outputs = {"output_attentions": True} if attentions else {}
        if any(probe.hidden_states for probe in probes):
            outputs["output_hidden_states"] = True
        with self._eager_attention() if attentions else nullcontext():
            out = self._run_decoder(query.tokens, query.columns, query.mask, store, **outputs)
        device = query.tokens.device
        found = {probe: probe.extract(out, query, columns).to(device) for probe in probes}
        return out.last_hidden_state.to(device), found

    @contextmanager
    def _eager_attention(self) -> Iterator[None]:
        """Run with the network's eager attention, the only one that returns weights."""
        config, additive = self.network.config, self._additive
        usual = config._attn_implementation
        config._attn_implementation, self._additive = "eager", True
        try:
            yield
        finally:
            config._attn_implementation, self._additive = usual, additive

    def _run_decoder(
        self,
        tokens: Int[Tensor, "r q"],
        columns: Int[Tensor, "r q"],
        mask: Bool[Tensor, "r 1 mq keys"] | None,
        store: Any,
        **outputs: bool,
    ) -> Any:
        """Run the decoder; `store` is what its attention layers call a cache, `outputs` what it returns besides."""
        return self._decoder(
            input_ids=tokens,
            position_ids=columns,
            attention_mask=None if mask is None else self._attention_mask(mask),
            past_key_values=store,
            use_cache=store is not None,
            is_causal=False,
            **outputs,
        )

    def _attention_mask(self, mask: Bool[Tensor, "r 1 mq keys"]) -> Tensor:
        """Make the mask that the attention function takes: booleans, or numbers for eager attention."""
        return to_additive_mask(mask, self.dtype) if self._additive else mask

    def head(self, hidden: Float[Tensor, "n d"]) -> Float[Tensor, "n v"]:
        logits: Tensor = self._head(hidden)
        return logits.to(hidden.device)


def _execution_device(module: Any) -> torch.device | None:
    """Find where accelerate runs a module whose weights it brings from elsewhere; None without accelerate's hook."""
    hook = getattr(module, "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):  # several hooks of a module are one that lists them
        if (place := getattr(one, "execution_device", None)) is not None:
            return torch.device(place)
    return None
