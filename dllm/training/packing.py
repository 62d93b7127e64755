"""Rows of several samples, padded to whole blocks and laid side by side, in an order that only the seed decides."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

import torch
from torch import Tensor

from dllm.training.attention import FILLER
from dllm.training.encoding import TrainingSample
from dllm.training.noise import IGNORE
from dllm.training.views import Objective, PackedRows, RowNoise


@dataclass(frozen=True)
class RowPacking:
    """Rules for laying samples into rows.

    Attributes:
        context: Most columns of a row.
        block: Samples are padded to multiples of it; 1 pads nothing.
        fill: Id that they are padded with.
        learnt: True if that padding is learnt (an end token is, the mask token is not).
        isolate: True if samples of a row do not see each other and each begins at position 0. False joins all samples
            into one stream that is cut every `context` columns, as the published code does.
    """

    context: int
    block: int
    fill: int
    learnt: bool = False
    isolate: bool = True

    def pad_sample(self, sample: TrainingSample) -> tuple[Tensor, Tensor]:
        """Return tokens and labels of a sample, up to the end of its last block."""
        tokens, learnt = torch.tensor(sample.tokens), torch.tensor(sample.learnt)
        missing = -len(tokens) % self.block
        tokens = torch.cat((tokens, torch.full((missing,), self.fill)))
        learnt = torch.cat((learnt, torch.full((missing,), self.learnt)))
        return tokens, tokens.masked_fill(~learnt, IGNORE)


class PackedDataset:
    """Packed rows, each field (t,) and not padded to the width of other rows.

    Args:
        samples: Samples to pack.
        packing: Rules for laying them into rows.
    """

    def __init__(self, samples: Sequence[TrainingSample], packing: RowPacking) -> None:
        texts = [packing.pad_sample(sample) for sample in samples]
        sizes = [len(tokens) for tokens, _ in texts]
        if packing.isolate:
            groups = fit_into_rows(sizes, packing.context)
            self.rows = [_join_texts([texts[i] for i in group]) for group in groups]
        else:
            self.rows = _cut_joined_texts(texts, packing.context)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> PackedRows:
        return PackedRows(*(field.long() for field in self.rows[index]))


def fit_into_rows(sizes: Sequence[int], width: int) -> list[list[int]]:
    """Choose which sizes share a row of `width` columns, so that rows are filled closely.

    Sizes are taken from the largest to the smallest, and each goes to the row in which it leaves the least room
    (best-fit decreasing).

    Returns:
        For each row, the indices of its sizes.
    """
    rows: list[list[int]] = []
    gaps: list[tuple[int, int]] = []  # (free columns, row), sorted
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        at = bisect_left(gaps, (sizes[index], -1))  # the smallest gap that is wide enough
        free, row = gaps.pop(at) if at < len(gaps) else (width, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(index)
        insort(gaps, (free - sizes[index], row))
    return rows


def _join_texts(texts: Sequence[tuple[Tensor, Tensor]]) -> PackedRows:
    """Lay texts side by side into one row, each with its own sample number and positions from 0."""
    tokens, labels = (torch.cat(parts).int() for parts in zip(*texts, strict=True))
    sizes = [len(part) for part, _ in texts]
    sample = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).int()
    return PackedRows(tokens, labels, sample, torch.cat([torch.arange(size) for size in sizes]).int())


def _cut_joined_texts(texts: Sequence[tuple[Tensor, Tensor]], context: int) -> list[PackedRows]:
    """Join all texts into one stream and cut it every `context` columns; each cut is one text to the model."""
    tokens, labels = (torch.cat(parts).int() for parts in zip(*texts, strict=True))
    return [_join_texts([part]) for part in zip(tokens.split(context), labels.split(context), strict=True)]


@dataclass(frozen=True)
class NoisedDataset:
    """The rows of a whole run in the order in which it meets them, each with its noise; an item never changes.

    A run that is resumed, or spread over another number of processes, therefore sees exactly the same items.

    Attributes:
        rows: Packed rows to draw from.
        objective: Objective that draws the noise.
        seed: Seed of order and noise.
        count: Number of rows that the run meets; when all have been met they come again in another order.
        shuffle: False keeps the order of `rows`.
    """

    rows: PackedDataset
    objective: Objective
    seed: int
    count: int
    shuffle: bool = True

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[PackedRows, RowNoise]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        epoch, place = divmod(index, len(self.rows))
        if self.shuffle:  # negative numbers, so that no order shares its seed with the noise of a row
            place = int(_draw_order(len(self.rows), _mix_seed(self.seed, -1 - epoch))[place])
        row = PackedRows(*(field[None] for field in self.rows[place]))
        noise = self.objective.noise(row, torch.Generator().manual_seed(_mix_seed(self.seed, index)))
        return PackedRows(*(field[0] for field in row)), RowNoise(*(field[0] for field in noise))


def make_blank_row() -> tuple[PackedRows, RowNoise]:
    """Make a row of nothing, which evens out the batches of several processes."""
    one = torch.zeros(1, dtype=torch.int64)
    return PackedRows(one, one + IGNORE, one, one), RowNoise(one.bool(), torch.ones(1))


@lru_cache(maxsize=2)
def _draw_order(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def _mix_seed(seed: int, number: int) -> int:
    """Combine two numbers into the seed of a generator."""
    return (seed * 1_000_003 + number) % 2**63


def stack_rows(rows: Sequence[tuple[PackedRows, RowNoise]]) -> tuple[PackedRows, RowNoise]:
    """Stack rows of unequal length into one batch, with filler behind the short ones."""
    width = max(len(packed.tokens) for packed, _ in rows)
    fills = PackedRows(0, IGNORE, FILLER, 0)  # type: ignore[arg-type]

    def pad_and_stack(parts: Sequence[Tensor], fill: float) -> Tensor:
        return torch.stack([torch.nn.functional.pad(part, (0, width - len(part)), value=fill) for part in parts])

    packed = PackedRows(*(pad_and_stack([p[i] for p, _ in rows], float(fills[i])) for i in range(4)))
    return packed, RowNoise(
        pad_and_stack([n.mask for _, n in rows], False), pad_and_stack([n.rate for _, n in rows], 1.0)
    )


def split_held_out(
    samples: Sequence[TrainingSample], share: float
) -> tuple[list[TrainingSample], list[TrainingSample]]:
    """Split samples into those to train on and those to hold out.

    The held-out share has the smallest digests, rounded up, so that it depends on the texts alone and not on their
    order or on a seed. A text is never in both.

    Args:
        samples: All samples; equal texts stay together.
        share: Share of the distinct texts to hold out.

    Returns:
        Training samples and held-out samples.
    """
    digests = sorted({sample.digest for sample in samples})
    chosen = set(digests[: ceil(share * len(digests))])
    return [s for s in samples if s.digest not in chosen], [s for s in samples if s.digest in chosen]
