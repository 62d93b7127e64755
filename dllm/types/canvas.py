"""The nouns of decoding: the canvas, the window that a step works on, what the model guesses and what is decided.

One letter per axis: `b` batch, `t` canvas, `k` window, `n` slots, `q` query, `v` vocabulary, `d` width. Tensors marked
*host* live on the CPU, so that decisions about shapes never wait for the accelerator; all others live on the model's
device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from dllm.transfer import to_device
from dllm.types.signal import Probe, Signal

LEAST = -1e6
"""Logit of a token that is ruled out, unless all others are too."""


class Rows(NamedTuple):
    """The fixed facts of the rows of a batch, all on the host; only a scheduler that changes lengths replaces them.

    Attributes:
        prompt: Columns before the first that is to be written.
        limit: First column past the requested output.
        length: Columns that exist: the limit, or the end of its attention block. Columns beyond are padding.
        seed: Seed of the row's own random numbers.
        given: Columns that the caller gave: the prompt, and with infilling also columns behind it. Never written.
        text: First column behind all that was given.
        stops: Ids that end the row, padded with -1. None for those of the model.
    """

    prompt: Int[Tensor, " b"]
    limit: Int[Tensor, " b"]
    length: Int[Tensor, " b"]
    seed: Int[Tensor, " b"]
    given: Bool[Tensor, "b t"]
    text: Int[Tensor, " b"]
    stops: Int[Tensor, "b s"] | None = None


def text_start(given: Bool[Tensor, "b t"]) -> Int[Tensor, " b"]:
    """Find the first column behind all the columns given: the end of the prompt."""
    return (given * torch.arange(1, given.shape[1] + 1)).amax(1)


class Canvas(NamedTuple):
    """The text being written.

    Attributes:
        tokens: Tokens on the canvas now; the mask id (or anything else) where a column is pending.
        pending: True where a token is still to be decided. Never inferred from the tokens: a model may predict the
            mask id, a policy may revoke, and a finished row is closed without deciding what is left.
        rows: The fixed facts of each row.
        held: Rows whose policy is not done with its range though nothing may be pending there. None where no policy
            asks for it.
    """

    tokens: Int[Tensor, "b t"]
    pending: Bool[Tensor, "b t"]
    rows: Rows
    held: Bool[Tensor, " b"] | None = None


@dataclass(frozen=True, eq=False)
class HostView:
    """A canvas as the host sees it: the copy on which every decision about shapes rests.

    Attributes:
        pending: Copy of `Canvas.pending`.
        held: Copy of `Canvas.held`.
    """

    pending: Bool[Tensor, "b t"]
    held: Bool[Tensor, " b"] | None

    @classmethod
    def of(cls, canvas: Canvas) -> HostView:
        """Copy a canvas to the host, and so wait for the device.

        No other part of a step makes the host wait for enqueued work, but for `Speculative`, constraints, stop strings
        and rows that may become longer, which say so.
        """
        return cls(canvas.pending.cpu(), None if canvas.held is None else canvas.held.cpu())

    @cached_property
    def head(self) -> Int[Tensor, " b"]:
        """Each row's first pending column; t where there is none."""
        some, head = self.pending.max(1)  # of equal values the first
        return torch.where(some, head, self.pending.shape[1])

    def unless_held(self, old: Int[Tensor, " b"], new: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """Choose where each row goes: to `new`, but rows that are held stay at `old`."""
        return new if self.held is None else torch.where(self.held, old, new)


class Window(NamedTuple):
    """The columns that one step works on, row by row; a row that is closed, or idle in this step, has none.

    Attributes:
        columns: Column of each slot. Slots that are not valid hold t, one past the canvas.
        valid: Slots that are columns of the row.
        pending: Valid slots that are still to be decided.
        slots: Slots that get logits, as flat indices into (b k): the pending ones, and with a policy that judges
            decided slots also those that hold an answer.
        start: First column of the row's range (host); equal to `end` where the row has nothing to do.
        end: One past the last column of the range (host).
        block_start: First column of the block that has to be finished before the next one is opened (host).
        block_end: One past its last column (host). In a commit both are the boundary up to which the row is run.
        entered: Whether this is the first window of its block (host).
        first: Whether the window's first column is pending, so that a token-shifted model needs the column left of it
            (host).
        commit: Whether a finished block is run once more to be stored; at most the next column is decided (host).
        forced: Whether something is decided here even if the policy's pace would rest (host).
        step: Steps taken since the window's range was opened; 0 in the first.
        closed: Rows that have nothing left to do, now or later (host).
        steps: Steps that the scheduler plans for a range, for policies with a pace.
        answer: Valid slots that the caller did not give. None unless a policy judges decided slots too.
        groups: Slots of one group, 0 to k - 1, advance together: every group commits at least one slot a step. -1 where
            nothing is forced. None where the row is one group.
        shadow: Whether decided slots are also predicted from everything but themselves.
        undecided: Pending columns of the canvas when the window was opened (host). None if the scheduler does not say.
        host_slots: Copy of `slots` on the host. None likewise.
        unchanged: Whether every row stays in the range of the step before, with the same `start`, `end`, `block_start`,
            `block_end` and `closed`, on rows with the same facts. A cache need not find out anew then what to run.
        probes: Probes that the model fills in this step's forward.
    """

    columns: Int[Tensor, "b k"]
    valid: Bool[Tensor, "b k"]
    pending: Bool[Tensor, "b k"]
    slots: Int[Tensor, " n"]
    start: Int[Tensor, " b"]
    end: Int[Tensor, " b"]
    block_start: Int[Tensor, " b"]
    block_end: Int[Tensor, " b"]
    entered: Bool[Tensor, " b"]
    first: Bool[Tensor, " b"]
    commit: Bool[Tensor, " b"]
    forced: Bool[Tensor, " b"]
    step: Int[Tensor, " b"]
    closed: Bool[Tensor, " b"]
    steps: int | None = None
    answer: Bool[Tensor, "b k"] | None = None
    groups: Int[Tensor, "b k"] | None = None
    shadow: bool = False
    undecided: Bool[Tensor, "b t"] | None = None
    host_slots: Int[Tensor, " n"] | None = None
    unchanged: bool = False
    probes: tuple[Probe, ...] = ()

    def take(self, plane: Shaped[Tensor, "b t"]) -> Shaped[Tensor, "b k"]:
        """Gather the window's part of a plane; slots that are not valid repeat the last column."""
        return plane.gather(1, self.columns.clamp(max=plane.shape[1] - 1))

    def put(
        self, plane: Shaped[Tensor, "b t"], values: Shaped[Tensor, "b k"] | float, where: Bool[Tensor, "b k"]
    ) -> Shaped[Tensor, "b t"]:
        """Copy a plane with values, one or one a slot, written at the slots `where`."""
        t = plane.shape[1]
        there = self.scatter_to_columns(where, t)
        if isinstance(values, Tensor):
            return torch.where(there, self.scatter_to_columns(values.to(plane.dtype), t), plane)
        return plane.masked_fill(there, values)

    def scatter_to_columns(self, values: Shaped[Tensor, "b k"], t: int) -> Shaped[Tensor, "b t"]:
        """Lay values of slots out at their columns; zeros elsewhere."""
        # slots that are not valid all write into one spare column, which is cut off
        return values.new_zeros(values.shape[0], t + 1).scatter_(1, self.columns, values).narrow(1, 0, t)


def mask_scores(score: Float[Tensor, "b k"], pending: Bool[Tensor, "b k"]) -> Float[Tensor, "b k"]:
    """Put minus infinity where a slot is not pending, and only there.

    Scores of pending slots become finite; NaN becomes the least finite number.
    """
    limit = torch.finfo(score.dtype).max
    return torch.where(pending, score.nan_to_num(-limit, limit, -limit), -torch.inf)


@dataclass(frozen=True, eq=False)
class Guess:
    """The model's prediction for a window.

    Slots that got no logits hold zeros. Two planes may be one tensor (greedily `tokens` and `mode`): write into none.

    Attributes:
        tokens: Candidate: the arg-max, or a sample; never the mask id.
        confidence: Probability of the candidate.
        mode: The arg-max, whatever was sampled.
        p1: Largest probability of the model's marginal.
        p2: Second largest probability.
        signals: Signals and probes that the policy needs; read them as `guess[signal]`.
    """

    tokens: Int[Tensor, "b k"]
    confidence: Float[Tensor, "b k"]
    mode: Int[Tensor, "b k"]
    p1: Float[Tensor, "b k"]
    p2: Float[Tensor, "b k"]
    signals: Mapping[Signal | Probe, Tensor] = field(default_factory=dict)

    def __getitem__(self, signal: Signal | Probe) -> Shaped[Tensor, "b k ..."]:
        """Read a signal that the policy's `needs` name."""
        if signal not in self.signals:
            raise KeyError(f"{signal} was not asked for: name it in the policy's needs")
        return self.signals[signal]


class Verdict(NamedTuple):
    """A policy's decision about a window.

    Attributes:
        accept: Commit the candidate here.
        score: Order of preference: where a row accepts nothing, the loop commits its highest score.
        rest: Rows whose pace has a quota of zero in this step, so that nothing is forced.
        revoke: Make these slots pending again, after what is accepted has been committed. Only a policy that `edits`
            may revoke, or accept the candidate in place of a decided token.
        hold: Rows that are not done with the range even if nothing is pending in it. Only for a policy that `edits`.
        tokens: Tokens to commit instead of the candidates, where a policy `chooses_tokens` (beams, votes, drafts). The
            mask id stands for the candidate. Certificates then count only what the marginals vouch for.
    """

    accept: Bool[Tensor, "b k"]
    score: Float[Tensor, "b k"]
    rest: Bool[Tensor, " b"] | None = None
    revoke: Bool[Tensor, "b k"] | None = None
    hold: Bool[Tensor, " b"] | None = None
    tokens: Int[Tensor, "b k"] | None = None


class Seen(NamedTuple):
    """The output of one forward, seen from the window.

    Attributes:
        hidden: State from which the head predicts each slot of the window.
        queries: Columns run for each row in this forward, 0 where the row was not run (host).
        fresh: Whether everything that the row's predictions depend on was computed from the canvas as it is now (host).
        shadow: States that see everything but the slot itself, if the window asks for them.
        probes: Probes that the window asks for, (b, k, …) each.
    """

    hidden: Float[Tensor, "b k d"]
    queries: Int[Tensor, " b"]
    fresh: Bool[Tensor, " b"]
    shadow: Float[Tensor, "b k d"] | None = None
    probes: Mapping[Probe, Tensor] = {}


class Ledger(NamedTuple):
    """When and how each column was decided, in one plane, so that a step writes it once.

    Attributes:
        book: 4 when + parallel + certified.
    """

    book: Int[Tensor, "b t"]

    @property
    def when(self) -> Int[Tensor, "b t"]:
        """The row's forward (counted from 1) that last decided the column; 0 while undecided."""
        return self.book >> 2

    @property
    def parallel(self) -> Bool[Tensor, "b t"]:
        """True where the column was decided together with another one of its row."""
        return (self.book & 3) > 0

    @property
    def certified(self) -> Bool[Tensor, "b t"]:
        """True where it was so decided and is provably equal to greedy joint decoding (`theory.is_certified`)."""
        return (self.book & 3) > 1


class Step(NamedTuple):
    """One denoising step, as every consumer of the stream sees it.

    Attributes:
        number: 0 for the first step.
        canvas: The canvas after the step.
        window: Where the step worked.
        guess: What the model predicted.
        commit: Slots that were written: pending ones, and decided ones whose token was replaced.
        queries: Columns run for each row (host).
        fresh: Rows whose predictions rest on nothing stale (host).
        nfe: Forwards of each row so far (host).
        ledger: Decisions so far.
        place: Number of the request that each row holds (host). A row that is finished takes the next one.
        revoke: Slots that were made pending again. None if the policy does not edit.
        moved: For every column of the canvas the one that it was in the window's time, -1 where it is new (host). None
            where no column moved.
        tokens: Tokens that were written at the slots of `commit`: the candidates, unless the policy chooses tokens.
    """

    number: int
    canvas: Canvas
    window: Window
    guess: Guess
    commit: Bool[Tensor, "b k"]
    queries: Int[Tensor, " b"]
    fresh: Bool[Tensor, " b"]
    nfe: Int[Tensor, " b"]
    ledger: Ledger
    place: Int[Tensor, " b"]
    revoke: Bool[Tensor, "b k"] | None = None
    moved: Int[Tensor, "b t"] | None = None
    tokens: Int[Tensor, "b k"] | None = None


class HostSlots(NamedTuple):
    """Row, column and state of n slots, on the host."""

    row: Int[Tensor, " n"]
    column: Int[Tensor, " n"]
    pending: Bool[Tensor, " n"]


@dataclass(frozen=True, eq=False)
class Where:
    """The place of n slots: some of a window's. Their properties are looked up when they are asked for.

    Attributes:
        canvas: The canvas before the step.
        window: The window.
        draws: Number of windows of each row so far.
        slots: The slots, as flat indices into the window's (b k).
        mask_id: The mask token, which is no candidate.
        host_slots: Copy of `slots` on the host, if the window has one, so that `on_host` costs no wait.
    """

    canvas: Canvas
    window: Window
    draws: Int[Tensor, " b"]
    slots: Int[Tensor, " n"]
    mask_id: int | None = None
    host_slots: Int[Tensor, " n"] | None = None

    @cached_property
    def row(self) -> Int[Tensor, " n"]:
        """Row of the batch."""
        return torch.div(self.slots, self.window.columns.shape[1], rounding_mode="floor")

    @cached_property
    def column(self) -> Int[Tensor, " n"]:
        """Column of the canvas."""
        return self.window.columns.flatten()[self.slots]

    @cached_property
    def pending(self) -> Bool[Tensor, " n"]:
        """True where the slot is still to be decided."""
        return self.window.pending.flatten()[self.slots]

    @cached_property
    def token(self) -> Int[Tensor, " n"]:
        """Token that the canvas holds there."""
        return self.window.take(self.canvas.tokens).flatten()[self.slots]

    @cached_property
    def seed(self) -> Int[Tensor, " n"]:
        """Seed of the row."""
        return self._of_row(self.canvas.rows.seed)

    @cached_property
    def draw(self) -> Int[Tensor, " n"]:
        """Number of windows of the row so far."""
        return self._of_row(self.draws)

    @cached_property
    def greedy(self) -> Bool[Tensor, " n"]:
        """True where the slot must be decided greedily."""
        return self._of_row(self.window.commit)

    def _of_row(self, values: Shaped[Tensor, " b"]) -> Shaped[Tensor, " n"]:
        return to_device(values, self.slots.device)[self.row]

    def slice(self, span: slice) -> Where:
        """Take the slots of a span."""
        host = None if self.host_slots is None else self.host_slots[span]
        return Where(self.canvas, self.window, self.draws, self.slots[span], self.mask_id, host)

    @cached_property
    def on_host(self) -> HostSlots:
        """Row, column and state on the host. Waits for the device if the window has no copy of its slots there."""
        window = self.window
        if self.host_slots is None or window.undecided is None:
            return HostSlots(self.row.cpu(), self.column.cpu(), self.pending.cpu())
        k = window.columns.shape[1]
        row = torch.div(self.host_slots, k, rounding_mode="floor")
        column = window.start[row] + self.host_slots % k
        return HostSlots(row, column, window.undecided[row, column])


def move_columns(
    plane: Shaped[Tensor, "b t"], moved: Int[Tensor, "b t"], blank: float | bool = 0
) -> Shaped[Tensor, "b t"]:
    """Copy a plane whose columns come from `moved` (host); `blank` where a column is new."""
    moved = to_device(moved, plane.device)
    return torch.where(moved >= 0, plane.gather(1, moved.clamp(min=0)), blank)
