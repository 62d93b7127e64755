"""When a row is finished, against the definition read aloud, column by column."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from dllm.engine.stop import Stopper
from dllm.requests import text_start
from dllm.types import Canvas, Rows

T = 12
ROW = st.tuples(
    st.lists(st.sampled_from([3, 5, 7, 9]), min_size=T, max_size=T),
    st.lists(st.booleans(), min_size=T, max_size=T),
    st.integers(1, T - 1),
    st.integers(0, T),
    st.lists(st.sampled_from([5, 7, -1]), min_size=2, max_size=2),
    st.booleans(),
)


def ends(tokens: list[int], pending: list[bool], prompt: int, limit: int, ids: list[int], held: bool) -> bool:
    """Whether the row's first end that is decided comes before all that is pending."""
    for column in range(prompt, T):
        if pending[column]:
            return False
        if column < limit and tokens[column] in ids:
            return not held
    return False


@given(st.lists(ROW, min_size=1, max_size=3), st.booleans())
def test_a_row_is_closed_by_its_first_end(rows: list[Any], holds: bool) -> None:
    rows = [(*row[:5], row[5] and holds) for row in rows]
    tokens, pending, prompt, limit, ids, held = (torch.tensor(column) for column in zip(*rows, strict=True))
    start = prompt.unsqueeze(1)
    given_ = torch.arange(T) < start
    pending = pending & ~given_
    facts = Rows(prompt, limit, torch.full_like(limit, T), limit, given_, text_start(given_))
    after = Stopper(ids).close(Canvas(tokens, pending, facts, held if holds else None))
    for i, (text, _, *about) in enumerate(rows):
        left = pending[i].tolist()
        want = [False] * T if ends(text, left, *about) else left
        assert after.pending[i].tolist() == want and torch.equal(after.tokens[i], tokens[i])
