"""Rows and batches: what is supervised, how tails are filled, and that nothing is lost or reordered within a row."""

from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from dllm.training.noise import IGNORE
from dllm.training.rows import Row, block_batches, causal_batches

rows_of = st.lists(
    st.builds(
        lambda prompt, answer: Row([3] + [10] * prompt + [4], [11] * answer + [0]),
        st.integers(0, 20),
        st.integers(1, 20),
    ),
    min_size=1,
    max_size=20,
)


@given(rows_of, st.integers(1, 12), st.integers(1, 400))
def test_block_batches_fill_the_tail_with_the_end_and_supervise_it(rows: list[Row], block: int, positions: int) -> None:
    for batch in block_batches(iter(rows), block=block, positions=positions, end=0):
        assert batch.tokens.shape[1] % block == 0
        supervised = batch.labels != IGNORE
        assert (batch.labels[supervised] == batch.tokens[supervised]).all()
        for tokens, marked in zip(batch.tokens.tolist(), supervised.tolist(), strict=True):
            start = marked.index(True)
            row = next(row for row in rows if tokens[: len(row.prompt) + len(row.answer)] == row.prompt + row.answer)
            assert start == len(row.prompt) and all(marked[start:])
            assert set(tokens[len(row.prompt) + len(row.answer) :]) <= {0}
            assert len(tokens) - len(row.prompt) - len(row.answer) < block


@given(rows_of, st.integers(1, 8), st.integers(1, 200))
def test_causal_batches_supervise_answers_only(rows: list[Row], grain: int, positions: int) -> None:
    for batch in causal_batches(iter(rows), grain=grain, positions=positions, pad=1):
        assert ((batch.labels != IGNORE).sum(1) > 0).all()
        assert set(batch.labels.flatten().tolist()) <= {IGNORE, 0, 11}


@given(rows_of)
def test_a_batch_of_one_loses_no_row(rows: list[Row]) -> None:
    out = list(islice(block_batches(iter(rows), block=4, positions=1, end=0), len(rows)))
    assert [batch.tokens[0, : len(r.prompt) + len(r.answer)].tolist() for batch, r in zip(out, rows, strict=True)] == [
        row.prompt + row.answer for row in rows
    ]
