"""Any decoder of `transformers` as a diffusion model: stock class in, hidden states at chosen columns out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from dllm.errors import ConfigError
from dllm.models.placing import choose_attention_kernels
from dllm.models.store import KeyValueStore
from dllm.types import BlockCausal, Geometry, Query

APART = {"cpu": 64, "cuda": 512}
"""Columns that cost about as much as reading the weights once more."""


def suits(device: torch.device) -> int:
    """What `TransformerModel.apart` is unless it is given."""
    return APART["cuda" if device.type == "cuda" else "cpu"]


@dataclass(eq=False)
class TransformerModel:
    """A stock `transformers` causal-LM class that denoises.

    network     any `…ForCausalLM`; attention runs with the mask that each query brings, never a causal one
    geometry    how columns attend
    needs_left  1 for token-shifted families: the output at column i-1 predicts column i
    mask_id     id of the mask token; never proposed as an answer
    stop_ids    ids that end a text
    pad_id      id for columns that do not exist
    family      name of the family, for messages
    name        where the checkpoint came from
    tokenizer   the checkpoint's tokenizer, or None
    chunk       block-causal families: most columns of a row that go through the network at once while a prompt is
                stored, so that a long one needs no more memory than its keys and values; it counts as one forward
    apart       columns that cost about as much as one more forward: where more padding is saved, rows of a batch that
                run many columns go through the network apart from the others. None: what suits the device; 0: always
    cudnn_attention  allow cuDNN's attention on CUDA, in the whole process (`placing.choose_attention_kernels`)
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
    apart: int | None = field(default=None, kw_only=True)
    cudnn_attention: bool = field(default=False, kw_only=True)
    max_columns: int = field(init=False)

    def __post_init__(self) -> None:
        config = self.network.config
        config.is_causal = False
        self.network.eval()
        self.apart = suits(self.device) if self.apart is None else self.apart
        choose_attention_kernels(self.device, self.cudnn_attention)
        self.max_columns = int(getattr(config, "max_position_embeddings", 0) or 2**31)
        self.vocabulary = int(config.vocab_size)
        self._decoder = self.network.get_decoder()
        self._head = self.network.get_output_embeddings()
        self._additive = config._attn_implementation == "eager"

    @property
    def device(self) -> torch.device:
        """Where tokens go: the device of the embedding, or where accelerate runs it if its weights are offloaded."""
        embedding = self.network.get_input_embeddings()
        place = embedding.weight.device
        return _execution_device(embedding) or place if place.type == "meta" else place

    @property
    def dtype(self) -> torch.dtype:
        return self.network.get_input_embeddings().weight.dtype

    def with_block(self, size: int) -> TransformerModel:
        """The same weights with attention blocks of `size` columns; only for block-causal families."""
        if not isinstance(self.geometry, BlockCausal):
            raise ConfigError(f"{self.family} attends in both directions everywhere: it has no attention block to set")
        return replace(self, geometry=replace(self.geometry, size=size))

    def store(self, columns: int) -> KeyValueStore:
        return KeyValueStore(columns)

    def forward(self, query: Query, store: KeyValueStore | None) -> Tensor:
        if store is not None:
            store.aim(query)
        hidden = self._hidden(query.tokens, query.columns, query.mask, store)
        return hidden.to(query.tokens.device)  # the last layer may lie on another one

    def _hidden(self, tokens: Tensor, columns: Tensor, mask: Tensor | None, store: Any) -> Tensor:
        """Hidden states (r, q, d) from what attention layers call a cache."""
        out = self._decoder(
            input_ids=tokens,
            position_ids=columns,
            attention_mask=None if mask is None else self._attention_mask(mask),
            past_key_values=store,
            use_cache=store is not None,
            is_causal=False,
        )
        return out.last_hidden_state

    def _attention_mask(self, mask: Tensor) -> Tensor:
        """A mask as the attention function takes it: booleans, or what is added to the scores."""
        if not self._additive:
            return mask
        zeros = torch.zeros(mask.shape, dtype=self.dtype, device=mask.device)
        return zeros.masked_fill(~mask, torch.finfo(self.dtype).min)

    def head(self, hidden: Tensor) -> Tensor:
        return self._head(hidden).to(hidden.device)


def _execution_device(module: Any) -> torch.device | None:
    """Where accelerate runs a module whose weights it brings from elsewhere."""
    hook = getattr(module, "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        if (place := getattr(one, "execution_device", None)) is not None:
            return torch.device(place)
    return None
