"""Ways through an automaton along the columns of each row: from the left, from the right, and which tokens join both.

A boundary j lies left of column j. `left[j]` holds the states in which the columns left of j can leave the automaton,
`right[j]` those from which the columns right of it can still complete the text; a pending column may hold any token.
A token may be written in column j if it leads from a state of `left[j]` to one of `right[j + 1]`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from dllm.processors.automaton import END, Automaton

PENDING = -1


class AutomatonPaths(NamedTuple):
    """What is known of each row (host).

    left   (b, t+1, n+1) bool   exact up to the boundary `known`
    right  (b, t+1, n+1) bool   exact from the first pending column on
    kinds  (b, t) int64         kind of the token in each column; PENDING where there is none yet
    known  (b,) int64
    start  (b,) int64           first column of the text
    limit  (b,) int64           first column behind it
    ends   (b,) int64           first boundary at which the text may have ended; t+1 where nothing ends it
    """

    left: Tensor
    right: Tensor
    kinds: Tensor
    known: Tensor
    start: Tensor
    limit: Tensor
    ends: Tensor

    def pick(self, rows: Tensor) -> AutomatonPaths:
        return AutomatonPaths(*(x[rows] for x in self))

    def put(self, rows: Tensor, values: AutomatonPaths) -> AutomatonPaths:
        return AutomatonPaths(*(x.index_copy(0, rows, new) for x, new in zip(self, values, strict=True)))

    def decide(self, slots: Tensor, kinds: Tensor) -> AutomatonPaths:
        """The same with tokens of these kinds (b, t) where `slots` (b, t); both ways are still those from before."""
        first = torch.where(slots, torch.arange(slots.shape[1]), slots.shape[1]).amin(1)
        return self._replace(kinds=torch.where(slots, kinds, self.kinds), known=torch.minimum(self.known, first))

    def from_left(self, automaton: Automaton, upto: int) -> AutomatonPaths:
        """The ways from the left made exact up to a boundary."""
        left = self.left.clone()
        for j in range(int(self.known.min()), upto):
            left[:, j + 1] = self.gate(j + 1, self.across(automaton, left[:, j], j))
        return self._replace(left=left, known=self.known.clamp(min=upto))

    def from_right(self, automaton: Automaton, first: int, last: int) -> AutomatonPaths:
        """The ways from the right made exact at the boundaries first to last, being so right of them."""
        right = self.right.clone()
        for j in range(last, first - 1, -1):
            right[:, j] = self.gate(j, self.back(automaton, right[:, j + 1], j))
        return self._replace(right=right)

    def across(self, automaton: Automaton, states: Tensor, j: int) -> Tensor:
        """States (b, n+1) behind column j, from those before it."""
        anything = (states.float() @ automaton.steps) > 0
        target = automaton.table[self.kinds[:, j].clamp(min=0)][:, : states.shape[1]].long()
        one = torch.zeros(len(states), states.shape[1] + 1).scatter_add_(1, target, states.float())[:, :-1] > 0
        return self.inside(j, torch.where(self.kinds[:, j, None] == PENDING, anything, one), states)

    def back(self, automaton: Automaton, states: Tensor, j: int) -> Tensor:
        """States (b, n+1) before column j, from those behind it."""
        anything = (states.float() @ automaton.steps.T) > 0
        target = automaton.table[self.kinds[:, j].clamp(min=0)][:, : states.shape[1]].long()
        one = torch.nn.functional.pad(states, (0, 1)).gather(1, target)
        return self.inside(j, torch.where(self.kinds[:, j, None] == PENDING, anything, one), states)

    def inside(self, j: int, moved: Tensor, stayed: Tensor) -> Tensor:
        """Outside its text a row's states stay as they are."""
        return torch.where(rearrange((self.start <= j) & (j < self.limit), "b -> b 1"), moved, stayed)

    def gate(self, j: int, states: Tensor) -> Tensor:
        """The states without the end where the text cannot have ended yet."""
        states[:, -1] &= self.ends <= j
        return states

    def allowed(self, automaton: Automaton, row: Tensor, column: Tensor) -> Tensor:
        """Kinds (m, c) that may be written at each of m places (m,)."""
        before = self.left[row, column].T.contiguous()
        behind = self.right[row, column + 1].T.contiguous()
        kind, source, target = automaton.edges
        open_ = before.index_select(0, source) & behind.index_select(0, target)
        count = torch.zeros(len(automaton.table), len(row)).index_add_(0, kind, open_.float())
        return count.T > 0

    def admits(self, automaton: Automaton, column: Tensor, kind: Tensor) -> Tensor:
        """Rows (b,) in which a token of this kind (b,) may be written in this column (b,)."""
        row = torch.arange(len(column))
        before, behind = self.left[row, column], self.right[row, column + 1]
        target = automaton.table[kind][:, : before.shape[1]].long()
        joined = (before & torch.nn.functional.pad(behind, (0, 1)).gather(1, target)).any(1)
        return joined | (column < self.start) | (column >= self.limit)


def compute_paths(automaton: Automaton, kinds: Tensor, start: Tensor, limit: Tensor, ends: Tensor) -> AutomatonPaths:
    """Both ways of rows whose columns are these kinds (b, t)."""
    b, t = kinds.shape
    n = automaton.end
    left = torch.zeros(b, t + 1, n + 1, dtype=torch.bool)
    left[..., automaton.begin] = True
    right = torch.zeros_like(left)
    right[:, :, :n], right[:, :, n] = automaton.final, True
    paths = AutomatonPaths(left, right, kinds, torch.zeros_like(start), start, limit, ends)
    right[:, t] = paths.gate(t, right[:, t])
    return paths.from_right(automaton, 0, t - 1).from_left(automaton, t)


def select_compatible_slots(
    automaton: Automaton, paths: AutomatonPaths, slots: Tensor, kinds: Tensor, score: Tensor
) -> Tensor:
    """Which of the slots (b, t) may hold tokens of these kinds at once: in order of score, whatever fits what is kept.

    The first is always kept, since each may be written on its own. Of equal scores the leftmost comes first.
    """
    if not bool(slots.any()):
        return slots
    used = slots.any(0).nonzero().flatten()
    first, last = int(used[0]), int(used[-1])
    whole = paths.decide(slots, kinds).from_left(automaton, last + 1)
    fits = (whole.left[:, last + 1] & whole.right[:, last + 1]).any(1)
    bad = (~fits).nonzero().flatten()
    if not len(bad):
        return slots
    picked = _select_slots_in_order(automaton, paths.pick(bad), slots[bad], kinds[bad], score[bad], first, last)
    return slots.index_copy(0, bad, picked)


def _select_slots_in_order(
    automaton: Automaton, paths: AutomatonPaths, slots: Tensor, kinds: Tensor, score: Tensor, first: int, last: int
) -> Tensor:
    """`together` for rows in which not all of the slots fit."""
    order = score.masked_fill(~slots, -torch.inf).sort(dim=1, descending=True, stable=True).indices
    kept = torch.zeros_like(slots)
    for rank in range(int(slots.sum(1).max())):
        column = order[:, rank]
        here = torch.zeros_like(slots).scatter(1, column[:, None], True)
        kind = kinds.gather(1, column[:, None]).squeeze(1).clamp(min=0)
        fits = slots.gather(1, column[:, None]).squeeze(1) & paths.admits(automaton, column, kind)
        new = here & rearrange(fits, "b -> b 1")
        if bool(new.any()):
            kept |= new
            paths = paths.decide(new, kinds).from_left(automaton, last + 1).from_right(automaton, first, last)
    return kept


def classify_tokens(kinds: Tensor, tokens: Tensor, stops: Tensor) -> Tensor:
    """Kinds (b, k) of tokens (b, k), those that end their row (b, s) included."""
    stop = (rearrange(tokens, "b k -> b k 1") == rearrange(stops, "b s -> b 1 s")).any(2)
    return torch.where(stop, END, kinds[tokens])
