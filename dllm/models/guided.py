"""Classifier-free guidance: logits are moved away from those of a second lane that does not see what was given."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from dllm.errors import ConfigError
from dllm.types import CausalModel, Model, Query


class _GuidanceStore:
    """The store of both lanes: 2r rows in the model's own store, those of the second lane behind those of the first.

    Attributes:
        store: The model's own store.
        rows: Rows r of one lane; 0 before the first forward.
    """

    def __init__(self, store: Any) -> None:
        self.store = store
        self.rows = 0

    def keep(self, rows: Int[Tensor, " r"]) -> None:
        """Keep the listed rows of both lanes (host indices, possibly more than once) and forget every other one."""
        if self.rows:
            self.store.keep(torch.cat([rows, rows + self.rows]))
            self.rows = len(rows)


@dataclass(eq=False)
class Guided(Model):
    """A model guided away from its predictions when all that was given is masked: z = z_u + (scale + 1) (z_c - z_u).

    z_c are its logits, z_u those of a second lane in which every given column, of the prompt or between holes, holds
    the mask id. Both lanes go through one forward as rows of one batch, so a row costs twice its columns (`lanes`), and
    each has keys and values of its own. It works with every cache, scheduler and policy, and with both geometries of
    attention.

    A token that either lane rules out (a logit of minus infinity) keeps its guided lane's logit.

    Attributes:
        model: Any diffusion model with a mask id.
        scale: Strength of the guidance, LLaDA's `cfg_scale`; 0 is no guidance, at twice the cost.

    Raises:
        ConfigError: The scale is negative or infinite, or the model has no mask id or cannot read masks.

    References:
        Nie et al. 2025 (arXiv:2410.18514), unsupervised classifier-free guidance; LLaDA (arXiv:2502.09992).
    """

    model: Any
    scale: float

    lanes = 2

    def __post_init__(self) -> None:
        me = f"Guided(scale={self.scale})"
        if not 0 <= self.scale < math.inf:
            raise ConfigError(f"{me}: scale must be 0 (no guidance) or a positive number")
        if isinstance(self.model, CausalModel):
            raise ConfigError(f"{me}: guidance masks the prompt, which a plain causal language model cannot read")
        if self.model.mask_id is None:
            raise ConfigError(f"{me}: guidance masks the prompt, and this model has no mask id")

        self.geometry, self.vocabulary = self.model.geometry, self.model.vocabulary
        self.needs_left, self.mask_id, self.stop_ids = self.model.needs_left, self.model.mask_id, self.model.stop_ids
        self.max_columns, self.chunk, self.undivided_columns = (
            self.model.max_columns, self.model.chunk, self.model.undivided_columns
        )  # fmt: skip
        self.tokenizer, self.family, self.name = self.model.tokenizer, self.model.family, self.model.name

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @property
    def network(self) -> Any:
        """The network of the model that is guided."""
        return self.model.network

    def with_block(self, size: int) -> Guided:
        return Guided(self.model.with_block(size), self.scale)

    def store(self, columns: int) -> _GuidanceStore:
        return _GuidanceStore(self.model.store(columns))

    def forward(self, query: Query, store: _GuidanceStore | None) -> Float[Tensor, "r q d"]:
        """Compute hidden states of both lanes, side by side."""
        if query.given is None:
            raise ConfigError("guidance needs to know which columns of a query were given: the cache must say (given)")
        if store is not None:
            store.rows = len(query.tokens)
        hidden: Tensor = self.model.forward(
            _stack_guidance_lanes(query, self.model.mask_id), None if store is None else store.store
        )
        return rearrange(hidden, "(lane r) q d -> r q (lane d)", lane=2)

    def head(self, hidden: Float[Tensor, "n d"]) -> Float[Tensor, "n v"]:
        """Compute guided logits from hidden states of both lanes."""
        logits = self.model.head(rearrange(hidden, "n (lane d) -> (lane n) d", lane=2))
        given, blank = rearrange(logits, "(lane n) v -> lane n v", lane=2)
        # Minus infinity less minus infinity would be NaN.
        return torch.where(given.isneginf() | blank.isneginf(), given, given + self.scale * (given - blank))


def _stack_guidance_lanes(query: Query, mask_id: int) -> Query:
    """Make the query for both lanes, 2r rows: as it is, and with the mask id in place of what was given."""

    def twice(x: Shaped[Tensor, "r ..."]) -> Shaped[Tensor, "rows ..."]:
        both: Tensor = repeat(x, "r ... -> (lane r) ...", lane=2)
        return both

    assert query.given is not None
    return query._replace(
        tokens=torch.cat([query.tokens, torch.where(query.given, mask_id, query.tokens)]),
        columns=twice(query.columns),
        valid=twice(query.valid),
        mask=None if query.mask is None else twice(query.mask),
        given=twice(query.given),
    )
