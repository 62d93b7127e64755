"""Classifier-free guidance: a model that also looks at the canvas without what was given, and moves away from that."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor

from dllm.errors import ConfigError
from dllm.types import CausalModel, Model, Query


class _GuidanceStore:
    """The store of both lanes: 2r rows in the model's own store, those of the second lane behind those of the first."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.rows = 0

    def keep(self, rows: Tensor) -> None:
        if self.rows:
            self.store.keep(torch.cat([rows, rows + self.rows]))
            self.rows = len(rows)


@dataclass(eq=False)
class Guided(Model):
    """A model guided away from what it says when all that was given is masked: z = z_u + (scale + 1) (z_c - z_u).

    z_c are its logits, z_u those of a second lane in which every given column, of the prompt or between holes, holds
    the mask id. Both lanes go through one forward as rows of one batch, so a row costs twice its columns (`lanes`), and
    each has keys and values of its own. Wherever a model goes this goes: every cache, scheduler and policy, attention
    of both kinds.

    model  any diffusion model with a mask id
    scale  0: no guidance, at twice the cost; LLaDA's `cfg_scale`

    A token that either lane rules out (a logit of minus infinity) keeps its guided lane's logit.

    Reference: Nie et al. 2025 (arXiv:2410.18514), unsupervised classifier-free guidance; LLaDA (arXiv:2502.09992).
    """

    model: Any
    scale: float

    lanes = 2

    def __post_init__(self) -> None:
        said = f"Guided(scale={self.scale})"
        if not 0 <= self.scale < math.inf:
            raise ConfigError(f"{said}: scale must be 0 (no guidance) or a positive number")
        if isinstance(self.model, CausalModel):
            raise ConfigError(f"{said}: guidance masks the prompt, which a plain causal language model cannot read")
        if self.model.mask_id is None:
            raise ConfigError(f"{said}: guidance masks the prompt, and this model has no mask id")

        self.geometry, self.vocabulary = self.model.geometry, self.model.vocabulary
        self.needs_left, self.mask_id, self.stop_ids = self.model.needs_left, self.model.mask_id, self.model.stop_ids
        self.max_columns, self.chunk, self.undivided_columns = (
            self.model.max_columns, self.model.chunk, self.model.undivided_columns
        )  # fmt: skip
        self.tokenizer, self.family, self.name = self.model.tokenizer, self.model.family, self.model.name

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def network(self) -> Any:
        """The network of the model that is guided."""
        return self.model.network

    def with_block(self, size: int) -> Guided:
        """The same with attention blocks of `size` columns."""
        return Guided(self.model.with_block(size), self.scale)

    def store(self, columns: int) -> _GuidanceStore:
        return _GuidanceStore(self.model.store(columns))

    def forward(self, query: Query, store: _GuidanceStore | None) -> Tensor:
        """Hidden states of both lanes (r, q, 2 d)."""
        if query.given is None:
            raise ConfigError("guidance needs to know which columns of a query were given: the cache must say (given)")
        if store is not None:
            store.rows = len(query.tokens)
        hidden = self.model.forward(
            _stack_guidance_lanes(query, self.model.mask_id), None if store is None else store.store
        )
        return rearrange(hidden, "(lane r) q d -> r q (lane d)", lane=2)

    def head(self, hidden: Tensor) -> Tensor:
        """Guided logits (n, v) from hidden states of both lanes (n, 2 d)."""
        logits = self.model.head(rearrange(hidden, "n (lane d) -> (lane n) d", lane=2))
        given, blank = rearrange(logits, "(lane n) v -> lane n v", lane=2)
        return torch.where(given.isneginf() | blank.isneginf(), given, given + self.scale * (given - blank))


def _stack_guidance_lanes(query: Query, mask_id: int) -> Query:
    """The query for both lanes (2 r, q): as it is, and with the mask id in place of what was given."""

    def twice(x: Tensor) -> Tensor:
        return repeat(x, "r ... -> (lane r) ...", lane=2)

    assert query.given is not None
    return query._replace(
        tokens=torch.cat([query.tokens, torch.where(query.given, mask_id, query.tokens)]),
        columns=twice(query.columns),
        valid=twice(query.valid),
        mask=None if query.mask is None else twice(query.mask),
        given=twice(query.given),
    )
