"""Packing loses nothing, pads to whole blocks, and gives a run the same rows and noise however it is cut up."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from dllm.training.attention import FILLER
from dllm.training.encoding import TrainingSample
from dllm.training.noise import IGNORE
from dllm.training.packing import (
    NoisedDataset,
    PackedDataset,
    RowPacking,
    fit_into_rows,
    make_blank_row,
    split_held_out,
    stack_rows,
)
from dllm.training.views import BlockDiffusion

FILL = 3


def sample(size: int, start: int = 10) -> TrainingSample:
    tokens = list(range(start, start + size))
    return TrainingSample(tokens, [i >= size // 2 for i in range(size)], f"{start}-{size}")


@given(st.lists(st.integers(1, 20), max_size=40), st.integers(20, 50))
def test_fitted_rows_hold_everything_once_and_never_too_much(sizes: list[int], room: int) -> None:
    rows = fit_into_rows(sizes, room)
    assert sorted(index for row in rows for index in row) == list(range(len(sizes)))
    totals = sorted(sum(sizes[i] for i in row) for row in rows)
    assert all(0 < total <= room for total in totals)
    assert len(totals) < 2 or totals[0] + totals[1] > room, "two rows that fit one were left apart"


@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(1, 8), st.booleans())
def test_isolated_rows_hold_every_sample_padded_to_whole_blocks(sizes: list[int], block: int, learnt: bool) -> None:
    samples = [sample(size, 10 + 100 * i) for i, size in enumerate(sizes)]
    rows = PackedDataset(samples, RowPacking(28, block, FILL, learnt))
    found = []
    for row in (rows[i] for i in range(len(rows))):
        assert len(row.tokens) <= 28
        for number in range(int(row.sample.max()) + 1):
            tokens, labels, position = (f[row.sample == number] for f in (row.tokens, row.labels, row.position))
            assert len(tokens) % block == 0 and position.tolist() == list(range(len(tokens)))
            text = [token for token in tokens.tolist() if token >= 10]
            supervised = [label for label in labels.tolist() if label not in (IGNORE, FILL)]
            assert tokens.tolist()[len(text) :] == [FILL] * (len(tokens) - len(text))
            assert labels.tolist()[len(text) :] == [FILL if learnt else IGNORE] * (len(tokens) - len(text))
            found.append((text, supervised))
    assert sorted(found) == sorted((s.tokens, s.tokens[len(s.tokens) // 2 :]) for s in samples)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.sampled_from([1, 4]))
def test_a_stream_is_everything_in_a_row_cut_at_the_context(sizes: list[int], block: int) -> None:
    samples = [sample(size, 10 + 100 * i) for i, size in enumerate(sizes)]
    rows = PackedDataset(samples, RowPacking(16, block, FILL, isolate=False))
    joined = torch.cat([rows[i].tokens for i in range(len(rows))]).tolist()
    want = [t for s in samples for t in s.tokens + [FILL] * (-len(s.tokens) % block)]
    assert joined == want
    assert all(len(rows[i].tokens) == 16 for i in range(len(rows) - 1))
    assert all(rows[i].position.tolist() == list(range(len(rows[i].tokens))) for i in range(len(rows)))
    assert all(set(rows[i].sample.tolist()) == {0} for i in range(len(rows)))


def lessons(count: int = 30, seed: int = 0, shuffle: bool = True) -> NoisedDataset:
    rows = PackedDataset([sample(8, 10 + 100 * i) for i in range(10)], RowPacking(8, 4, FILL))
    return NoisedDataset(rows, BlockDiffusion(4), seed, count, shuffle)


def same(one: object, two: object) -> bool:
    return all(
        torch.equal(a, b)
        for x, y in zip(one, two, strict=True)
        for a, b in zip(x, y, strict=True)  # type: ignore[call-overload]
    )


def test_a_lesson_depends_on_its_number_and_the_seed_alone() -> None:
    one, two = lessons(), lessons(count=12)
    assert all(same(one[i], two[i]) for i in (11, 3, 7))
    assert not same(one[3], lessons(seed=1)[3])


def test_each_lap_meets_every_row_once_in_an_order_and_with_noise_of_its_own() -> None:
    all_ = lessons()
    laps = [[tuple(all_[i][0].tokens.tolist()) for i in range(start, start + 10)] for start in (0, 10, 20)]
    assert all(len(set(lap)) == 10 for lap in laps)
    assert laps[0] != laps[1] != laps[2]
    masks = {tuple(all_[i][1].mask.tolist()) for i in range(30)}
    assert len(masks) > 8, "noise repeats"


def test_held_out_lessons_keep_their_order() -> None:
    fixed = lessons(count=10, shuffle=False)
    assert sorted(int(fixed[i][0].tokens[0]) for i in range(10)) == [int(fixed[i][0].tokens[0]) for i in range(10)]


def test_rows_of_unequal_length_make_a_batch_with_filler() -> None:
    rows = PackedDataset([sample(8), sample(4, 200)], RowPacking(8, 4, FILL))
    some = NoisedDataset(rows, BlockDiffusion(4), 0, 2, shuffle=False)
    packed, noise = stack_rows([some[0], some[1], make_blank_row()])
    assert packed.tokens.shape == noise.mask.shape == noise.rate.shape == (3, 8)
    assert packed.sample[1].tolist() == [0] * 4 + [FILLER] * 4
    assert (packed.labels[1, 4:] == IGNORE).all() and (packed.labels[2] == IGNORE).all()


@given(st.lists(st.integers(0, 20), min_size=2, max_size=30), st.floats(0, 0.9), st.randoms(use_true_random=False))
def test_held_out_texts_do_not_depend_on_order_and_are_never_trained_on(
    names: list[int], share: float, dice: object
) -> None:
    samples = [TrainingSample([name], [True], f"{name * 7919 % 1000:03}") for name in names]
    taught, spared = split_held_out(samples, share)
    assert not {s.digest for s in taught} & {s.digest for s in spared}
    assert len(taught) + len(spared) == len(samples) and bool(spared) == (share > 0)
    mixed = list(samples)
    dice.shuffle(mixed)  # type: ignore[attr-defined]
    assert {s.digest for s in split_held_out(mixed, share)[1]} == {s.digest for s in spared}
