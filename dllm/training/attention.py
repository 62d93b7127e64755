"""Attention masks of training: clean text beside noised copies of it, several samples a row, in one forward.

A *column* of a training row is a position of a sample's text in one of several *copies*: copy 0 is clean (x_0), copies
1, 2, … are noised. Three rules cover every layout, in any order of columns and with any of them left out:

- a column sees its own block of its own copy, in both directions (M_BD of the paper);
- a column sees the clean copy of every earlier block (M_OBC from a noised copy, M_BC from the clean one);
- a column never sees another sample.

References:
    Wu et al. 2025, Fast-dLLM v2 (arXiv:2509.26328), section 3.2.
    Arriola et al. 2025, BD3-LM (arXiv:2503.09573).

Departures:
    From the published code, which packs samples into a row without the third rule.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from dllm.models.transformer import to_additive_mask

CLEAN = 0
"""Number of the copy that shows every token."""
FILLER = -1
"""Sample number of columns that belong to no sample; they see each other, and no other column sees them."""

TILE = 128
"""Columns of a tile of FlexAttention; rows of a multiple of it waste no part of a tile."""


class ColumnLayout(NamedTuple):
    """The columns of training rows, each field (k,) or (b, k) int64.

    Attributes:
        position: Place in the sample's text: the rotary position, and the unit in which blocks are counted.
        copy: 0 for clean text, 1, 2, … for its noised copies.
        sample: Number of the text in the row, `FILLER` for none.
    """

    position: Tensor
    copy: Tensor
    sample: Tensor


def make_paper_layout(length: int, device: torch.device | str | None = None) -> ColumnLayout:
    """Lay out [x_t ; x_0] of one text of `length` tokens: 2 · length columns."""
    column = torch.arange(2 * length, device=device)
    return ColumnLayout(column % length, torch.where(column < length, 1, CLEAN), torch.zeros_like(column))


def make_visibility_mask(layout: ColumnLayout, block: int) -> Tensor:
    """Return (…, k, k) bool, True where the row's column (query) may attend to the other column (key).

    Raises:
        ValueError: If `block` is below 1.
    """
    query = ColumnLayout(*(rearrange(field, "... q -> ... q 1") for field in layout))
    key = ColumnLayout(*(rearrange(field, "... k -> ... 1 k") for field in layout))
    return _apply_visibility_rules(query, key, block)


def make_flex_mask(layout: ColumnLayout, block: int) -> Any:
    """Make the same mask of (b, k) columns as a FlexAttention `BlockMask`, which skips tiles without a visible pair."""
    from torch.nn.attention.flex_attention import create_block_mask

    rows, columns = layout.position.shape

    def mask_mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return _apply_visibility_rules(
            ColumnLayout(*(field[b, q] for field in layout)), ColumnLayout(*(field[b, k] for field in layout)), block
        )

    return create_block_mask(mask_mod, rows, None, columns, columns, device=str(layout.position.device))


def _apply_visibility_rules(query: ColumnLayout, key: ColumnLayout, block: int) -> Tensor:
    """Apply the three rules to columns in any shapes that broadcast."""
    if block < 1:
        raise ValueError(f"sees(block={block}): a block holds at least one column")
    mine, theirs = query.position // block, key.position // block
    own = (mine == theirs) & (query.copy == key.copy)
    return (query.sample == key.sample) & (own | ((mine > theirs) & (key.copy == CLEAN)))


def make_block_causal_mask(length: int, block: int, device: torch.device | str | None = None) -> Tensor:
    """Return (t, t) bool of plain inference: a column sees earlier blocks and all of its own."""
    column = torch.arange(length, device=device)
    return make_visibility_mask(ColumnLayout(column, torch.zeros_like(column), torch.zeros_like(column)), block)


def make_additive_mask(allowed: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Make a (b or 1, 1, q, k) float mask for a transformers decoder: 0 where allowed, the lowest number elsewhere."""
    mask = to_additive_mask(allowed, dtype)
    return rearrange(mask, "q k -> 1 1 q k") if mask.ndim == 2 else rearrange(mask, "b q k -> b 1 q k")


def make_attention_mask(network: Any, layout: ColumnLayout, block: int) -> Any:
    """Make the mask of (b, k) columns in the form that the network's attention function takes.

    FlexAttention takes a `BlockMask`, SDPA booleans, eager attention a float mask.
    """
    kind = network.config._attn_implementation
    if kind == "flex_attention":
        return make_flex_mask(layout, block)
    allowed = make_visibility_mask(layout, block)
    return rearrange(allowed, "b q k -> b 1 q k") if kind == "sdpa" else make_additive_mask(allowed)
