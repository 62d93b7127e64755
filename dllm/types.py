"""The nouns and the protocols that every part speaks, and the legend of the axes.

One letter per axis: `b` batch, `t` canvas, `k` window, `q` query, `v` vocabulary, `l` layers, `h` heads, `d` width.
Tensors marked *host* live on the CPU, so that decisions about shapes never wait for the accelerator; all others live
on the model's device.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Flag, auto
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from dllm.errors import ConfigError
from dllm.transfer import to_device

State = Any
"""What a part remembers between steps: any value, carried by the loop and read only by the part that made it."""

LEAST = -1e6
"""Logit of what is ruled out, unless all else is too."""


class Rows(NamedTuple):
    """What is fixed about the rows of a batch (host); only a scheduler that changes lengths replaces it.

    prompt  (b,) int64   columns before the first that is to be written
    limit   (b,) int64   first column past the requested output
    length  (b,) int64   columns that exist: the limit, or the end of its attention block; columns beyond are padding
    seed    (b,) int64   seed of the row's own random numbers
    given   (b, t) bool  columns that the caller gave: the prompt, and with infilling also columns behind it; never
                         written
    text    (b,) int64   first column behind all that was given (`text_start`)
    stops   (b, s) int64 ids that end the row, padded with -1; None: those of the model
    """

    prompt: Tensor
    limit: Tensor
    length: Tensor
    seed: Tensor
    given: Tensor
    text: Tensor
    stops: Tensor | None = None


def text_start(given: Tensor) -> Tensor:
    """First column (b,) behind all the columns given (b, t): the end of the prompt."""
    return (given * torch.arange(1, given.shape[1] + 1)).amax(1)


class Canvas(NamedTuple):
    """The text being written.

    tokens   (b, t) int64  what is on the canvas now; the mask id (or anything else) where a column is pending
    pending  (b, t) bool   True where a token is still to be decided; never inferred from the tokens
    rows     the fixed facts of each row
    held     (b,) bool or None  rows whose policy is not done with its range though nothing may be pending there; None
             where no policy asks for it
    """

    tokens: Tensor
    pending: Tensor
    rows: Rows
    held: Tensor | None = None


class Window(NamedTuple):
    """The columns that one step works on, row by row; a row that is closed, or idle in this step, has none.

    columns      (b, k) int64  column of each slot; slots that are not valid hold t, one past the canvas
    valid        (b, k) bool   slots that are columns of the row
    pending      (b, k) bool   valid slots that are still to be decided
    slots        (n,) int64    the slots that get logits, as flat indices into (b k): the pending ones, and those that
                               hold an answer if a policy judges these too
    start, end   (b,) int64    host; the row's range of columns, empty where the row has nothing to do
    block_start  (b,) int64    host; the block that has to be finished before the next one is opened;
    block_end    (b,) int64    host; in a commit both are the boundary up to which the row is run
    entered      (b,) bool     host; this is the first window of its block
    first        (b,) bool     host; the window's first column is pending (so a token-shifted model needs its left one)
    commit       (b,) bool     host; a finished block is run once more to be stored; at most the next column is decided
    forced       (b,) bool     host; something is decided here even if the policy's pace would rest
    step         (b,) int64    steps taken since the window's range was opened (0 on the first)
    closed       (b,) bool     host; rows that have nothing left to do, now or later
    steps        int or None   steps the scheduler plans for a range, for policies with a pace
    answer       (b, k) bool   valid slots that the caller did not give; None unless a policy judges decided slots too
    groups       (b, k) int64  slots of one group, 0 to k-1, go forward together: each group commits at least one slot a
                               step; -1: nothing is forced here. None: the row is one group
    shadow       bool          decided slots are also predicted from everything but themselves (`Signal.SHADOW`)
    undecided    (b, t) bool   host; what was pending on the canvas when the window was opened; None if the scheduler
                               does not say
    host_slots   (n,) int64    host; the same as `slots`, for those who work on the host; None likewise
    """

    columns: Tensor
    valid: Tensor
    pending: Tensor
    slots: Tensor
    start: Tensor
    end: Tensor
    block_start: Tensor
    block_end: Tensor
    entered: Tensor
    first: Tensor
    commit: Tensor
    forced: Tensor
    step: Tensor
    closed: Tensor
    steps: int | None = None
    answer: Tensor | None = None
    groups: Tensor | None = None
    shadow: bool = False
    undecided: Tensor | None = None
    host_slots: Tensor | None = None

    def take(self, plane: Tensor) -> Tensor:
        """The window's part (b, k) of a plane (b, t); slots that are not valid repeat the last column."""
        return plane.gather(1, self.columns.clamp(max=plane.shape[1] - 1))

    def put(self, plane: Tensor, values: Tensor | float, where: Tensor) -> Tensor:
        """A copy of `plane` (b, t) with `values`, one or (b, k), written at the slots `where` (b, k)."""
        t = plane.shape[1]
        there = self.spread(where, t)
        if isinstance(values, Tensor):
            return torch.where(there, self.spread(values.to(plane.dtype), t), plane)
        return plane.masked_fill(there, values)

    def spread(self, values: Tensor, t: int) -> Tensor:
        """Values (b, k) of the slots at their columns (b, t); zeros elsewhere."""
        return values.new_zeros(values.shape[0], t + 1).scatter_(1, self.columns, values).narrow(1, 0, t)


def among(score: Tensor, pending: Tensor) -> Tensor:
    """The score (b, k) with minus infinity where a slot is not pending, and only there; elsewhere it is finite, least
    where it was not a number."""
    limit = torch.finfo(score.dtype).max
    return torch.where(pending, score.nan_to_num(-limit, limit, -limit), -torch.inf)


class Signal(Flag):
    """What a policy may ask of the logits beyond the candidate, its confidence and the two largest probabilities."""

    NONE = 0
    ENTROPY = auto()
    """`Guess.entropy`: entropy of each marginal in nats."""
    PROBABILITIES = auto()
    """`Guess.probabilities`: the whole marginal (b, k, v)."""
    NOISE = auto()
    """`Guess.noise`: one uniform number per slot, from the row's own seed."""
    CURRENT = auto()
    """The guess covers decided slots of the answer too, and `Guess.current` is the probability of the token there."""
    SHADOW = auto()
    """`Guess.shadow`: the probability of a decided slot's token, predicted without looking at that slot."""


JUDGES = Signal.CURRENT | Signal.SHADOW
"""What a policy asks for that judges decided slots too."""


class Guess(NamedTuple):
    """What the model thinks of a window. Slots that are not pending hold zeros, unless `Signal.CURRENT` is asked for.
    Two planes may be one tensor (greedily `tokens` and `mode`), so write into none.

    tokens         (b, k) int64    candidate: the arg-max, or a sample; never the mask id
    confidence     (b, k) float32  probability of the candidate
    mode           (b, k) int64    the arg-max, whatever was sampled
    p1, p2         (b, k) float32  largest and second largest probability of the model's marginal
    entropy        (b, k) float32  nats, if asked for
    probabilities  (b, k, v)       if asked for
    noise          (b, k) float32  uniform in [0, 1), if asked for
    current        (b, k) float32  probability of the token that a decided slot holds; 0 elsewhere; if asked for
    shadow         (b, k) float32  likewise, predicted from everything but the slot itself; if asked for
    """

    tokens: Tensor
    confidence: Tensor
    mode: Tensor
    p1: Tensor
    p2: Tensor
    entropy: Tensor | None = None
    probabilities: Tensor | None = None
    noise: Tensor | None = None
    current: Tensor | None = None
    shadow: Tensor | None = None


class Verdict(NamedTuple):
    """What a policy decides about a window.

    accept  (b, k) bool     commit the candidate here
    score   (b, k) float32  order of preference; where a row accepts nothing the loop commits its highest score
    rest    (b,) bool       rows whose pace declares a quota of zero for this step, so that nothing is forced

    A policy that says `edits` may also accept the candidate in place of a decided token, and

    revoke  (b, k) bool     make these pending again, after what is accepted has been committed
    hold    (b,) bool       rows that are not done with the range, even if nothing is pending in it
    """

    accept: Tensor
    score: Tensor
    rest: Tensor | None = None
    revoke: Tensor | None = None
    hold: Tensor | None = None


class Seen(NamedTuple):
    """What one forward showed.

    hidden   (b, k, d)   the state from which the head predicts each slot of the window
    queries  (b,) int64  host; columns run for each row in this forward, 0 where the row was not run
    fresh    (b,) bool   host; everything the row's predictions depend on was computed from the canvas as it is now
    shadow   (b, k, d)   likewise from everything but the slot itself, if the window asks for it
    """

    hidden: Tensor
    queries: Tensor
    fresh: Tensor
    shadow: Tensor | None = None


class Ledger(NamedTuple):
    """When and how each column was decided, in one plane, so that a step writes it once.

    book  (b, t) int64  4 when + parallel + certified
    """

    book: Tensor

    @property
    def when(self) -> Tensor:
        """(b, t) int64  the row's forward (counted from 1) that last decided the column; 0 while undecided."""
        return self.book >> 2

    @property
    def parallel(self) -> Tensor:
        """(b, t) bool  decided together with another column of its row."""
        return (self.book & 3) > 0

    @property
    def certified(self) -> Tensor:
        """(b, t) bool  ... and provably equal to greedy joint decoding (`theory.certified`, fresh logits)."""
        return (self.book & 3) > 1


class Step(NamedTuple):
    """One denoising step, as every consumer of the stream sees it.

    number   int          0 for the first step
    canvas   Canvas       after the step
    window   Window       where it worked
    guess    Guess        what the model thought
    commit   (b, k) bool  what was committed: pending slots, and decided ones whose token was replaced
    revoke   (b, k) bool  what was made pending again; None if the policy does not edit
    moved    (b, t) int64 host; for every column of the canvas the one it was in the window's time, -1 where it is new;
                          None where no column moved
    queries  (b,) int64   host; columns run per row
    fresh    (b,) bool    host; rows whose predictions rest on nothing stale
    nfe      (b,) int64   host; forwards of each row so far
    ledger   Ledger       so far
    place    (b,) int64   host; the request that each row holds; a row that is finished takes the next one
    """

    number: int
    canvas: Canvas
    window: Window
    guess: Guess
    commit: Tensor
    queries: Tensor
    fresh: Tensor
    nfe: Tensor
    ledger: Ledger
    place: Tensor
    revoke: Tensor | None = None
    moved: Tensor | None = None


@dataclass(frozen=True)
class Bidirectional:
    """Every column attends to every column of its row (LLaDA, Dream)."""

    aligned: bool = False
    """Whether blocks lie at absolute multiples of their size (True) or begin at the end of the prompt (False)."""

    def extent(self, limit: Tensor) -> Tensor:
        """Columns that must exist for an output up to `limit`: just those."""
        return limit

    def reach(self, columns: Tensor, length: Tensor) -> Tensor:
        """First column (b, q) that a query at `columns` does not see, in rows of `length` (b,)."""
        return length.unsqueeze(1).expand_as(columns)

    def edge(self, column: int, length: int) -> int:
        """Likewise for one column."""
        return length


@dataclass(frozen=True)
class BlockCausal:
    """A column attends to all earlier blocks and to its own block in both directions (Fast-dLLM v2, SDAR, BD3-LM).

    size 1 is plain causal attention.
    """

    size: int = 32
    aligned: bool = True

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"BlockCausal(size={self.size}): size must be at least 1")

    def extent(self, limit: Tensor) -> Tensor:
        """Columns that must exist for an output up to `limit`: whole blocks."""
        return torch.div(limit + self.size - 1, self.size, rounding_mode="floor") * self.size

    def reach(self, columns: Tensor, length: Tensor) -> Tensor:
        """First column (b, q) that a query at `columns` does not see: the end of its block."""
        return self.extent(columns + 1)

    def edge(self, column: int, length: int) -> int:
        """Likewise for one column."""
        return (column // self.size + 1) * self.size


Geometry = Bidirectional | BlockCausal


@runtime_checkable
class Store(Protocol):
    """Keys and values of a batch, written in place; made by a model, kept by a cache."""

    def keep(self, rows: Tensor) -> None:
        """Forget every row that is not listed (host indices)."""


class Part(NamedTuple):
    """Some rows of a store.

    rows  (r,) int64  their places
    of    int         rows that the store holds in all
    """

    rows: Tensor
    of: int


class Query(NamedTuple):
    """Columns to run through the model, and what they may look at.

    tokens   (r, q) int64
    columns  (r, q) int64      absolute columns, which are also the positions
    valid    (r, q) bool       padding slots are computed but neither stored nor read
    width    int               keys [0, width) are looked at
    mask     (r, 1, q', width + extra) bool or None  True where a query sees a key; None where all see all; q' is q or 1
    start    int or None       the first column, if `columns` is start .. start+q in every row without padding
    extra    int               the last `extra` of the q slots are not stored; they are the last keys that are looked at
    given    (r, q) bool       columns that the caller gave
    part     Part or None      which of the store's rows these are; None: all, in order. Only a model that has `apart`
                               is asked about some
    """

    tokens: Tensor
    columns: Tensor
    valid: Tensor
    width: int
    mask: Tensor | None
    start: int | None
    extra: int = 0
    given: Tensor | None = None
    part: Part | None = None


class Model(Protocol):
    """A model family as the loop sees it. Only here is it known how logits and columns are related.

    A model may also have `apart` (int): how many columns cost about as much as one more forward. Where more padding
    than that is saved, rows with much to run go through the model apart from those with little.
    """

    geometry: Geometry
    needs_left: int
    """1 if the output at column i-1 predicts column i (token shift), else 0."""
    mask_id: int | None
    stop_ids: tuple[int, ...]
    max_columns: int
    """Longest canvas that the positions allow."""

    @property
    def device(self) -> torch.device: ...

    def store(self, columns: int) -> Store:
        """An empty store for rows of up to `columns` columns."""
        ...

    def forward(self, query: Query, store: Any | None) -> Tensor:
        """Hidden states (r, q, d); keys and values go into `store` and are read from it, unless it is None."""
        ...

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (n, v) of hidden states (n, d); they are the loop's to overwrite."""
        ...


class Policy(Protocol):
    """Decides *which* positions to commit.

    A policy may also have `paced = True` (it follows a scheduler's `steps`), or `edits = True` with
    `bound(columns) -> steps` (both (b,)): it may replace and revoke what is decided, for at most so many steps of a
    range of so many columns; afterwards the loop honours only what it accepts among the pending slots.
    """

    @property
    def needs(self) -> Signal: ...

    def init(self, canvas: Canvas, /) -> State: ...

    def step(self, guess: Guess, window: Window, state: State, /) -> tuple[Verdict, State]: ...


class Scheduler(Protocol):
    """Decides *where* to work, and how fast.

    Where every row stays in its range, a window may have the very tensors `start`, `end`, `block_start`, `block_end`
    and `closed` of the step before: a cache then need not find out anew what to run. So make new ones where one of them
    changes, and write into none.

    A scheduler may also have
    `refine(guess, window, state) -> (window, state)`, called before the policy: a window whose `pending` and `groups`
    say what the policy may commit of what was just predicted; and
    `arrange(canvas, guess, window, state) -> (canvas, moved, state)`, called before the first step (with no guess and
    no window) and after every step: a canvas whose rows have other lengths. `moved` is None or (b, t) int64 (host), for
    every column the one it was before, -1 where it is new.
    """

    def init(self, canvas: Canvas, model: Model, /) -> State: ...

    def step(self, canvas: Canvas, state: State, /) -> tuple[Window | None, State]:
        """The next window, or None when no row has anything left to decide."""
        ...


class Cache(Protocol):
    """Decides *what to recompute*.

    A cache may also have `observe(guess, window, commit, score, state) -> state`, called when a step has been decided;
    `score` (b, k) is the policy's order of preference.
    """

    def init(self, canvas: Canvas, model: Model, /) -> State: ...

    def step(self, model: Model, canvas: Canvas, window: Window, state: State, /) -> tuple[Seen, State]: ...


class OnHost(NamedTuple):
    """What `Where` knows of n slots, on the host; see there.

    row      (n,) int64
    column   (n,) int64
    pending  (n,) bool
    """

    row: Tensor
    column: Tensor
    pending: Tensor


@dataclass(frozen=True, eq=False)
class Where:
    """Where n slots lie: some of a window's. What is asked of them is looked up when it is asked.

    slots  (n,) int64  flat indices into the window's (b k)
    draws  (b,) int64  each row's number of windows so far
    known  (n,) int64  host; the slots where the window has them on the host, so that asking for `on_host` costs no wait
    """

    canvas: Canvas
    window: Window
    draws: Tensor
    slots: Tensor
    known: Tensor | None = None

    @cached_property
    def row(self) -> Tensor:
        """(n,) int64"""
        return torch.div(self.slots, self.window.columns.shape[1], rounding_mode="floor")

    @cached_property
    def column(self) -> Tensor:
        """(n,) int64"""
        return self.window.columns.flatten()[self.slots]

    @cached_property
    def pending(self) -> Tensor:
        """(n,) bool"""
        return self.window.pending.flatten()[self.slots]

    @cached_property
    def token(self) -> Tensor:
        """(n,) int64  what the canvas holds there"""
        return self.window.take(self.canvas.tokens).flatten()[self.slots]

    @cached_property
    def seed(self) -> Tensor:
        """(n,) int64  the row's seed"""
        return self._of_row(self.canvas.rows.seed)

    @cached_property
    def draw(self) -> Tensor:
        """(n,) int64  the row's number of windows so far"""
        return self._of_row(self.draws)

    @cached_property
    def greedy(self) -> Tensor:
        """(n,) bool  must be decided greedily"""
        return self._of_row(self.window.commit)

    def _of_row(self, values: Tensor) -> Tensor:
        return to_device(values, self.slots.device)[self.row]

    def part(self, span: slice) -> Where:
        """The slots of a span."""
        return Where(
            self.canvas, self.window, self.draws, self.slots[span], None if self.known is None else self.known[span]
        )

    @cached_property
    def on_host(self) -> OnHost:
        """Row, column and pending on the host. It waits for the device if the window has not its slots on the host."""
        window = self.window
        if self.known is None or window.undecided is None:
            return OnHost(self.row.cpu(), self.column.cpu(), self.pending.cpu())
        k = window.columns.shape[1]
        row = torch.div(self.known, k, rounding_mode="floor")
        column = window.start[row] + self.known % k
        return OnHost(row, column, window.undecided[row, column])


@runtime_checkable
class Processor(Protocol):
    """Changes logits before candidates are chosen, and may remember what it saw.

    A processor may also have `settle(canvas, window, guess, commit, score, state) -> commit`: which of the slots that a
    policy commits may be committed together. It must leave at least one of a row's. Such a processor is a constraint:
    `Strategy` refuses parts under which what it promised would not last.
    """

    def init(self, canvas: Canvas, model: Any, /) -> State:
        """What is remembered at first: values by row, (b, …). Raises `RequestError` for rows it cannot serve."""
        ...

    def step(self, logits: Tensor, where: Where, canvas: Canvas, state: State, /) -> tuple[Tensor, State]:
        """Logits (n, v) float32 of the slots `where`, and the state with what they show; a step may come in parts.

        The logits that are returned are overwritten afterwards, so do not keep them.
        """
        ...
