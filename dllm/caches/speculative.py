"""Lossless speculation: run canvases that are likely to come beside the one that is there, and serve what came true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
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
    """The state of `Speculative`.

    Attributes:
        inner: What the inner cache remembers, without its store.
        store: Keys and values, one row for each lane. None if the inner cache keeps none.
        lanes: What can be served.
        current: The lane whose keys and values are the row's own; -1 where a closed row has none (host).
        tokens: The likeliest token of each column in the row's last guess.
        score: How much the policy preferred the column; minus infinity where nothing was guessed.
        pace: Columns that the row's last step decided.
    """

    inner: CacheState
    store: Store | None
    lanes: DraftLanes
    current: Int[Tensor, " b"]
    tokens: Int[Tensor, "b t"]
    score: Float[Tensor, "b t"]
    pace: Int[Tensor, " b"]


@dataclass(frozen=True)
class Speculative(Cache):
    """Foresee the next canvases and run them in the same forward; a step whose canvas was foreseen needs no forward.

    Beside a row's canvas a forward runs up to `drafts - 1` drafts of what it may become: with the most preferred of
    the columns that were last guessed filled in, `tokens` more in each draft than in the one before. When a later
    canvas of the row equals one that was run, the states of that lane are served and its keys and values become the
    row's own; else the row runs again. So every step shows what the inner cache alone would show, whatever the policy,
    the scheduler and the sampling are, up to what the arithmetic of differently shaped batches differs by. It never
    takes more forwards, and it always takes more query tokens: every lane counts.

    A cache that stores keys and values stores those of every lane: up to `drafts` times as much, and for the moment in
    which lanes are copied twice that; in a batch lanes that only wait are computed in vain, as idle rows are. Drafts
    hold the likeliest token even where candidates are sampled, since the next draw is likeliest to hit it. Learning
    which lanes came true is one more wait for the device in a step.

    Attributes:
        cache: What is sped up: any cache that plans what it runs. A lane is served only if in every step from
            its forward on the cache would have run the same columns; so there is little to gain with a cache that
            follows what was just decided (`DelayedCache`), or a scheduler whose window moves at every step.
        drafts: Most lanes of a row in a forward, with that of its canvas; 1 foresees nothing.
        tokens: Columns by which a draft is longer than the one before. None: as many as the row's last step decided,
            which is right where all steps decide equally many. Give 1 where they do not (thresholds).

    References:
        Wu and Zhang 2025, FreeDave (arXiv:2510.00294), in the batch-expanding form of its code.

    Departures:
        Rows of a batch are served each on its own account, where the published code takes one row. With a threshold a
        lane is served only if it equals the canvas, where the published code also goes on from one that holds fewer
        tokens and so is not lossless. No draft reaches past the window; "eager acceptance" of the published code, off
        in its scripts, does.
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
            current=torch.arange(len(canvas.tokens)),
            tokens=torch.zeros_like(canvas.tokens),
            score=torch.full(canvas.tokens.shape, -torch.inf, device=canvas.tokens.device),
            pace=torch.zeros_like(canvas.tokens[:, 0]),
        )

    def renew(
        self,
        state: SpeculativeState,
        fresh: SpeculativeState,
        rows: Bool[Tensor, " b"],
        renew_rows: Callable[..., Any],
        /,
    ) -> SpeculativeState:
        # The lanes have other rows than the batch, so each field is renewed in its own way. The rows keep their places
        # in the store: the first forward of a new request writes over what is there.
        return state._replace(
            inner=self.cache.renew(state.inner, fresh.inner, rows, renew_rows),
            lanes=state.lanes.clear_rows(rows),
            tokens=renew_rows(state.tokens, fresh.tokens, rows),
            score=renew_rows(state.score, fresh.score, rows),
            pace=renew_rows(state.pace, fresh.pace, rows),
        )

    def forget(self, state: SpeculativeState, moved: Int[Tensor, "b t"], /) -> SpeculativeState:
        """Draft nothing in rows where columns have moved.

        Lanes need no care, as a row is served by one only if it holds the same tokens and is as long.
        """
        gone = to_device((moved != torch.arange(moved.shape[1])).any(1, keepdim=True), state.score.device)
        return state._replace(
            inner=self.cache.forget(state.inner, moved), score=state.score.masked_fill(gone, -torch.inf)
        )

    def step(
        self, model: Model, canvas: Canvas, window: Window, state: SpeculativeState, /
    ) -> tuple[Seen, SpeculativeState]:
        plan = self._plan_inner(model, canvas, window, state.inner)
        hit, drafts = self._find_lanes(canvas, window, plan.reach, state)
        missed = (plan.reach.end > plan.reach.start) & (hit < 0)
        state = state._replace(current=torch.where(hit >= 0, hit, state.current))
        queries = torch.zeros_like(window.start)
        if bool(missed.any()):
            drafts = torch.minimum(drafts, self._count_steps_ahead(model, canvas, window, plan))
            count = torch.where(missed, 1 + drafts, 0)
            queries, state = self._run_lanes(model, canvas, window, plan.reach, count, state)
        lanes, current = state.lanes, state.current
        shadow = lanes.serve(lanes.shadow, current, window) if window.shadow else None
        seen = Seen(lanes.serve(lanes.hidden, current, window), queries, plan.fresh, shadow)
        return seen, state._replace(inner=plan.state)

    def _plan_inner(self, model: Model, canvas: Canvas, window: Window, state: CacheState) -> ForwardPlan:
        """Describe what a step of the inner cache would run."""
        assert isinstance(self.cache, PlannedCache)
        return self.cache.plan(model, canvas, window, state)

    def _find_lanes(
        self, canvas: Canvas, window: Window, reach: ColumnRange, state: SpeculativeState
    ) -> tuple[Int[Tensor, " b"], Int[Tensor, " b"]]:
        """Find the lane that shows what is to be run of each row, and how many drafts there could be (host).

        A draft leaves something pending in the window, since beyond it nothing is known.

        Returns:
            Each row's lane, -1 where there is none; and the number of drafts that the last guess is enough for.
        """
        lanes, n = state.lanes, len(state.lanes.row)
        score = self._guessed_scores(window, state)
        counts = torch.stack([(score > -torch.inf).sum(1), window.pending.sum(1) - 1, self._draft_growth(state)])
        # All that the host has to know of the device in this step goes there in one copy, and so in one wait.
        on_host = torch.cat([lanes.holds_tokens_of(canvas).long(), rearrange(counts, "n b -> (n b)")]).cpu()
        known, rest, growth = rearrange(on_host[n:], "(n b) -> n b", n=3).unbind()
        found = on_host[:n].bool() & lanes.fits(canvas, window, covered_columns(reach, canvas.tokens.shape[1]))
        found = found & (reach.end > reach.start)[lanes.row]
        lane = found.nonzero().flatten()
        hit = torch.full_like(state.current, -1).index_copy(0, lanes.row[lane], lane)
        return hit, (torch.minimum(known, rest).clamp(min=0) // growth).clamp(max=self.drafts - 1)

    def _guessed_scores(self, window: Window, state: SpeculativeState) -> Float[Tensor, "b t"]:
        """Read the scores of the window's pending columns in the last guess; minus infinity elsewhere."""
        inside = window.put(torch.zeros_like(state.score, dtype=torch.bool), True, window.pending)
        return state.score.masked_fill(~inside, -torch.inf)

    def _draft_growth(self, state: SpeculativeState) -> Int[Tensor, " b"]:
        """Choose by how many columns a draft is longer than the one before."""
        return state.pace.clamp(min=1) if self.tokens is None else torch.full_like(state.pace, self.tokens)

    def _count_steps_ahead(self, model: Model, canvas: Canvas, window: Window, plan: ForwardPlan) -> Int[Tensor, " b"]:
        """Count the steps after this one in which the inner cache would run the same columns, as far as its plans show.

        A draft that could come true only in a step that runs other columns would be run in vain. So the inner cache is
        called for its plans of the next steps, as if the rows stayed in their windows.
        """
        ran = covered_columns(plan.reach, canvas.tokens.shape[1])
        never, lasting = torch.zeros_like(window.entered), torch.zeros_like(window.start)
        same = ~never
        for _ in range(self.drafts - 1):
            window = window._replace(entered=never, commit=never, step=window.step + 1, unchanged=True)
            plan = self._plan_inner(model, canvas, window, plan.state)
            same = same & (covered_columns(plan.reach, canvas.tokens.shape[1]) == ran).all(1)
            lasting = lasting + same
        return lasting

    def _run_lanes(
        self,
        model: Model,
        canvas: Canvas,
        window: Window,
        reach: ColumnRange,
        count: Int[Tensor, " b"],
        state: SpeculativeState,
    ) -> tuple[Int[Tensor, " b"], SpeculativeState]:
        """Run one forward over `count` lanes of each row: its canvas and then its drafts, the shorter first.

        Returns:
            Columns run for each row (host), and what is known afterwards.
        """
        waits = (count == 0) & ~window.closed
        lane = torch.arange(len(state.lanes.row))
        # Rows that are not run keep their current lane and the longer drafts behind it, which may still come true; the
        # shorter ones before it will not, unless a policy revokes. Rows that are run get new lanes, closed ones none.
        kept = (waits[state.lanes.row] & (lane >= state.current[state.lanes.row])).nonzero().flatten()
        new = torch.arange(len(count)).repeat_interleave(count)
        first = count.cumsum(0) - count
        # The store gets one row for each lane: those kept, and for every new one a copy of its row's current lane.
        # A row that was closed has no lane (-1): it takes over the first one, of which nothing is read.
        source = torch.cat([kept, state.current[new].clamp(min=0)])
        if state.store is not None and not torch.equal(source, lane):
            state.store.keep(source)
        row = torch.cat([state.lanes.row[kept], new])
        depth = (torch.arange(len(row)) - len(kept) - first[row]).clamp(min=0)
        drafted = self._draft_canvas(canvas, window, row, depth, state)
        runs = torch.arange(len(row)) >= len(kept)
        lane_reach = select_bundle_rows(reach, row)
        lane_reach = lane_reach._replace(
            start=torch.where(runs, lane_reach.start, 0), end=torch.where(runs, lane_reach.end, 0)
        )
        lane_state = state.inner._replace(store=state.store, rows=torch.arange(len(row)))
        output, _ = run_forward(model, drafted, select_bundle_rows(window, row), lane_reach, lane_state)
        shown = DraftLanes(
            row=row,
            start=window.start[row],
            end=window.end[row],
            length=canvas.rows.length[row],
            ran=covered_columns(lane_reach, canvas.tokens.shape[1]),
            tokens=drafted.tokens,
            hidden=output.hidden,
            shadow=output.shadow,
        )
        lanes = state.lanes.select(kept).append(shown.select(runs.nonzero().flatten()))
        place = torch.full_like(lane, -1).index_copy(0, kept, torch.arange(len(kept)))
        current = torch.where(count > 0, len(kept) + first, torch.where(waits, place[state.current], -1))
        queries = torch.zeros_like(count).index_add(0, row, output.queries)
        return queries, state._replace(lanes=lanes, current=current)

    def _draft_canvas(
        self,
        canvas: Canvas,
        window: Window,
        row: Int[Tensor, " n"],
        depth: Int[Tensor, " n"],
        state: SpeculativeState,
    ) -> Canvas:
        """Make a canvas with a row for each lane, the best `depth` portions of the last guess filled in.

        Args:
            canvas: The canvas.
            window: The window.
            row: Row of the batch that each lane is of (host).
            depth: Portions to fill in; 0 for the row's own canvas (host).
            state: What is remembered.
        """
        device = canvas.tokens.device
        order = self._guessed_scores(window, state).sort(dim=1, descending=True, stable=True).indices
        rank = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1], device=device).expand_as(order))
        there, depth = to_device(row, device), to_device(depth, device)
        fill = rank[there] < rearrange(depth * self._draft_growth(state)[there], "n -> n 1")
        lanes = select_bundle_rows(canvas, row)
        return lanes._replace(
            tokens=torch.where(fill, state.tokens[there], lanes.tokens), pending=lanes.pending & ~fill
        )

    def observe(
        self,
        guess: Guess,
        window: Window,
        commit: Bool[Tensor, "b k"],
        score: Float[Tensor, "b k"],
        state: SpeculativeState,
        /,
    ) -> SpeculativeState:
        """Remember the guess, from which the next drafts are made; a row that saw nothing new keeps its last one."""
        inner = self.cache.observe(guess, window, commit, score, state.inner)
        new = window.pending.any(1)
        nothing = torch.full_like(state.score, -torch.inf)
        return state._replace(
            inner=inner,
            tokens=window.put(state.tokens, guess.mode, window.pending),
            score=torch.where(rearrange(new, "b -> b 1"), window.put(nothing, score, window.pending), state.score),
            pace=torch.where(new, commit.sum(1), state.pace),
        )
