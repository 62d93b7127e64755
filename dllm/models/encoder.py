"""An encoder of `transformers` with a masked-language-model head as a diffusion model that keeps nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from dllm.errors import ConfigError
from dllm.models.transformer import TransformerModel
from dllm.types import Probe, Query


@dataclass(eq=False)
class EncoderModel(TransformerModel):
    """A stock `…ForMaskedLM` class that denoises; its attention layers take no key/value store.

    Attributes:
        head_modules: Modules that lead from the last hidden state to the logits, in order.
        first_position: Position id of the first column.
    """

    head_modules: tuple[str, ...] = ()
    first_position: int = 0

    def __post_init__(self) -> None:
        self._prepare_network()
        config = self.network.config
        self.max_columns = int(config.max_position_embeddings) - self.first_position
        self._decoder = self.network.base_model
        self._heads = [self.network.get_submodule(name) for name in self.head_modules]
        local = "sliding_attention" in (getattr(config, "layer_types", None) or ())
        self._local = int(config.sliding_window) if local else None

    def store(self, columns: int) -> NoReturn:
        raise ConfigError(
            f"cache: {type(self.network).__name__} ({self.name or self.family}) has attention layers that keep no keys "
            "and values, which every cache but NoCache reuses: take NoCache() / --cache none"
        )

    def forward(self, query: Query, store: Any | None) -> Float[Tensor, "r q d"]:
        """Compute hidden states of a query that is all there is to look at."""
        hidden: Tensor = self._run_encoder(query).last_hidden_state
        return hidden

    def forward_with_probes(
        self, query: Query, store: Any | None, probes: tuple[Probe, ...], columns: int
    ) -> tuple[Tensor, dict[Probe, Tensor]]:
        raise ConfigError(f"{probes[0]}: {self.family} is an encoder, which shows nothing of its inside here")

    def _run_encoder(self, query: Query) -> Any:
        return self._decoder(
            input_ids=query.tokens,
            position_ids=query.columns + self.first_position,
            attention_mask=self._attention_masks(query),
        )

    def _attention_masks(self, query: Query) -> Tensor | dict[str, Tensor] | None:
        """Make the query's mask, or one for each kind of layer where some look no further than `_local` columns."""
        mask = query.mask
        if mask is None:
            return None  # the stock class then makes both kinds itself
        if self._local is None:
            return self._attention_mask(mask)
        distance = rearrange(query.columns, "r q -> r 1 q 1") - rearrange(query.columns, "r k -> r 1 1 k")
        near = mask & (distance.abs() <= self._local)
        full = mask.expand_as(near)
        return {"full_attention": self._attention_mask(full), "sliding_attention": self._attention_mask(near)}

    def head(self, hidden: Float[Tensor, "n d"]) -> Float[Tensor, "n v"]:
        for module in self._heads:
            hidden = module(hidden)
        return hidden
