"""The tabular oracle: a model that computes the exact conditionals of an explicit joint distribution."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from dllm import theory
from dllm.errors import ConfigError
from dllm.types import Bidirectional, Geometry, Model, Query


class TokenStore:
    """The tokens that were run, which a cache stores of a tabular model in place of keys and values.

    A column that is not run again keeps the token it had, so a stale cache conditions on a stale canvas.

    Attributes:
        columns: Columns of a row.
        tokens: Tokens of each row, (r, columns + 1), the last column for padding. None before the first forward.
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.tokens: Tensor | None = None

    def keep(self, rows: Int[Tensor, " r"]) -> None:
        """Keep the listed rows (host indices, possibly more than once) and forget every other one."""
        if self.tokens is not None:
            self.tokens = self.tokens[rows.to(self.tokens.device, non_blocking=True)]

    def update(self, query: Query, blank: int) -> Int[Tensor, "r w"]:
        """Store the query's tokens and return all that it may look at; columns that were never run hold `blank`."""
        if self.tokens is None:
            self.tokens = query.tokens.new_full((len(query.tokens), self.columns + 1), blank)
        kept = query.tokens.shape[1] - query.extra
        where = torch.where(query.valid, query.columns, self.columns)[:, :kept]
        self.tokens = self.tokens.scatter(1, where, query.tokens[:, :kept])
        return self.tokens[:, : query.width]


@dataclass(eq=False)
class TabularModel(Model):
    """A model that returns the exact marginals of `joint` given what is decided.

    The joint's n positions are the n columns that follow a prompt of `offset` tokens, whatever the prompt holds; its
    vocabulary is 0..v-1 and the mask id is v. Columns beyond the joint are uniform.

    Attributes:
        joint: Table (v, …, v) of n axes, non-negative, summing to 1.
        offset: Length of every prompt.
        geometry: How columns attend; with block-causal attention a column is predicted from earlier blocks and its own.
        needs_left: 1 if predictions come from the column before, as in token-shifted families, else 0.
        mask_id: v.

    Raises:
        ConfigError: The table is no joint distribution.
    """

    joint: Float[Tensor, "..."]
    offset: int = 1
    geometry: Geometry = field(default_factory=Bidirectional)
    needs_left: int = 0
    stop_ids: tuple[int, ...] = ()
    max_columns: int = 2**20
    family: str = "tabular"
    tokenizer: None = None
    mask_id: int = field(init=False)

    def __post_init__(self) -> None:
        sizes = set(self.joint.shape)
        if len(sizes) != 1 or self.joint.lt(0).any() or abs(float(self.joint.sum()) - 1) > 1e-6:
            raise ConfigError(
                f"joint of shape {tuple(self.joint.shape)} and sum {float(self.joint.sum()):.6g}: "
                "a joint has one axis of the same size for every position, no negative entry, and sums to 1"
            )
        self.mask_id = sizes.pop()
        self.vocabulary = self.mask_id + 1

    @property
    def device(self) -> torch.device:
        return self.joint.device

    def store(self, columns: int) -> TokenStore:
        return TokenStore(columns)

    def forward(self, query: Query, store: TokenStore | None) -> Float[Tensor, "r q d"]:
        """Compute the logarithms of the marginals; d is v + 1, the mask id last and impossible."""
        n, v = self.joint.dim(), self.mask_id
        r, q = query.tokens.shape
        board = query.tokens[:, : q - query.extra] if store is None else store.update(query, self.mask_id)
        width = board.shape[1]
        device = query.tokens.device
        place = torch.arange(self.offset, self.offset + n, device=device)
        there = place.clamp(max=width - 1)
        tokens = torch.where(place < width, board[:, there], v)
        seen = query.valid.new_ones(r, 1, 1, width + query.extra) if query.mask is None else query.mask
        seen = rearrange(seen, "r 1 q w -> r q w").expand(r, q, seen.shape[-1])[:, :, there] & (place < width)
        # `target`, the column that a slot predicts, is left out of what is known: its marginal is wanted also where
        # the canvas holds a token. The slot's own column is known even where the mask hides it: it is the slot's input.
        target = query.columns + self.needs_left - self.offset
        own = torch.arange(n, device=device) == rearrange(target, "r q -> r q 1")
        itself = place == rearrange(query.columns, "r q -> r q 1")
        known = rearrange(tokens < v, "r n -> r 1 n") & (seen | itself) & ~own
        tokens = rearrange(tokens, "r n -> r 1 n").expand_as(known)
        chances = theory.marginals(theory.condition_joint(self.joint, tokens, known), n)
        chances = (chances * rearrange(own, "r q n -> r q n 1")).sum(2)
        chances = torch.where(own.any(-1, keepdim=True), chances, 1 / v)
        return torch.nn.functional.pad(chances.log(), (0, 1), value=-torch.inf)

    def head(self, hidden: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return hidden
