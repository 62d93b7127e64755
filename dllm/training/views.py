"""The view of each objective: a noised batch of packed texts as the columns, labels and weights of one forward.

An objective decides three things: how noise is drawn, which copies of which columns the model sees, and against which
label and with which weight each column's logits are scored. Columns that no loss can reach are left out, and scored
columns come first, so that the stock forward (`logits_to_keep`) computes only logits that are used.

References:
    Wu et al. 2025, Fast-dLLM v2 (arXiv:2509.26328), section 3.2.
    Nie et al. 2025, LLaDA (arXiv:2502.09992), eq. 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad

from dllm.training.attention import CLEAN, FILLER
from dllm.training.noise import IGNORE, complement_mask, draw_grouped_noise

EVERYTHING = 2**31
"""Size of a block that holds any text whole."""


class PackedRows(NamedTuple):
    """Rows of texts, each field (b, t) int64.

    Attributes:
        tokens: Token ids.
        labels: The same ids where they are supervised, else `IGNORE`.
        sample: Number of the text within the row, `FILLER` behind the last one.
        position: Place of the column in its text.
    """

    tokens: Tensor
    labels: Tensor
    sample: Tensor
    position: Tensor


class RowNoise(NamedTuple):
    """Noise of rows.

    Attributes:
        mask: (b, t) bool, True where the noised copy hides the token.
        rate: (b, t) float, the probability with which it was hidden.
    """

    mask: Tensor
    rate: Tensor


@dataclass(frozen=True)
class BlockDiffusion:
    """Fast-dLLM v2: blocks denoised in sight of the clean text before them, with logits one column left of their token.

    The loss is not weighted by 1/t, as published.

    Attributes:
        block: Columns of a block, counted from each text's start; 1 is next-token prediction from a masked input.
        sub_block: Columns that share a noise rate; None: the block, as published. With smaller ones the model sees
            blocks that are finished on the left and untouched on the right, as sub-block decoding makes them.
        complementary: Also train on the complement of each noised copy, so that every token is learnt exactly once.
        eps: Lowest noise rate.

    Departures:
        From the published forward in cost only: both noised copies share one clean copy.
    """

    block: int = 32
    sub_block: int | None = None
    complementary: bool = True
    eps: float = 1e-3

    @property
    def attention_block(self) -> int:
        """Columns of a block of the attention mask."""
        return self.block

    def noise(self, packed: PackedRows, rng: torch.Generator | None = None) -> RowNoise:
        """Draw one rate for each block, or sub-block, of a text."""
        groups = number_blocks(packed, self.sub_block or self.block)
        return RowNoise(*draw_grouped_noise(packed.labels, groups, eps=self.eps, rng=rng))

    def view(self, packed: PackedRows, noise: RowNoise, mask_id: int) -> dict[str, Tensor]:
        """Lay out the noised copies, and the part of the clean copy that they see."""
        blocks = number_blocks(packed, self.block)
        target = _shift_left_within_texts(packed, packed.labels, IGNORE)
        masks = [noise.mask, complement_mask(noise.mask, packed.labels)][: 1 + self.complementary]
        copies = []
        for number, mask in enumerate(masks, 1):
            labels = target.masked_fill(~_shift_left_within_texts(packed, mask, False), IGNORE)
            keep = _any_in_group(labels != IGNORE, blocks)
            copies.append(_TextCopy(number, mask, keep, labels, torch.ones_like(noise.rate)))
        needed = torch.stack([copy.keep for copy in copies]).any(0)
        return _gather_columns(
            packed, [*copies, _make_clean_copy(packed, _precede_needed_block(packed, needed, self.block))], mask_id
        )


@dataclass(frozen=True)
class FullDiffusion:
    """LLaDA: one noise rate t for each text, attention between all columns of it, and weight 1/t for a hidden token.

    Attributes:
        eps: Lowest noise rate.
        shift: Score the logits one column left of the token, as Dream does; False is LLaDA's own way.

    Departures:
        From LLaDA's fine-tuning loss: the sum is divided by the supervised tokens of the whole batch, not text by text,
        so that tokens of long answers weigh as much as those of short ones.
    """

    eps: float = 1e-3
    shift: bool = False

    @property
    def attention_block(self) -> int:
        """Columns of a block of the attention mask: all of a text."""
        return EVERYTHING

    def noise(self, packed: PackedRows, rng: torch.Generator | None = None) -> RowNoise:
        """Draw one rate for each text."""
        return RowNoise(*draw_grouped_noise(packed.labels, packed.sample.clamp(min=0), eps=self.eps, rng=rng))

    def view(self, packed: PackedRows, noise: RowNoise, mask_id: int) -> dict[str, Tensor]:
        """Lay out the noised copy of every text with a supervised token."""
        weights = noise.mask / noise.rate
        labels = packed.labels
        if self.shift:
            labels, weights = (
                _shift_left_within_texts(packed, labels, IGNORE),
                _shift_left_within_texts(packed, weights, 0.0),
            )
        copy = _TextCopy(1, noise.mask, _any_in_group(labels != IGNORE, packed.sample + 1), labels, weights)
        return _gather_columns(packed, [copy], mask_id)


@dataclass(frozen=True)
class NextToken:
    """Plain autoregressive training on the same rows: the starting point of adaptation, and the comparison with it."""

    @property
    def attention_block(self) -> int:
        """Columns of a block of the attention mask: one, which makes it causal."""
        return 1

    def noise(self, packed: PackedRows, rng: torch.Generator | None = None) -> RowNoise:
        """Return noise that hides nothing."""
        hidden = torch.zeros_like(packed.labels, dtype=torch.bool)
        return RowNoise(hidden, torch.ones(packed.labels.shape, device=packed.labels.device))

    def view(self, packed: PackedRows, noise: RowNoise, mask_id: int) -> dict[str, Tensor]:
        """Lay out the clean copy, in each text up to the column that predicts its last supervised token."""
        labels = _shift_left_within_texts(packed, packed.labels, IGNORE)
        keep = _precede_needed_block(packed, labels != IGNORE, 1) | (labels != IGNORE)
        return _gather_columns(packed, [_TextCopy(CLEAN, noise.mask, keep, labels, noise.rate)], mask_id)


Objective = BlockDiffusion | FullDiffusion | NextToken


class _TextCopy(NamedTuple):
    """One copy of the texts.

    Attributes:
        number: Its number in `ColumnLayout.copy`.
        mask: (b, t) bool, True where it hides the token.
        keep: (b, t) bool, True where the column is needed.
        labels: (b, t) int64, the token that the column's logits are scored against, or `IGNORE`.
        weights: (b, t) float, the weight of that score.
    """

    number: int
    mask: Tensor
    keep: Tensor
    labels: Tensor
    weights: Tensor


def _make_clean_copy(packed: PackedRows, keep: Tensor) -> _TextCopy:
    """Make the copy that hides nothing and is not scored."""
    nothing = torch.full_like(packed.labels, IGNORE)
    return _TextCopy(CLEAN, torch.zeros_like(keep), keep, nothing, torch.ones(keep.shape, device=keep.device))


def _gather_columns(packed: PackedRows, copies: list[_TextCopy], mask_id: int) -> dict[str, Tensor]:
    """Gather the needed columns of all copies, scored ones first.

    Returns:
        input_ids, position_ids, copy and sample (b, k) of all columns, and labels and weights (b, m) of the first m
            columns.
    """
    fields = {
        "input_ids": [packed.tokens.masked_fill(copy.mask, mask_id) for copy in copies],
        "position_ids": [packed.position] * len(copies),
        "copy": [torch.full_like(packed.tokens, copy.number) for copy in copies],
        "sample": [packed.sample] * len(copies),
        "labels": [copy.labels for copy in copies],
        "weights": [copy.weights for copy in copies],
    }
    flat = {name: rearrange(parts, "c b t -> b (c t)") for name, parts in fields.items()}
    keep = rearrange([copy.keep & (packed.sample != FILLER) for copy in copies], "c b t -> b (c t)")
    scored = flat["labels"] != IGNORE
    # A stable sort by rank puts scored columns (0) first, other needed ones (1) next, and those left out (2) last.
    # Rows of a batch need different numbers of columns; the shorter ones end in filler.
    rank = 2 - keep.long() - scored.long()
    most, first = (max(1, int(flags.sum(1).max())) for flags in (keep, scored))
    order = rank.argsort(dim=1, stable=True)[:, :most]
    view = {name: field.gather(1, order) for name, field in flat.items()}
    absent = ~keep.gather(1, order)
    for name, value in {"input_ids": 0, "position_ids": 0, "copy": CLEAN, "sample": FILLER}.items():
        view[name] = view[name].masked_fill(absent, value)
    return {**view, "labels": view["labels"][:, :first], "weights": view["weights"][:, :first]}


def widen_view(view: dict[str, Tensor], grain: int) -> dict[str, Tensor]:
    """Add filler columns up to a multiple of `grain`, so that few shapes occur and tiles are whole."""
    missing = -view["input_ids"].shape[1] % grain
    filler = {"input_ids": 0, "position_ids": 0, "copy": CLEAN, "sample": FILLER}
    return {**view, **{name: pad(view[name], (0, missing), value=value) for name, value in filler.items()}}


def _shift_left_within_texts(packed: PackedRows, field: Tensor, end: float) -> Tensor:
    """Return each column's right neighbour in the same text, and `end` at a text's last column."""
    after = pad(field[:, 1:], (0, 1), value=end)
    same = pad(packed.sample[:, 1:] == packed.sample[:, :-1], (0, 1), value=False)
    return torch.where(same, after, torch.full_like(after, end))


def number_blocks(packed: PackedRows, block: int) -> Tensor:
    """Number the blocks of each row; every text starts a new one.

    Args:
        packed: Rows of texts.
        block: Columns of a block.

    Returns:
        (b, t) int64, the number of each column's block in its row, from 0.

    Raises:
        ValueError: If `block` is below 1.
    """
    if block < 1:
        raise ValueError(f"numbered(block={block}): a block holds at least one column")
    index = packed.position // block
    new = (index[:, 1:] != index[:, :-1]) | (packed.sample[:, 1:] != packed.sample[:, :-1])
    return pad(new, (1, 0), value=False).cumsum(1)


def _any_in_group(flags: Tensor, groups: Tensor) -> Tensor:
    """Return (b, t) bool, True if some column of the same group has its flag set."""
    counts = torch.zeros(len(flags), int(groups.max()) + 1, dtype=torch.int64, device=flags.device)
    return counts.scatter_add(1, groups, flags.long()).gather(1, groups) > 0


def _precede_needed_block(packed: PackedRows, needed: Tensor, block: int) -> Tensor:
    """Return (b, t) bool, True if a later block of the same text holds a needed column."""
    index = packed.position // block
    last = torch.full((len(index), int(packed.sample.max()) + 2), -1, device=index.device)
    last = last.scatter_reduce(1, packed.sample + 1, index.masked_fill(~needed, -1), "amax")
    return index < last.gather(1, packed.sample + 1)
