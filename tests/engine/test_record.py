"""The book of decisions against a plain account of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dllm.engine.commit import StepChange
from dllm.engine.record import record_commits
from dllm.types import Ledger, Seen
from tests.policies.board import board

CHANCE = st.sampled_from([0.2, 0.5, 0.6, 0.75, 0.9, 0.99])
SLOT = st.tuples(CHANCE, st.booleans(), st.booleans())
ROWS = st.lists(st.tuples(st.lists(SLOT, min_size=4, max_size=4), st.booleans()), min_size=1, max_size=3)
OLD = 4 * 7
"""What the book holds of everything before the step: forward 7, alone."""


def step(rows, fresh, columns=(2, 3, 5, 6), **planes):
    """The ledger after a step in which `rows` hold for each slot its chance, whether it is committed, and whether its
    candidate is another than the arg-max."""
    canvas, window, guess = board(*[[c for c, _, _ in row] for row in rows], columns=columns, t=8)
    commit = torch.tensor([[new for _, new, _ in row] for row in rows])
    other = torch.tensor([[drawn for _, _, drawn in row] for row in rows])
    if bool(other.any()):
        guess = replace(guess, tokens=guess.mode + other)
    change = StepChange(commit, guess.tokens, guess.confidence, **planes)
    there = window.scatter_to_columns(commit, 8)
    ledger = Ledger(torch.full_like(canvas.tokens, OLD))
    seen = Seen(guess.p1, torch.ones(len(rows)), torch.tensor(fresh))
    nfe = torch.arange(11, 11 + len(rows))
    return record_commits(ledger, window, guess, change, there, seen, nfe), guess


@given(ROWS)
def test_who_was_decided_when_with_whom_and_how_surely(drawn) -> None:
    rows, fresh = [row for row, _ in drawn], [new for _, new in drawn]
    ledger, guess = step(rows, fresh)
    for i, row in enumerate(rows):
        new = [j for j, (_, commit, _) in enumerate(row) if commit]
        together = len(new) > 1
        lost = sum(1 - guess.p1[i, j].item() for j in new) + max((guess.p2[i, j].item() for j in new), default=0)
        sure = together and fresh[i] and lost < 1 - 1e-4 and not any(row[j][2] for j in new)
        for j, column in enumerate((2, 3, 5, 6)):
            want = (11 + i, together, sure) if j in new else (7, False, False)
            assert (ledger.when[i, column], ledger.parallel[i, column], ledger.certified[i, column]) == want
    rest = ledger.book[:, [0, 1, 4, 7]]
    assert (rest == OLD).all(), "nobody else is touched"


@pytest.mark.parametrize("fresh", [True, False])
def test_what_is_replaced_is_not_certified_and_what_is_revoked_is_undecided(fresh: bool) -> None:
    canvas, window, guess = board([0.99, 0.99, None, None], columns=(2, 3, 5, 6), t=8, answer=True)
    commit = torch.tensor([[True, True, True, False]])
    change = StepChange(commit, guess.tokens, guess.confidence, revoke=torch.tensor([[False, False, False, True]]))
    ledger = Ledger(torch.full_like(canvas.tokens, OLD))
    seen = Seen(guess.p1, torch.ones(1), torch.tensor([fresh]))
    ledger = record_commits(
        ledger, window, guess, change, window.scatter_to_columns(commit, 8), seen, torch.tensor([9])
    )
    assert ledger.when[0].tolist() == [7, 7, 9, 9, 7, 9, 0, 7]
    assert ledger.parallel[0].nonzero().flatten().tolist() == [2, 3]
    assert ledger.certified[0].nonzero().flatten().tolist() == ([2, 3] if fresh else [])
