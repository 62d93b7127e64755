"""The caches again, as slowly and plainly as can be: one row at a time, lists of columns, a store of its own.

Nothing here is taken from `dllm.caches`: the rules are written out from their papers, for a row whose past is known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dllm.engine.batch import match_block_size
from dllm.requests import Request
from dllm.strategy import Strategy
from dllm.testing import laws
from dllm.types import Model, Step


class Spy(Model):
    """A model that remembers which columns it was asked to run, and of which tokens; all else is its model's."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.queries: list[Any] = []

    def __getattribute__(self, name: str) -> Any:
        own = name.startswith("__") or name in ("model", "queries", "with_block", "forward")
        return object.__getattribute__(self, name) if own else getattr(self.model, name)

    def with_block(self, size: int) -> Spy:
        self.model = self.model.with_block(size)
        return self

    def forward(self, query: Any, store: Any) -> Tensor:
        self.queries.append(query)
        return self.model.forward(query, store)


class PlainStore:
    """Keys and values of one row; what is run is written, everything is read."""

    def __init__(self) -> None:
        self.columns: list[int] = []
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        t = max(self.columns) + 1
        old = self.kept.get(layer_idx)
        parts = []
        for i, new in enumerate((key, value)):
            full = new.new_zeros(*new.shape[:2], max(t, 0 if old is None else old[i].shape[2]), new.shape[3])
            if old is not None:
                full[:, :, : old[i].shape[2]] = old[i]
            full[:, :, self.columns] = new
            parts.append(full)
        self.kept[layer_idx] = (parts[0], parts[1])
        return self.kept[layer_idx]

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return (max(len(self.kept), query_length), 0)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


@dataclass
class Past:
    """What a rule may know of a row: everything that happened to it.

    pending        columns that are pending now
    start, end     the window now; begin, finish: the block; length: of the row
    entered, commit, first   as in `Window`
    exact          block-causal: columns before it are stored for good; 0 otherwise
    runs           what was run in each forward so far
    windows        (start, end) of each forward so far
    refreshed      whether each forward so far was a refresh
    opened         forwards since the block was entered
    decided        columns that were pending and were decided, in each forward so far
    left           1 for a token-shifted model
    edits          the policy judges decided columns of the window too
    """

    left: int
    length: int
    block_causal: bool
    pending: set[int] = field(default_factory=set)
    start: int = 0
    end: int = 0
    begin: int = 0
    finish: int = 0
    entered: bool = False
    commit: bool = False
    first: bool = False
    edits: bool = False
    exact: int = 0
    runs: list[list[int]] = field(default_factory=list)
    windows: list[tuple[int, int]] = field(default_factory=list)
    refreshed: list[bool] = field(default_factory=list)
    opened: int = 0
    decided: list[set[int]] = field(default_factory=list)

    @property
    def stop(self) -> int:
        """One past what a refresh covers."""
        return self.finish if self.block_causal else self.length

    @property
    def head(self) -> int:
        """First column of the window, with what a shifted model needs left of it."""
        return max(0, self.start - (self.left if self.first else 0))

    def everything(self) -> list[int]:
        return list(range(min(self.exact, self.head), self.stop))

    def since(self) -> int:
        """Forwards since the last refresh, that one included."""
        return len(self.refreshed) - max(i for i, refreshed in enumerate(self.refreshed) if refreshed)

    def must(self) -> bool:
        """A refresh that no cache can do without."""
        return self.commit or not self.runs or (self.block_causal and self.exact < self.begin)


def replay(model: Any, requests: list[Request], strategy: Strategy, rule: Any) -> int:
    """Decode a batch and check it step by step, row by row, against `rule(past) -> (columns, refresh)`.

    Returns the number of forwards checked.
    """
    spy = Spy(model)
    stream, _ = laws.run_batch(spy, requests, strategy)
    assert sum(int(q.valid.sum()) for q in spy.queries) == sum(int(step.queries.sum()) for step in stream)
    model = match_block_size(model, strategy)
    checked = 0
    for row in range(len(requests)):
        before, store = laws.make_first_canvas(model, requests, strategy), PlainStore()
        past = Past(model.needs_left, int(before.rows.length[row]), model.geometry.block is not None)
        for step in stream:
            if see(past, step, before, row):
                checked += check(model, store, past, step, before, row, rule)
            else:
                assert not step.queries[row] and not step.fresh[row]
            before = step.canvas
    return checked


def see(past: Past, step: Step, before: Any, row: int) -> bool:
    """What the row's window is now; whether there is anything to do."""
    window = step.window
    past.pending = set(before.pending[row].nonzero().flatten().tolist())
    past.start, past.end = int(window.start[row]), int(window.end[row])
    past.begin, past.finish = int(window.block_start[row]), int(window.block_end[row])
    past.entered, past.commit = bool(window.entered[row]), bool(window.commit[row])
    past.edits = window.answer is not None
    past.first = past.end > past.start and (past.edits or past.start in past.pending)
    past.opened = 0 if past.entered else past.opened
    return past.end > past.start or past.commit


def check(model: Any, store: PlainStore, past: Past, step: Step, before: Any, row: int, rule: Any) -> int:
    """One forward of one row: the same columns, the same count, the same predictions."""
    columns, refresh = rule(past)
    columns = sorted(columns)
    if not columns:
        assert not step.queries[row] and not step.fresh[row]
        return 0
    shadows = past.end - past.start if step.window.shadow else 0
    assert int(step.queries[row]) == len(columns) + shadows, f"step {step.number}, row {row}"
    whole = columns == list(range(min(past.exact, columns[0]), past.stop))
    assert bool(step.fresh[row]) == whole, f"step {step.number}, row {row}: fresh"
    hidden = forward(model, store, before.tokens[row], columns, past)
    judged = step.window.pending[row] if step.window.answer is None else step.window.answer[row]
    slots = judged.nonzero().flatten()
    outputs = [columns.index(int(step.window.columns[row, s]) - past.left) for s in slots]
    if outputs:
        logits = model.head(hidden[outputs]).float()
        p1 = logits.softmax(-1).index_fill(-1, torch.tensor([model.mask_id]), 0).amax(-1)
        torch.testing.assert_close(step.guess.p1[row, slots], p1, atol=2e-5, rtol=1e-4, check_dtype=False)
    written = step.window.columns[row][step.commit[row] & step.window.pending[row]]
    past.runs.append(columns)
    past.windows.append((past.start, past.end))
    past.refreshed.append(refresh)
    past.opened += 1
    past.decided.append(set(written.tolist()))
    if past.block_causal and whole:
        past.exact = past.begin
    return 1


@torch.inference_mode()
def forward(model: Any, store: PlainStore, tokens: Tensor, columns: list[int], past: Past) -> Tensor:
    """Hidden states (q, d) of some columns of one row, with the dense mask that the geometry means."""
    store.columns = columns
    stored = max(max(run) for run in [*past.runs, columns]) + 1
    size = model.geometry.size if past.block_causal else None
    limits = torch.tensor([past.length if size is None else (column // size + 1) * size for column in columns])
    mask = torch.arange(stored) < limits.unsqueeze(1)
    return model.network.get_decoder()(
        input_ids=tokens[columns].unsqueeze(0),
        position_ids=torch.tensor([columns]),
        attention_mask=mask[None, None],
        past_key_values=store,
        use_cache=True,
        is_causal=False,
    ).last_hidden_state[0]
