"""Samples share rows: padded to whole blocks, laid side by side, and drawn in an order that only the seed decides."""

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
    """How samples are laid into rows.

    context  most columns of a row
    block    samples are padded to multiples of it; 1 pads nothing
    fill     the id they are padded with
    learnt   whether that padding is learnt (an end token is, the mask token is not)
    isolate  samples of a row do not see each other, and each begins at position 0; False joins all samples into one
             stream that is cut every `context` columns, as the published code does
    """

    context: int
    block: int
    fill: int
    learnt: bool = False
    isolate: bool = True

    def padded(self, sample: TrainingSample) -> tuple[Tensor, Tensor]:
        """(tokens, labels) of a sample, up to the end of its last block."""
        tokens, learnt = torch.tensor(sample.tokens), torch.tensor(sample.learnt)
        missing = -len(tokens) % self.block
        tokens = torch.cat((tokens, torch.full((missing,), self.fill)))
        learnt = torch.cat((learnt, torch.full((missing,), self.learnt)))
        return tokens, tokens.masked_fill(~learnt, IGNORE)


class PackedDataset:
    """Packed rows, each field (t,) and not padded: `rows[i]`."""

    def __init__(self, samples: Sequence[TrainingSample], packing: RowPacking) -> None:
        texts = [packing.padded(sample) for sample in samples]
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


def fit_into_rows(sizes: Sequence[int], room: int) -> list[list[int]]:
    """Which sizes share a row of `room`: the largest first, each where it fits best. Their sums fill rows closely."""
    rows: list[list[int]] = []
    gaps: list[tuple[int, int]] = []  # (free columns, row), sorted
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        at = bisect_left(gaps, (sizes[index], -1))
        free, row = gaps.pop(at) if at < len(gaps) else (room, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(index)
        insort(gaps, (free - sizes[index], row))
    return rows


def _join_texts(texts: Sequence[tuple[Tensor, Tensor]]) -> PackedRows:
    tokens, labels = (torch.cat(parts).int() for parts in zip(*texts, strict=True))
    sizes = [len(part) for part, _ in texts]
    sample = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).int()
    return PackedRows(tokens, labels, sample, torch.cat([torch.arange(size) for size in sizes]).int())


def _cut_joined_texts(texts: Sequence[tuple[Tensor, Tensor]], context: int) -> list[PackedRows]:
    tokens, labels = (torch.cat(parts).int() for parts in zip(*texts, strict=True))
    return [_join_texts([part]) for part in zip(tokens.split(context), labels.split(context), strict=True)]


@dataclass(frozen=True)
class NoisedDataset:
    """The rows of a whole run in the order in which it meets them, each with its noise: `lessons[i]` never changes.

    So a run that is resumed, or spread over other processes, sees exactly what it would have seen.

    count  how many rows the run meets; the rows come again, in another order, when all have been met
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
        lap, place = divmod(index, len(self.rows))
        if self.shuffle:
            place = int(_draw_order(len(self.rows), _mix_seed(self.seed, -1 - lap))[place])
        row = PackedRows(*(field[None] for field in self.rows[place]))
        noise = self.objective.noise(row, torch.Generator().manual_seed(_mix_seed(self.seed, index)))
        return PackedRows(*(field[0] for field in row)), RowNoise(*(field[0] for field in noise))


def make_blank_row() -> tuple[PackedRows, RowNoise]:
    """A row of nothing, which evens out the batches of several processes."""
    one = torch.zeros(1, dtype=torch.int64)
    return PackedRows(one, one + IGNORE, one, one), RowNoise(one.bool(), torch.ones(1))


@lru_cache(maxsize=2)
def _draw_order(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def _mix_seed(seed: int, number: int) -> int:
    """One generator seed out of two numbers."""
    return (seed * 1_000_003 + number) % 2**63


def stack_rows(lessons: Sequence[tuple[PackedRows, RowNoise]]) -> tuple[PackedRows, RowNoise]:
    """Rows of unequal length as one batch; filler behind the short ones."""
    width = max(len(packed.tokens) for packed, _ in lessons)
    fills = PackedRows(0, IGNORE, FILLER, 0)  # type: ignore[arg-type]

    def even(parts: Sequence[Tensor], fill: float) -> Tensor:
        return torch.stack([torch.nn.functional.pad(part, (0, width - len(part)), value=fill) for part in parts])

    packed = PackedRows(*(even([p[i] for p, _ in lessons], float(fills[i])) for i in range(4)))
    return packed, RowNoise(even([n.mask for _, n in lessons], False), even([n.rate for _, n in lessons], 1.0))


def split_held_out(
    samples: Sequence[TrainingSample], share: float
) -> tuple[list[TrainingSample], list[TrainingSample]]:
    """(training samples, held-out samples): the `share` with the smallest digests, rounded up; a text is never in both.

    Which they are depends on the texts alone, not on their order or on a seed.
    """
    digests = sorted({sample.digest for sample in samples})
    chosen = set(digests[: ceil(share * len(digests))])
    return [s for s in samples if s.digest not in chosen], [s for s in samples if s.digest in chosen]
