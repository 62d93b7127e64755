"""What is committed of what a policy accepts: that, and in rows that would stand still the best slot."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from dllm.engine.commit import enforce_progress
from dllm.types import Verdict
from tests.policies.board import board

SCORES = st.sampled_from([-math.inf, -2.0, 0.0, 0.5, 1e30, math.inf, math.nan])
SLOT = st.tuples(st.booleans(), st.booleans(), SCORES)
ROWS = st.lists(st.tuples(st.lists(SLOT, min_size=5, max_size=5), st.booleans(), st.booleans()), min_size=1, max_size=3)


@given(ROWS, st.booleans())
def test_accepted_or_the_best_one(rows, paced: bool) -> None:
    slots = [row for row, _, _ in rows]
    _, window, _ = board(*[[0.5 if pending else None for pending, _, _ in row] for row in slots])
    window = window._replace(forced=torch.tensor([forced for _, _, forced in rows]))
    verdict = Verdict(
        accept=torch.tensor([[accept for _, accept, _ in row] for row in slots]),
        score=torch.tensor([[score for _, _, score in row] for row in slots]),
        rest=torch.tensor([rests for _, rests, _ in rows]) if paced else None,
    )
    commit = enforce_progress(verdict, window)
    for i, (row, rests, forced) in enumerate(rows):
        pending = [j for j, (here, _, _) in enumerate(row) if here]
        accepted = [j for j in pending if row[j][1]]
        if not accepted and pending and (forced or not (paced and rests)):
            accepted = [max(pending, key=lambda j: (-math.inf if math.isnan(row[j][2]) else row[j][2], -j))]
        assert commit[i].nonzero().flatten().tolist() == accepted
