"""The rows of a batch, and the requests that wait for one of them to be finished."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from einops import rearrange
from jaxtyping import Bool, Int
from torch import Tensor

from dllm.engine.commit import StepChange, open_decided_slots, write_canvas
from dllm.engine.propose import Proposer
from dllm.engine.queue import ListQueue, RequestQueue
from dllm.engine.record import blank_ledger, record_commits
from dllm.engine.state import DecodingState, PartStates, drop_transients, forget_moved_columns, renew_rows
from dllm.engine.stop import Stopper, resolve_stop_ids
from dllm.errors import NumericsError, RequestError
from dllm.requests import Layout, Request, assign_seeds, count_canvas_columns, make_canvas
from dllm.signals import Shadow
from dllm.strategy import Strategy
from dllm.transfer import to_device
from dllm.types import Canvas, Guess, HostView, Ledger, Model, Probe, Seen, Step, Window, move_columns


@dataclass
class Batch:
    """The rows of a batch and the queue in front of it.

    Attributes:
        model: The model, with attention blocks of the scheduler's size.
        queue: Requests that have no row yet.
        strategy: How to decode.
        proposer: Makes guesses of hidden states.
        requests: The request of each row: the one it holds or, where that is finished, held last.
        place: Number of that request; -1 where a row was never taken (host).
        max_stop_ids: End tokens that a row has room for.
        layout: The rows before their first step.
        stopper: Closes rows that are finished.
        covers_decided: Whether the policy judges decided slots too.
        probes: Probes that the policy needs.
        confidence: The last step's confidences and their sum, of which the next step asks whether they are numbers.
        last_step: Number of the last step.
    """

    model: Model
    queue: RequestQueue
    strategy: Strategy
    proposer: Proposer
    requests: list[Request]
    place: Int[Tensor, " b"]
    max_stop_ids: int
    layout: Layout
    stopper: Stopper = field(init=False)
    covers_decided: bool = False
    probes: tuple[Probe, ...] = ()
    confidence: tuple[Tensor, Tensor] | None = None
    last_step: int = -1

    @classmethod
    def open(
        cls,
        model: Model,
        requests: Sequence[Request] | RequestQueue,
        strategy: Strategy,
        seed: int,
        batch_size: int | None,
    ) -> Batch:
        """Lay out the first requests; no rows where nobody waits. With a queue all `batch_size` rows exist at once.

        Raises:
            RequestError: A request does not fit the model, or a processor cannot serve it.
        """
        model = match_block_size(model, strategy)
        if not isinstance(requests, RequestQueue):
            requests = assign_seeds(requests, seed)
            for request in requests:
                request.check(model, model.vocabulary)
            batch_size = min(len(requests), batch_size or len(requests))
            requests = ListQueue(requests, count_canvas_columns(model, requests) if requests else 0)
        queue, b = requests, batch_size or 1
        proposer = Proposer(model.head, strategy.sampling, strategy.policy.needs, model.mask_id, model.vocabulary)
        first = queue.take(b)
        taken = [request for _, request in first]
        known = queue.requests if isinstance(queue, ListQueue) else taken
        max_stop_ids = max(map(len, resolve_stop_ids(model, known, strategy.stopping)), default=0)
        vacant = b - len(first) if first else 0
        place = torch.tensor([number for number, _ in first] + [-1] * vacant)
        taken += taken[:1] * vacant  # a row that was never taken is laid out like the first, and closed
        layout = Layout.of(model, taken, queue.width)
        batch = cls(model, queue, strategy, proposer, taken, place, max_stop_ids, layout)
        batch.covers_decided, batch.probes = strategy.policy.covers_decided, strategy.probes
        batch._show_processors_waiting_requests()
        return batch

    def _show_processors_waiting_requests(self) -> None:
        """Let processors refuse any request of a list before the first forward."""
        if not self.strategy.constrained or not isinstance(self.queue, ListQueue):
            return
        b, requests = len(self.place), self.queue.requests
        for first in range(b, len(requests), b):
            self.check_processors(requests[first : first + b])

    def check_processors(self, requests: Sequence[Request]) -> None:
        """Let processors refuse requests.

        Raises:
            RequestError: A processor cannot serve one of them.
        """
        canvas = make_canvas(self.model, requests, self.queue.width, self._stop_ids(requests))
        self.proposer.init(canvas, self.model)

    def _stop_ids(self, requests: Sequence[Request]) -> Int[Tensor, "b s"]:
        """List the end tokens of some requests, padded with -1 (host).

        Raises:
            RequestError: One has more than there is room for, which only a queue can bring.
        """
        ids = resolve_stop_ids(self.model, requests, self.strategy.stopping)
        if any(len(own) > self.max_stop_ids for own in ids):
            raise RequestError(
                f"stop_ids of a request that came later: there is room for {self.max_stop_ids} in this run"
            )
        padded = [(*own, *[-1] * (self.max_stop_ids - len(own))) for own in ids]
        return torch.tensor(padded, dtype=torch.int64).reshape(len(ids), self.max_stop_ids)

    def start(self) -> DecodingState:
        """Make the state of all rows before their first step; rows that were never taken have nothing to do."""
        stops = self._stop_ids(self.requests)
        self.stopper = Stopper.of(stops.tolist(), self.strategy.stopping, self.model.tokenizer, self.model.device)
        scheduler, canvas = self.strategy.scheduler, self.layout.canvas(stops)
        canvas, _, scheduled = scheduler.arrange(canvas, None, None, scheduler.init(canvas, self.model))
        processed = self.proposer.init(canvas, self.model)
        canvas = _clear_rows(canvas, self.place < 0)
        zeros = torch.zeros_like(self.place)
        parts = PartStates(
            scheduler=scheduled,
            policy=self.strategy.policy.init(canvas),
            cache=self.strategy.cache.init(canvas, self.model),
            processors=processed,
        )
        return DecodingState(canvas, parts, blank_ledger(canvas), nfe=zeros, num_windows=zeros)

    def refill(self, state: DecodingState) -> tuple[DecodingState, HostView]:
        """Give finished rows to waiting requests, as if decoding had begun with them; the others stay as they were.

        Where more rows are finished than wait, the last ones stay empty.

        Returns:
            The state, and its canvas on the host.

        Raises:
            NumericsError: The last step's logits were not numbers.
        """
        gone = self.queue.gone()
        if gone:
            cleared = _clear_rows(state.canvas, torch.isin(self.place, torch.tensor(list(gone))))
            state = state._replace(canvas=cleared)
        view = HostView.of(state.canvas)
        self._check_numbers()
        if isinstance(self.queue, ListQueue) and self.queue.taken == len(self.queue.requests):
            return state, view
        if not bool((view.head >= state.canvas.rows.limit).any()):
            return state, view  # what was asked for is pending in every row: none can be finished
        finished = self.strategy.scheduler.finished(state.canvas, view, state.parts.scheduler)
        rows = finished.nonzero().flatten().tolist()
        coming = self.queue.take(len(rows)) if rows else ()
        if not coming:
            return state, view
        new, self.place = torch.zeros_like(finished), self.place.clone()
        for row, (number, request) in zip(rows, coming, strict=False):
            self.place[row], self.requests[row], new[row] = number, request, True
            self.layout.put(row, request)
        state = self._renew(state, self.start(), new)
        return state, HostView.of(state.canvas)

    def _renew(self, state: DecodingState, fresh: DecodingState, rows: Bool[Tensor, " b"]) -> DecodingState:
        """Replace some rows of the state; the cache does so by itself, since it owns keys and values."""
        cached = self.strategy.cache.renew(state.parts.cache, fresh.parts.cache, rows, renew_rows)
        state = state._replace(parts=state.parts._replace(cache=None))
        fresh = fresh._replace(parts=fresh.parts._replace(cache=None))
        renewed: DecodingState = renew_rows(state, fresh, rows)
        return renewed._replace(parts=renewed.parts._replace(cache=cached))

    def _check_numbers(self) -> None:
        """Raise NumericsError if the last step's confidences are not numbers.

        Their sum was computed on the device then and is read only now, behind the copy for which the host waits anyway.
        """
        if self.confidence is None or not math.isnan(self.confidence[1].item()):
            return
        prompts = self.place[self.confidence[0].isnan().any(1).cpu()].tolist()
        raise NumericsError(
            f"the model's logits are not numbers (NaN, infinite or beyond 1e9) for prompts {prompts} at step "
            f"{self.last_step}: check the weights, or try another dtype (float16 overflows easily; bfloat16 or float32 "
            "do not)",
            prompts,
        )

    def prepare_window(self, window: Window, canvas: Canvas) -> Window:
        """Add to a window what the policy needs beside the pending slots."""
        if self.covers_decided:
            window = open_decided_slots(window, canvas)._replace(shadow=Shadow() in self.proposer.needs)
        return window._replace(probes=self.probes) if self.probes else window

    def count_forward(self, state: DecodingState, window: Window, seen: Seen) -> DecodingState:
        """Count the forward and the windows of each row."""
        return state._replace(
            nfe=state.nfe + (seen.queries > 0), num_windows=state.num_windows + (window.end > window.start)
        )

    def write(
        self, state: DecodingState, window: Window, seen: Seen, guess: Guess, change: StepChange
    ) -> tuple[DecodingState, Int[Tensor, "b t"] | None]:
        """Write what was decided, close finished rows, and move columns if the scheduler changes lengths.

        Returns:
            The state, and `Step.moved`.
        """
        there = window.scatter_to_columns(change.commit, state.canvas.tokens.shape[1])
        canvas = write_canvas(state.canvas, window, change, there, self.model.mask_id)
        ledger = record_commits(state.ledger, window, guess, change, there, seen, state.nfe)
        canvas = self.stopper.close(canvas)
        arranged, moved, scheduled = self.strategy.scheduler.arrange(canvas, guess, window, state.parts.scheduler)
        parts = state.parts._replace(scheduler=scheduled)
        if arranged.rows is not canvas.rows:  # rows have other lengths now
            parts = drop_transients(parts)
        state = state._replace(canvas=arranged, ledger=ledger, parts=parts)
        self.confidence = guess.confidence, guess.confidence.sum()
        return state if moved is None else self._move(state, moved), moved

    def _move(self, state: DecodingState, moved: Int[Tensor, "b t"]) -> DecodingState:
        """Let the ledger follow columns that have moved, and the parts forget what they knew of them."""
        strategy, parts = self.strategy, state.parts
        processed = self.proposer.init(state.canvas, self.model)
        return state._replace(
            ledger=Ledger(*(move_columns(plane, moved) for plane in state.ledger)),
            parts=parts._replace(
                policy=forget_moved_columns(parts.policy, strategy.policy.init(state.canvas), moved),
                processors=forget_moved_columns(parts.processors, processed, moved),
                cache=strategy.cache.forget(parts.cache, moved),
            ),
        )

    def report(
        self, number: int, state: DecodingState, window: Window, seen: Seen, guess: Guess, change: StepChange,
        moved: Int[Tensor, "b t"] | None,
    ) -> Step:  # fmt: skip
        """Describe a step for everyone who consumes the stream."""
        self.last_step = number
        return Step(
            number=number,
            canvas=state.canvas,
            window=window,
            guess=guess,
            commit=change.commit,
            queries=seen.queries,
            fresh=seen.fresh,
            nfe=state.nfe,
            ledger=state.ledger,
            place=self.place,
            revoke=change.revoke,
            moved=moved,
            tokens=change.tokens,
        )


def match_block_size(model: Model, strategy: Strategy) -> Model:
    """Give a block-causal model the attention block that the scheduler's size asks for."""
    size = strategy.scheduler.size
    if size is not None and model.geometry.block not in (None, size):
        return model.with_block(size)
    return model


def _clear_rows(canvas: Canvas, rows: Bool[Tensor, " b"]) -> Canvas:
    """Leave nothing to do in the marked rows (host)."""
    if not bool(rows.any()):
        return canvas
    kept = ~to_device(rows, canvas.pending.device)
    held = None if canvas.held is None else canvas.held & kept
    return canvas._replace(pending=canvas.pending & rearrange(kept, "b -> b 1"), held=held)
