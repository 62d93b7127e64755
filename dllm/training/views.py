"""What one forward of each objective looks at: a noised batch of packed texts becomes columns, labels and weights.

An objective is three answers: how noise is drawn, which copies of which columns the model sees, and which label each
column's logits are scored against with which weight. Columns that no loss can reach are left out, and the columns that
are scored come first, so that the stock forward (`logits_to_keep`) computes no logits that nobody reads.

Sources: Wu et al. 2025, Fast-dLLM v2 (arXiv:2509.26328), section 3.2; Nie et al. 2025, LLaDA (arXiv:2502.09992), eq. 3.
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
"""A block that holds any text whole."""


class PackedRows(NamedTuple):
    """Rows of texts, each field (b, t) int64.

    tokens    what is written there
    labels    the same where it is supervised, else `IGNORE`
    sample    which text of the row, `FILLER` behind the last one
    position  place in its text
    """

    tokens: Tensor
    labels: Tensor
    sample: Tensor
    position: Tensor


class RowNoise(NamedTuple):
    """mask (b, t) bool: True where the noised copy hides the token; rate (b, t): the probability it was hidden with."""

    mask: Tensor
    rate: Tensor


@dataclass(frozen=True)
class BlockDiffusion:
    """Fast-dLLM v2: blocks denoised in the sight of the clean text before them, logits one column left of their token.

    block          columns of a block, counted from each text's start; 1 is next-token prediction from a masked input
    sub_block      columns that share a noise rate; None: the block, as published. With smaller ones the model sees
                   blocks that are finished on the left and untouched on the right, as sub-block decoding makes them
    complementary  also train on the complement of each noised copy, so that every token is learnt exactly once
    eps            lowest noise rate

    The loss is not weighted by 1/t, as published. Departs from the published forward in cost only: both noised copies
    share one clean copy.
    """

    block: int = 32
    sub_block: int | None = None
    complementary: bool = True
    eps: float = 1e-3

    @property
    def attention_block(self) -> int:
        return self.block

    def noise(self, packed: PackedRows, rng: torch.Generator | None = None) -> RowNoise:
        groups = number_blocks(packed, self.sub_block or self.block)
        return RowNoise(*draw_grouped_noise(packed.labels, groups, eps=self.eps, rng=rng))

    def view(self, packed: PackedRows, noise: RowNoise, mask_id: int) -> dict[str, Tensor]:
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
    """LLaDA: one noise rate t a text, every column sees every other, and a hidden token weighs 1/t.

    eps    lowest noise rate
    shift  score the logits one column left of the token, as Dream does; False is LLaDA's own way

    Departs from LLaDA's fine-tuning loss: the sum is divided by the supervised tokens of the whole batch, not text by
    text, so that long answers weigh as much a token as short ones.
    """

    eps: float = 1e-3
    shift: bool = False

    @property
    def attention_block(self) -> int:
        return EVERYTHING

    def noise(self, packed: PackedRows, rng: torch.Generator | None = None) -> RowNoise:
        return RowNoise(*draw_grouped_noise(packed.labels, packed.sample.clamp(min=0), eps=self.eps, rng=rng))

    def view(self, packed: PackedRows, noise: RowNoise, mask_id: int) -> dict[str, Tensor]:
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
    """Plain autoregressive training on the same rows: what adaptation starts from, and is compared with."""

    @property
    def attention_block(self) -> int:
        return 1

    def noise(self, packed: PackedRows, rng: torch.Generator | None = None) -> RowNoise:
        hidden = torch.zeros_like(packed.labels, dtype=torch.bool)
        return RowNoise(hidden, torch.ones(packed.labels.shape, device=packed.labels.device))

    def view(self, packed: PackedRows, noise: RowNoise, mask_id: int) -> dict[str, Tensor]:
        labels = _shift_left_within_texts(packed, packed.labels, IGNORE)
        keep = _precede_needed_block(packed, labels != IGNORE, 1) | (labels != IGNORE)
        return _gather_columns(packed, [_TextCopy(CLEAN, noise.mask, keep, labels, noise.rate)], mask_id)


Objective = BlockDiffusion | FullDiffusion | NextToken


class _TextCopy(NamedTuple):
    """One copy of the texts: its number, what it hides, which columns are needed, what they are scored against."""

    number: int
    mask: Tensor
    keep: Tensor
    labels: Tensor
    weights: Tensor


def _make_clean_copy(packed: PackedRows, keep: Tensor) -> _TextCopy:
    nothing = torch.full_like(packed.labels, IGNORE)
    return _TextCopy(CLEAN, torch.zeros_like(keep), keep, nothing, torch.ones(keep.shape, device=keep.device))


def _gather_columns(packed: PackedRows, copies: list[_TextCopy], mask_id: int) -> dict[str, Tensor]:
    """The needed columns of all copies, scored ones first.

    Returns input_ids, position_ids, copy and sample (b, k), and labels and weights (b, m) of the first m columns.
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
    rank = 2 - keep.long() - scored.long()
    most, first = (max(1, int(flags.sum(1).max())) for flags in (keep, scored))
    order = rank.argsort(dim=1, stable=True)[:, :most]
    view = {name: field.gather(1, order) for name, field in flat.items()}
    absent = ~keep.gather(1, order)
    for name, value in {"input_ids": 0, "position_ids": 0, "copy": CLEAN, "sample": FILLER}.items():
        view[name] = view[name].masked_fill(absent, value)
    return {**view, "labels": view["labels"][:, :first], "weights": view["weights"][:, :first]}


def widen_view(view: dict[str, Tensor], grain: int) -> dict[str, Tensor]:
    """A view with filler columns up to a multiple of `grain`, so that few shapes occur and tiles are whole."""
    missing = -view["input_ids"].shape[1] % grain
    filler = {"input_ids": 0, "position_ids": 0, "copy": CLEAN, "sample": FILLER}
    return {**view, **{name: pad(view[name], (0, missing), value=value) for name, value in filler.items()}}


def _shift_left_within_texts(packed: PackedRows, field: Tensor, end: float) -> Tensor:
    """What stands one column further right in the same text; `end` at a text's last column."""
    after = pad(field[:, 1:], (0, 1), value=end)
    same = pad(packed.sample[:, 1:] == packed.sample[:, :-1], (0, 1), value=False)
    return torch.where(same, after, torch.full_like(after, end))


def number_blocks(packed: PackedRows, block: int) -> Tensor:
    """(b, t): the number of each column's block in its row; every text starts a new one.

    Raises ValueError if `block` is below 1.
    """
    if block < 1:
        raise ValueError(f"numbered(block={block}): a block holds at least one column")
    index = packed.position // block
    new = (index[:, 1:] != index[:, :-1]) | (packed.sample[:, 1:] != packed.sample[:, :-1])
    return pad(new, (1, 0), value=False).cumsum(1)


def _any_in_group(flags: Tensor, groups: Tensor) -> Tensor:
    """(b, t): whether some column of the same group has its flag set."""
    counts = torch.zeros(len(flags), int(groups.max()) + 1, dtype=torch.int64, device=flags.device)
    return counts.scatter_add(1, groups, flags.long()).gather(1, groups) > 0


def _precede_needed_block(packed: PackedRows, needed: Tensor, block: int) -> Tensor:
    """(b, t): whether a later block of the same text holds a needed column."""
    index = packed.position // block
    last = torch.full((len(index), int(packed.sample.max()) + 2), -1, device=index.device)
    last = last.scatter_reduce(1, packed.sample + 1, index.masked_fill(~needed, -1), "amax")
    return index < last.gather(1, packed.sample + 1)
