"""Constraints on the whole text that hold whatever the order in which it is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from dllm.errors import ConfigError, RequestError
from dllm.processors.automaton import END, NOTHING, Automaton, compiled
from dllm.processors.paths import PENDING, Paths, all_paths, ended, together
from dllm.transfer import to_device
from dllm.types import LEAST, Canvas, Guess, Where, Window


class Progress(NamedTuple):
    """How far the rows are.

    paths      by row (host)
    stops      (b, s) int64  ids that end a row, padded with -1 (host)
    kinds      (v,) int64    each token's kind, where the logits are
    automaton  of all rows
    """

    paths: Paths
    stops: Tensor
    kinds: Tensor
    automaton: Automaton


@dataclass(frozen=True)
class Constraint:
    """Allow a token in a column only if the row's text can still be completed, whatever else is pending.

    The text is what the row writes, up to its end token or its limit; with holes, all from the first hole on, so that
    the given columns in between must fit too. Before every step the automaton of the constraint is followed over the
    row's columns from both sides, a pending column standing for any token: a token is allowed where a way from the left
    meets one from the right through it. Several commits may be right one by one and wrong together: of these `settle`
    keeps, in order of the policy's score, what can stand together, and that is at least the best. So the text matches
    in the end, whatever the order of commits, the cache, the scheduler or the sampling. Policies that edit, schedulers
    that move columns and stop strings are refused by `Strategy`.

    Length: a text has at most max_new_tokens tokens, and where it is shorter an end token follows; a row without end
    tokens must be filled exactly. End tokens must be special ones, which add nothing to the text. If no text is short
    enough, that is a `RequestError` before the first forward.

    Put it last among the processors: it says what is possible, and gives tokens that another one or the model rules out
    the least possible chance rather than none. Forced tokens then have confidence 1, so policies commit them at once;
    certificates speak of the logits as constrained, column by column, which is not the law of constrained texts.

    Reads the tokens' bytes from the tokenizer (see `spelling`). A step waits for the device twice more: for the
    tokens that were written before, and for what the policy commits.
    """

    @property
    def regex(self) -> str:
        """What the whole text must match."""
        raise NotImplementedError

    def init(self, canvas: Canvas, model: Any, /) -> Progress:
        automaton = compiled(self.regex, model.tokenizer, model.vocabulary, model.mask_id)
        rows = canvas.rows
        stops = rows.stops if rows.stops is not None else default_stops(canvas, model)
        self.check_stops(stops, automaton)
        tokens, t = canvas.tokens.cpu(), canvas.tokens.shape[1]
        kinds = torch.where(canvas.pending.cpu(), PENDING, ended(automaton.kinds, tokens, stops))
        ends = torch.where((stops >= 0).any(1), rows.text + 1, t + 1)
        paths = all_paths(automaton, kinds, rows.prompt, rows.limit, ends)
        self.check_length(paths, automaton)
        return Progress(paths, stops, to_device(automaton.kinds, canvas.tokens.device), automaton)

    def check_stops(self, stops: Tensor, automaton: Automaton) -> None:
        """Raise ConfigError for an end token that is text, since it would cut what the constraint completes."""
        known = (stops >= 0) & (stops < len(automaton.kinds))
        text = known & (automaton.kinds[torch.where(known, stops, 0)] > NOTHING)
        if bool(text.any()):
            raise ConfigError(
                f"{self}: end token {int(stops[text][0])} is text, which would cut what the constraint completes; "
                "give special tokens only as end tokens"
            )

    def check_length(self, paths: Paths, automaton: Automaton) -> None:
        """Raise RequestError for a row that no text fits."""
        bad = (~paths.right[torch.arange(len(paths.start)), paths.start, automaton.begin]).nonzero().flatten().tolist()
        if not bad:
            return
        row = bad[0]
        columns, least = int(paths.limit[row] - paths.start[row]), automaton.shortest
        if least is None:
            why = "this tokenizer can write no text that matches"
        elif bool((paths.kinds[row, paths.start[row] : paths.limit[row]] != PENDING).any()):
            why = "no text matches around what was given between the holes"
        elif least > columns:
            why = f"the shortest text that matches has {least} tokens, and there is room for {columns}: "
            why += "raise max_new_tokens"
        else:
            why = f"no text that matches has exactly {columns} tokens, and no end token may follow a shorter one"
        raise RequestError(f"{self}: {why}")

    def step(self, logits: Tensor, where: Where, canvas: Canvas, state: Progress, /) -> tuple[Tensor, Progress]:
        row, column, pending = where.on_host
        state = follow(state, canvas, where.window.undecided, row.unique(), int(column.max()))
        paths, device = state.paths, logits.device
        held = pending & (column >= paths.start[row]) & (column < paths.limit[row])
        slots = held.nonzero().flatten()
        if not len(slots):
            return logits, state
        allowed = to_device(paths.allowed(state.automaton, row[slots], column[slots]), device)
        tokens = allowed[:, state.kinds]
        ends = torch.nn.functional.pad(tokens, (0, 1))
        stops = state.stops[row[slots]]
        stops = to_device(torch.where(stops < 0, tokens.shape[1], stops), device)
        ends = ends.scatter(1, stops, allowed[:, END, None].expand_as(stops))[:, :-1]
        there = to_device(slots, device)  # what the model rules out and the constraint allows is still to be had
        return logits.index_copy(0, there, logits[there].clamp(min=LEAST).masked_fill(~ends, -torch.inf)), state

    def settle(
        self, canvas: Canvas, window: Window, guess: Guess, commit: Tensor, score: Tensor, state: Progress, /
    ) -> Tensor:
        """What can stand together of what a policy commits."""
        b, t = canvas.tokens.shape
        chosen = commit.cpu()
        several = (chosen.sum(1) > 1).nonzero().flatten()
        if not len(several):
            return commit
        columns, kinds = window.columns.cpu(), ended(state.automaton.kinds, guess.tokens.cpu(), state.stops)
        plane = torch.where(chosen, columns, t)

        def spread(values: Tensor) -> Tensor:
            return torch.zeros(b, t + 1, dtype=values.dtype).scatter(1, plane, values)[several, :t]

        kept = together(
            state.automaton, state.paths.pick(several), spread(chosen), spread(kinds), spread(score.cpu().float())
        )
        full = torch.zeros(b, t + 1, dtype=torch.bool)
        full[several, :t] = kept
        kept = chosen & torch.where((chosen.sum(1) > 1)[:, None], full.gather(1, columns.clamp(max=t)), True)
        return to_device(kept, commit.device)


def default_stops(canvas: Canvas, model: Any) -> Tensor:
    """The model's own end tokens (b, s) for every row."""
    ids = torch.tensor(model.stop_ids, dtype=torch.int64)
    return rearrange(ids, "s -> 1 s").repeat(len(canvas.tokens), 1)


def follow(state: Progress, canvas: Canvas, undecided: Tensor | None, rows: Tensor, upto: int) -> Progress:
    """Progress with what some rows have decided since, the ways from the left known up to a column.

    undecided  (b, t) bool  host; what is pending on the canvas; None: not known there
    """
    paths = state.paths.pick(rows)
    tokens, pending = canvas.tokens.cpu()[rows], (canvas.pending.cpu() if undecided is None else undecided)[rows]
    new = (paths.kinds == PENDING) & ~pending
    paths = paths.decide(new, ended(state.automaton.kinds, tokens, state.stops[rows]))
    if bool(new.any()):
        last = int(new.any(0).nonzero().max())
        head = int(torch.where(pending, torch.arange(pending.shape[1]), pending.shape[1]).amin())
        paths = paths.from_right(state.automaton, min(head, last), last)
    paths = paths.from_left(state.automaton, max(upto, 0))
    return state._replace(paths=state.paths.put(rows, paths))
