"""Lossless speculation: run canvases that are likely to come beside the one that is there, and serve what came true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from dllm.caches.base import ForwardPlan, PlannedCache
from dllm.caches.lanes import DraftLanes, select_bundle_rows
from dllm.caches.memory import CacheState, ColumnRange, covered_columns
from dllm.caches.none import NoCache
from dllm.caches.running import run_forward
from dllm.errors import ConfigError
from dllm.transfer import to_device
from dllm.types import Cache, Canvas, Guess, Model, Seen, Store, Window


class SpeculativeState(NamedTuple):
    """What `Speculative` remembers.

    inner   what the inner cache remembers, without its store
    store   keys and values, one row for each lane; None if the inner cache keeps none
    lanes   what can be served
    at      (b,) int64      host; the lane whose keys and values are the row's own; -1 where a closed row has none
    tokens  (b, t) int64    the likeliest token of each column in the row's last guess
    score   (b, t) float32  how much the policy preferred the column; minus infinity where nothing was guessed
    pace    (b,) int64      columns that the row's last step decided
    """

    inner: CacheState
    store: Store | None
    lanes: DraftLanes
    at: Tensor
    tokens: Tensor
    score: Tensor
    pace: Tensor


@dataclass(frozen=True)
class Speculative(Cache):
    """Foresee the next canvases and run them in the same forward; a step whose canvas was foreseen needs no forward.

    Beside a row's canvas a forward runs up to `drafts - 1` drafts of what it may become: with the most preferred of
    the columns that were last guessed filled in, `tokens` more in each draft than in the one before. When a later
    canvas of the row equals one that was run, the states of that lane are served and its keys and values become the
    row's own; else the row runs again. So every step shows what the inner cache alone would show, whatever the policy,
    the scheduler and the sampling are, up to what the arithmetic of differently shaped batches differs by. It never
    takes more forwards, and it always takes more query tokens: every lane counts.

    cache   what is sped up: any cache that says beforehand what it runs. A lane is served only if in every step from
            its forward on the cache would have run the same columns; so there is little to gain with a cache that
            follows what was just decided (`DelayedCache`), or a scheduler whose window moves at every step
    drafts  most lanes of a row in a forward, with that of its canvas; 1 foresees nothing
    tokens  columns by which a draft is longer than the one before; None: as many as the row's last step decided, which
            is right where all steps decide equally many. Give 1 where they do not (thresholds)

    A cache that stores keys and values stores those of every lane: up to `drafts` times as much, and for the moment in
    which lanes are copied twice that; in a batch lanes that only wait are computed in vain, as idle rows are. Drafts
    hold the likeliest token even where candidates are sampled, since the next draw is likeliest to hit it. Learning
    which lanes came true is one more wait for the device in a step.

    Reference: Wu and Zhang 2025, FreeDave (arXiv:2510.00294), in the batch-expanding form of its code. Departs from it:
    rows of a batch are served each on its own account, where the published code takes one row; with a threshold a
    lane is served only if it equals the canvas, where the published code also goes on from one that holds fewer tokens
    and so is not lossless; and no draft reaches past the window (its "eager acceptance", off in its scripts, does).
    """

    cache: Cache = NoCache()
    drafts: int = 4
    tokens: int | None = None

    fills_probes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.cache, PlannedCache):
            raise ConfigError(
                f"Speculative(cache={self.cache}): its steps cannot be foreseen, as they do more than run the "
                "columns that it planned; wrap one that does not, such as NoCache, PrefixCache or DualCache"
            )
        if self.drafts < 1:
            raise ConfigError(f"Speculative(drafts={self.drafts}): drafts must be 1 (the canvas alone) or more")
        if self.tokens is not None and self.tokens < 1:
            raise ConfigError(f"Speculative(tokens={self.tokens}): tokens must be 1 or more, or None")

    def init(self, canvas: Canvas, model: Model, /) -> SpeculativeState:
        inner: CacheState = self.cache.init(canvas, model)
        return SpeculativeState(
            inner=inner._replace(store=None),
            store=inner.store,
            lanes=DraftLanes.blank(canvas),
            at=torch.arange(len(canvas.tokens)),
            tokens=torch.zeros_like(canvas.tokens),
            score=torch.full(canvas.tokens.shape, -torch.inf, device=canvas.tokens.device),
            pace=torch.zeros_like(canvas.tokens[:, 0]),
        )

    def renew(
        self, memory: SpeculativeState, fresh: SpeculativeState, rows: Tensor, renew: Callable[..., Any], /
    ) -> SpeculativeState:
        """What is remembered, with some rows (b,) as before their first step; they keep their place in the store."""
        blank = {name: renew(getattr(memory, name), getattr(fresh, name), rows) for name in ("tokens", "score", "pace")}
        inner = self.cache.renew(memory.inner, fresh.inner, rows, renew)
        return memory._replace(inner=inner, lanes=memory.lanes.without(rows), **blank)

    def forget(self, memory: SpeculativeState, moved: Tensor, /) -> SpeculativeState:
        """Draft nothing in rows where columns have moved.

        Lanes need no care, as a row is served by one only if it holds the same tokens and is as long.
        """
        gone = to_device((moved != torch.arange(moved.shape[1])).any(1, keepdim=True), memory.score.device)
        return memory._replace(
            inner=self.cache.forget(memory.inner, moved), score=memory.score.masked_fill(gone, -torch.inf)
        )

    def step(
        self, model: Model, canvas: Canvas, window: Window, memory: SpeculativeState, /
    ) -> tuple[Seen, SpeculativeState]:
        course = self._plan_inner(model, canvas, window, memory.inner)
        hit, drafts = self._find_lanes(canvas, window, course.reach, memory)
        missed = (course.reach.end > course.reach.start) & (hit < 0)
        memory = memory._replace(at=torch.where(hit >= 0, hit, memory.at))
        queries = torch.zeros_like(window.start)
        if bool(missed.any()):
            drafts = torch.minimum(drafts, self._count_steps_ahead(model, canvas, window, course))
            queries, memory = self._run_lanes(
                model, canvas, window, course.reach, torch.where(missed, 1 + drafts, 0), memory
            )
        lanes, at = memory.lanes, memory.at
        shadow = lanes.serve(lanes.shadow, at, window) if window.shadow else None
        seen = Seen(lanes.serve(lanes.hidden, at, window), queries, course.fresh, shadow)
        return seen, memory._replace(inner=course.memory)

    def _plan_inner(self, model: Model, canvas: Canvas, window: Window, memory: CacheState) -> ForwardPlan:
        assert isinstance(self.cache, PlannedCache)
        return self.cache.plan(model, canvas, window, memory)

    def _find_lanes(
        self, canvas: Canvas, window: Window, reach: ColumnRange, memory: SpeculativeState
    ) -> tuple[Tensor, Tensor]:
        """Each row's lane (b,) that shows what is to be run, -1 if none; and how many drafts (b,) there could be.

        A draft leaves something pending in the window, since beyond it nothing is known.
        """
        lanes, n = memory.lanes, len(memory.lanes.row)
        score = self._guessed_scores(window, memory)
        counts = torch.stack([(score > -torch.inf).sum(1), window.pending.sum(1) - 1, self._draft_growth(memory)])
        told = torch.cat([lanes.same(canvas).long(), rearrange(counts, "n b -> (n b)")]).cpu()
        known, rest, growth = rearrange(told[n:], "(n b) -> n b", n=3).unbind()
        found = told[:n].bool() & lanes.fits(canvas, window, covered_columns(reach, canvas.tokens.shape[1]))
        found = found & (reach.end > reach.start)[lanes.row]
        lane = found.nonzero().flatten()
        hit = torch.full_like(memory.at, -1).index_copy(0, lanes.row[lane], lane)
        return hit, (torch.minimum(known, rest).clamp(min=0) // growth).clamp(max=self.drafts - 1)

    def _guessed_scores(self, window: Window, memory: SpeculativeState) -> Tensor:
        """Scores (b, t) of the window's pending columns in the last guess; minus infinity elsewhere."""
        inside = window.put(torch.zeros_like(memory.score, dtype=torch.bool), True, window.pending)
        return memory.score.masked_fill(~inside, -torch.inf)

    def _draft_growth(self, memory: SpeculativeState) -> Tensor:
        """Columns (b,) by which a draft is longer than the one before."""
        return memory.pace.clamp(min=1) if self.tokens is None else torch.full_like(memory.pace, self.tokens)

    def _count_steps_ahead(self, model: Model, canvas: Canvas, window: Window, course: ForwardPlan) -> Tensor:
        """For how many steps (b,) after this one the inner cache would run the same columns, as far as can be told."""
        ran = covered_columns(course.reach, canvas.tokens.shape[1])
        never, lasting = torch.zeros_like(window.entered), torch.zeros_like(window.start)
        same = ~never
        for _ in range(self.drafts - 1):
            window = window._replace(entered=never, commit=never, step=window.step + 1, unchanged=True)
            course = self._plan_inner(model, canvas, window, course.memory)
            same = same & (covered_columns(course.reach, canvas.tokens.shape[1]) == ran).all(1)
            lasting = lasting + same
        return lasting

    def _run_lanes(
        self, model: Model, canvas: Canvas, window: Window, reach: ColumnRange, count: Tensor, memory: SpeculativeState
    ) -> tuple[Tensor, SpeculativeState]:
        """Columns run (b,) and what is known after one forward over `count` (b,) lanes of each row.

        Rows that are not run keep the lanes that may still come true; those that are closed keep none.
        """
        waits = (count == 0) & ~window.closed
        lane = torch.arange(len(memory.lanes.row))
        kept = (waits[memory.lanes.row] & (lane >= memory.at[memory.lanes.row])).nonzero().flatten()
        new = torch.arange(len(count)).repeat_interleave(count)
        first = count.cumsum(0) - count
        # A row that was closed has no lane (-1): whatever lane it takes over, nothing of it is read.
        source = torch.cat([kept, memory.at[new].clamp(min=0)])
        if memory.store is not None and not torch.equal(source, lane):
            memory.store.keep(source)
        row = torch.cat([memory.lanes.row[kept], new])
        drafted = self._draft_canvas(
            canvas, window, row, (torch.arange(len(row)) - len(kept) - first[row]).clamp(min=0), memory
        )
        runs = torch.arange(len(row)) >= len(kept)
        aimed = select_bundle_rows(reach, row)
        aimed = aimed._replace(start=torch.where(runs, aimed.start, 0), end=torch.where(runs, aimed.end, 0))
        among = memory.inner._replace(store=memory.store, rows=torch.arange(len(row)))
        ran, _ = run_forward(model, drafted, select_bundle_rows(window, row), aimed, among)
        shown = DraftLanes(
            row=row,
            start=window.start[row],
            end=window.end[row],
            length=canvas.rows.length[row],
            ran=covered_columns(aimed, canvas.tokens.shape[1]),
            tokens=drafted.tokens,
            hidden=ran.hidden,
            shadow=ran.shadow,
        )
        lanes = memory.lanes.of(kept).then(shown.of(runs.nonzero().flatten()))
        place = torch.full_like(lane, -1).index_copy(0, kept, torch.arange(len(kept)))
        at = torch.where(count > 0, len(kept) + first, torch.where(waits, place[memory.at], -1))
        return torch.zeros_like(count).index_add(0, row, ran.queries), memory._replace(lanes=lanes, at=at)

    def _draft_canvas(
        self, canvas: Canvas, window: Window, row: Tensor, depth: Tensor, memory: SpeculativeState
    ) -> Canvas:
        """The canvas with a row for each lane, the best `depth` (n,) portions of the last guess filled in."""
        device = canvas.tokens.device
        order = self._guessed_scores(window, memory).sort(dim=1, descending=True, stable=True).indices
        rank = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1], device=device).expand_as(order))
        there, depth = to_device(row, device), to_device(depth, device)
        fill = rank[there] < rearrange(depth * self._draft_growth(memory)[there], "n -> n 1")
        lanes = select_bundle_rows(canvas, row)
        return lanes._replace(
            tokens=torch.where(fill, memory.tokens[there], lanes.tokens), pending=lanes.pending & ~fill
        )

    def observe(
        self, guess: Guess, window: Window, commit: Tensor, score: Tensor, memory: SpeculativeState, /
    ) -> SpeculativeState:
        """Remember the guess, from which the next drafts are made; a row that saw nothing new keeps its last one."""
        inner = self.cache.observe(guess, window, commit, score, memory.inner)
        new = window.pending.any(1)
        nothing = torch.full_like(memory.score, -torch.inf)
        return memory._replace(
            inner=inner,
            tokens=window.put(memory.tokens, guess.mode, window.pending),
            score=torch.where(rearrange(new, "b -> b 1"), window.put(nothing, score, window.pending), memory.score),
            pace=torch.where(new, commit.sum(1), memory.pace),
        )
