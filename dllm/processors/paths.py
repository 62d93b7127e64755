"""Paths through an automaton along the columns of each row: from the left, from the right, and tokens that join both.

Boundary j lies left of column j. `left[j]` holds the states that the text left of boundary j can lead to, `right[j]`
those from which the columns right of it can still complete the text; a pending column may hold any token. A token may
be written in column j if it leads from a state of `left[j]` to one of `right[j + 1]`:

    column             0         1         2
    boundary       0         1         2         3
    left           begin ->  ->  left[2]
    right                               right[3] <-  <- final
    allowed in column 2:  left[2] --token--> right[3]
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dllm.processors.automaton import END, Automaton

PENDING = -1
"""Kind of a column in which no token is written yet."""


class AutomatonPaths(NamedTuple):
    """Paths of each row (host).

    The axis `bounds` has the t + 1 boundaries of t columns. The axis `states` has the states of the text and, last, the
    state in which it has ended; the state of texts that cannot be completed is left out.

    Attributes:
        left: States that the text left of a boundary can lead to; exact up to the boundary `known`.
        right: States from which the text can be completed; exact from the first pending column on.
        kinds: Kind of the token in each column; PENDING where there is none yet.
        known: Boundary up to which `left` is exact.
        start: First column of the text.
        limit: First column behind it.
        ends: First boundary at which the text may have ended; t + 1 where nothing ends it.
    """

    left: Bool[Tensor, "b bounds states"]
    right: Bool[Tensor, "b bounds states"]
    kinds: Int[Tensor, "b t"]
    known: Int[Tensor, " b"]
    start: Int[Tensor, " b"]
    limit: Int[Tensor, " b"]
    ends: Int[Tensor, " b"]

    def select_rows(self, rows: Int[Tensor, " r"]) -> AutomatonPaths:
        """Take some rows."""
        return AutomatonPaths(*(values[rows] for values in self))

    def replace_rows(self, rows: Int[Tensor, " r"], paths: AutomatonPaths) -> AutomatonPaths:
        """Replace some rows by those of `paths`, in the same order."""
        return AutomatonPaths(*(old.index_copy(0, rows, new) for old, new in zip(self, paths, strict=True)))

    def decide(self, slots: Bool[Tensor, "b t"], kinds: Int[Tensor, "b t"]) -> AutomatonPaths:
        """Write tokens of these kinds in some columns; `left` and `right` are left for the caller to bring up to date.

        Of `left` everything right of the first new column is no longer exact, which `known` records.
        """
        first = torch.where(slots, torch.arange(slots.shape[1]), slots.shape[1]).amin(1)
        return self._replace(kinds=torch.where(slots, kinds, self.kinds), known=torch.minimum(self.known, first))

    def update_left(self, automaton: Automaton, upto: int) -> AutomatonPaths:
        """Make the paths from the left exact up to a boundary."""
        left = self.left.clone()
        # Rows that are exact farther than others are computed once more with them, and come out the same.
        for j in range(int(self.known.min()), upto):
            left[:, j + 1] = self._forbid_early_end(j + 1, self._states_after(automaton, left[:, j], j))
        return self._replace(left=left, known=self.known.clamp(min=upto))

    def update_right(self, automaton: Automaton, first: int, last: int) -> AutomatonPaths:
        """Make the paths from the right exact at the boundaries `first` to `last`; right of them they must be."""
        right = self.right.clone()
        for j in range(last, first - 1, -1):
            right[:, j] = self._forbid_early_end(j, self._states_before(automaton, right[:, j + 1], j))
        return self._replace(right=right)

    def _states_after(self, automaton: Automaton, states: Bool[Tensor, "b states"], j: int) -> Bool[Tensor, "b states"]:
        """Find the states behind column j from those before it."""
        by_any_token = (states.float() @ automaton.steps) > 0
        target = self._targets(automaton, self.kinds[:, j])
        # Several states may lead to the same one, so they are added up. The last place gathers those that lead to the
        # state of texts that cannot be completed, and is dropped.
        reached = torch.zeros(len(states), states.shape[1] + 1).scatter_add_(1, target, states.float())
        return self._choose(j, by_any_token, reached[:, :-1] > 0, states)

    def _states_before(
        self, automaton: Automaton, states: Bool[Tensor, "b states"], j: int
    ) -> Bool[Tensor, "b states"]:
        """Find the states before column j from those behind it."""
        by_any_token = (states.float() @ automaton.steps.T) > 0
        target = self._targets(automaton, self.kinds[:, j])
        by_its_token = torch.nn.functional.pad(states, (0, 1)).gather(1, target)
        return self._choose(j, by_any_token, by_its_token, states)

    def _targets(self, automaton: Automaton, kinds: Int[Tensor, " b"]) -> Int[Tensor, "b states"]:
        """Look up the state to which a token of each row's kind leads from every state; any value where PENDING."""
        return automaton.table[kinds.clamp(min=0)][:, : self.left.shape[2]].long()

    def _choose(
        self,
        j: int,
        by_any_token: Bool[Tensor, "b states"],
        by_its_token: Bool[Tensor, "b states"],
        same: Bool[Tensor, "b states"],
    ) -> Bool[Tensor, "b states"]:
        """Choose by column: any token if it is pending, its own if not, and the same states outside the row's text."""
        moved = torch.where(rearrange(self.kinds[:, j] == PENDING, "b -> b 1"), by_any_token, by_its_token)
        in_text = (self.start <= j) & (j < self.limit)
        return torch.where(rearrange(in_text, "b -> b 1"), moved, same)

    def _forbid_early_end(self, j: int, states: Bool[Tensor, "b states"]) -> Bool[Tensor, "b states"]:
        """Remove the end of the text, in place, in rows in which the text cannot have ended at boundary j."""
        states[:, -1] &= self.ends <= j
        return states

    def allowed(
        self, automaton: Automaton, row: Int[Tensor, " m"], column: Int[Tensor, " m"]
    ) -> Bool[Tensor, "m kinds"]:
        """Find the kinds of tokens that may be written at each of m places."""
        before = self.left[row, column].T.contiguous()
        behind = self.right[row, column + 1].T.contiguous()
        # One product over the edges that lead somewhere: the table has many more entries that do not. Places are the
        # last axis, so that an edge selects contiguous rows.
        kind, source, target = automaton.edges
        joined = before.index_select(0, source) & behind.index_select(0, target)
        count = torch.zeros(len(automaton.table), len(row)).index_add_(0, kind, joined.float())
        return count.T > 0

    def admits(self, automaton: Automaton, column: Int[Tensor, " b"], kind: Int[Tensor, " b"]) -> Bool[Tensor, " b"]:
        """Find the rows in which a token of this kind may be written in this column."""
        row = torch.arange(len(column))
        before, behind = self.left[row, column], self.right[row, column + 1]
        joined = before & torch.nn.functional.pad(behind, (0, 1)).gather(1, self._targets(automaton, kind))
        return joined.any(1) | (column < self.start) | (column >= self.limit)


def compute_paths(
    automaton: Automaton,
    kinds: Int[Tensor, "b t"],
    start: Int[Tensor, " b"],
    limit: Int[Tensor, " b"],
    ends: Int[Tensor, " b"],
) -> AutomatonPaths:
    """Compute the paths of rows from both sides; the arguments are those of `AutomatonPaths`."""
    b, t = kinds.shape
    n = automaton.end
    left = torch.zeros(b, t + 1, n + 1, dtype=torch.bool)
    left[..., automaton.begin] = True
    right = torch.zeros_like(left)
    right[:, :, :n], right[:, :, n] = automaton.final, True
    paths = AutomatonPaths(left, right, kinds, torch.zeros_like(start), start, limit, ends)
    right[:, t] = paths._forbid_early_end(t, right[:, t])
    return paths.update_right(automaton, 0, t - 1).update_left(automaton, t)


def select_compatible_slots(
    automaton: Automaton,
    paths: AutomatonPaths,
    slots: Bool[Tensor, "b t"],
    kinds: Int[Tensor, "b t"],
    score: Float[Tensor, "b t"],
) -> Bool[Tensor, "b t"]:
    """Choose slots that may hold their tokens at once: in order of score, each one that fits those chosen before.

    The first is always chosen, since each may be written on its own. Of equal scores the leftmost comes first.

    Args:
        automaton: The automaton.
        paths: Paths of the rows, exact everywhere between the first slot and the last.
        slots: Columns in which a token is to be written.
        kinds: Kinds of these tokens.
        score: Order of preference.
    """
    if not bool(slots.any()):
        return slots
    # Mostly all slots of a row fit together, which one pass from the left shows. Only the other rows go slot by slot.
    used = slots.any(0).nonzero().flatten()
    first, last = int(used[0]), int(used[-1])
    whole = paths.decide(slots, kinds).update_left(automaton, last + 1)
    fits = (whole.left[:, last + 1] & whole.right[:, last + 1]).any(1)
    bad = (~fits).nonzero().flatten()
    if not len(bad):
        return slots
    chosen = _select_slots_in_order(automaton, paths.select_rows(bad), slots[bad], kinds[bad], score[bad], first, last)
    return slots.index_copy(0, bad, chosen)


def _select_slots_in_order(
    automaton: Automaton,
    paths: AutomatonPaths,
    slots: Bool[Tensor, "b t"],
    kinds: Int[Tensor, "b t"],
    score: Float[Tensor, "b t"],
    first: int,
    last: int,
) -> Bool[Tensor, "b t"]:
    """Do the same as `select_compatible_slots`, one slot after the other; all lie in the columns `first` to `last`."""
    order = score.masked_fill(~slots, -torch.inf).sort(dim=1, descending=True, stable=True).indices
    kept = torch.zeros_like(slots)
    for rank in range(int(slots.sum(1).max())):
        column = order[:, rank]
        here = torch.zeros_like(slots).scatter(1, column[:, None], True)
        kind = kinds.gather(1, column[:, None]).squeeze(1).clamp(min=0)
        # Rows with fewer slots than others have run out of them; what `order` holds there is no slot.
        fits = slots.gather(1, column[:, None]).squeeze(1) & paths.admits(automaton, column, kind)
        new = here & rearrange(fits, "b -> b 1")
        if bool(new.any()):
            kept |= new
            # The next slots may lie on either side, so both directions have to know of this token.
            paths = paths.decide(new, kinds).update_left(automaton, last + 1).update_right(automaton, first, last)
    return kept


def classify_tokens(
    kinds: Int[Tensor, " v"], tokens: Int[Tensor, "b k"], stops: Int[Tensor, "b s"]
) -> Int[Tensor, "b k"]:
    """Find the kinds of tokens.

    Args:
        kinds: Kind of every token.
        tokens: The tokens.
        stops: Tokens that end each row, padded with -1; their kind is END there.
    """
    stop = (rearrange(tokens, "b k -> b k 1") == rearrange(stops, "b s -> b 1 s")).any(2)
    return torch.where(stop, END, kinds[tokens])
