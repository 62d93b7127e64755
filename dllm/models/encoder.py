"""An encoder of `transformers` with a masked-language-model head as a diffusion model that keeps nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

from einops import rearrange
from torch import Tensor

from dllm.errors import ConfigError
from dllm.models.placement import choose_attention_kernels
from dllm.models.transformer import TransformerModel, default_forward_overhead
from dllm.types import Probe, Query


@dataclass(eq=False)
class EncoderModel(TransformerModel):
    """A stock `…ForMaskedLM` class that denoises; its attention layers take no key/value store.

    head_modules    what leads from the last hidden state to the logits, in order
    first_position  position id of the first column
    """

    head_modules: tuple[str, ...] = ()
    first_position: int = 0

    def __post_init__(self) -> None:
        config = self.network.config
        self.network.eval()
        if self.forward_overhead_columns is None:
            self.forward_overhead_columns = default_forward_overhead(self.device)
        choose_attention_kernels(self.device, self.cudnn_attention)
        self.max_columns = int(config.max_position_embeddings) - self.first_position
        self.vocabulary = int(config.vocab_size)
        self._decoder = self.network.base_model
        self._heads = [getattr(self.network, name) for name in self.head_modules]
        self._additive = config._attn_implementation == "eager"
        local = "sliding_attention" in (getattr(config, "layer_types", None) or ())
        self._local = int(config.sliding_window) if local else None

    def store(self, columns: int) -> NoReturn:
        raise ConfigError(
            f"cache: {type(self.network).__name__} ({self.name or self.family}) has attention layers that keep no keys "
            "and values, which every cache but NoCache reuses: take NoCache() / --cache none"
        )

    def forward(self, query: Query, store: Any | None) -> Tensor:
        """Hidden states (r, q, d) of a query that is all there is to look at."""
        return self._run_encoder(query).last_hidden_state

    def forward_with_probes(
        self, query: Query, store: Any | None, probes: tuple[Probe, ...], columns: int
    ) -> tuple[Tensor, dict[Probe, Tensor]]:
        raise ConfigError(f"{probes[0]}: {self.family} is an encoder, which shows nothing of its inside here")

    def _run_encoder(self, query: Query) -> Any:
        return self._decoder(
            input_ids=query.tokens,
            position_ids=query.columns + self.first_position,
            attention_mask=self._masks(query),
        )

    def _masks(self, query: Query) -> Any:
        """The query's mask, or one for each kind of layer where some look no further than `_local` columns."""
        mask = query.mask
        if mask is None:
            return None  # the stock class then makes both kinds itself
        if self._local is None:
            return self._attention_mask(mask)
        distance = rearrange(query.columns, "r q -> r 1 q 1") - rearrange(query.columns, "r k -> r 1 1 k")
        near = mask & (distance.abs() <= self._local)
        full = mask.expand_as(near)
        return {"full_attention": self._attention_mask(full), "sliding_attention": self._attention_mask(near)}

    def head(self, hidden: Tensor) -> Tensor:
        for module in self._heads:
            hidden = module(hidden)
        return hidden
