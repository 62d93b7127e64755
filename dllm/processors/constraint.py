"""Constraints on the whole text that hold for every order in which it is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dllm.errors import ConfigError, RequestError
from dllm.processors.automaton import END, NOTHING, Automaton, compile_automaton
from dllm.processors.paths import PENDING, AutomatonPaths, classify_tokens, compute_paths, select_compatible_slots
from dllm.transfer import to_device
from dllm.types import LEAST, Canvas, Guess, Model, Processor, Where, Window


class ConstraintState(NamedTuple):
    """Progress of the rows.

    Attributes:
        paths: Paths of each row (host).
        stops: Ids that end a row, padded with -1 (host).
        kinds: Kind of each token, on the device of the logits.
        automaton: The automaton, one for all rows.
    """

    paths: AutomatonPaths
    stops: Int[Tensor, "b s"]
    kinds: Int[Tensor, " v"]
    automaton: Automaton


@dataclass(frozen=True)
class Constraint(Processor, hooks=("regex",)):
    """Allow a token in a column only if the row's text can still be completed, whatever else is pending.

    The text is everything that the row writes, up to its end token or its limit; with holes, everything from the first
    hole on, so that the given columns in between must fit too. Before every step the automaton of the constraint is
    followed over the row's columns from both sides, where a pending column stands for any token: a token is allowed if
    it joins a path from the left with one from the right. Several commits may be right one by one and wrong together:
    of these `settle` keeps, in order of the policy's score, those that fit together, which is at least the best one. So
    the text matches in the end, whatever the order of commits, the cache, the scheduler or the sampling. `Strategy`
    refuses to combine a constraint with policies that edit, schedulers that move columns, and stop strings.

    Length: a text has at most max_new_tokens tokens, and where it is shorter an end token follows; a row without end
    tokens must be filled exactly. End tokens must be special ones, which add nothing to the text. If no text is short
    enough, that is a `RequestError` before the first forward.

    Put it last among the processors: it decides what is possible, and gives tokens that another processor or the model
    rules out the least possible probability rather than none. Forced tokens then have confidence 1, so policies commit
    them at once. Certificates apply to the logits as constrained, column by column, which is not the law of constrained
    texts.

    It reads the bytes of tokens from the tokenizer (see `spelling`). A step waits for the device twice more: for the
    tokens that were written before, and for those that the policy commits.

    Subclasses define `regex`.
    """

    constrains: ClassVar[bool] = True

    @property
    def regex(self) -> str:
        """Regular expression that the whole text must match."""
        raise NotImplementedError

    def init(self, canvas: Canvas, model: Model, /) -> ConstraintState:
        automaton = compile_automaton(self.regex, model.tokenizer, model.vocabulary, model.mask_id)
        rows = canvas.rows
        stops = rows.stops if rows.stops is not None else _default_stop_ids(canvas, model)
        self._check_stops(stops, automaton)
        tokens, t = canvas.tokens.cpu(), canvas.tokens.shape[1]
        # A row that no token ends must be filled: its end lies beyond the last boundary. Any other row may have ended
        # behind its first column, if that holds an end token.
        kinds = torch.where(canvas.pending.cpu(), PENDING, classify_tokens(automaton.kinds, tokens, stops))
        ends = torch.where((stops >= 0).any(1), rows.text + 1, t + 1)
        paths = compute_paths(automaton, kinds, rows.prompt, rows.limit, ends)
        self._check_length(paths, automaton)
        return ConstraintState(paths, stops, to_device(automaton.kinds, canvas.tokens.device), automaton)

    def _check_stops(self, stops: Int[Tensor, "b s"], automaton: Automaton) -> None:
        """Check that no end token is text.

        Raises:
            ConfigError: One is, and would cut the text that the constraint completes.
        """
        known = (stops >= 0) & (stops < len(automaton.kinds))
        text = known & (automaton.kinds[torch.where(known, stops, 0)] > NOTHING)
        if bool(text.any()):
            raise ConfigError(
                f"{self}: end token {int(stops[text][0])} is text, which would cut what the constraint completes; "
                "give special tokens only as end tokens"
            )

    def _check_length(self, paths: AutomatonPaths, automaton: Automaton) -> None:
        """Check that some text fits every row.

        Raises:
            RequestError: None does, and the message says why.
        """
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

    def step(
        self, logits: Float[Tensor, "n v"], where: Where, canvas: Canvas, state: ConstraintState, /
    ) -> tuple[Float[Tensor, "n v"], ConstraintState]:
        row, column, pending = where.on_host
        rows = torch.tensor(sorted(set(row.tolist())))
        state = _advance_paths(state, canvas, where.window.undecided, rows, int(column.max()))
        paths, device = state.paths, logits.device
        in_text = pending & (column >= paths.start[row]) & (column < paths.limit[row])
        slots = in_text.nonzero().flatten()
        if not len(slots):
            return logits, state
        allowed = to_device(paths.allowed(state.automaton, row[slots], column[slots]), device)
        tokens = allowed[:, state.kinds]
        # End tokens differ by row, so they replace what holds for all rows; their padding goes to one more place.
        stops = state.stops[row[slots]]
        stops = to_device(torch.where(stops < 0, tokens.shape[1], stops), device)
        tokens = torch.nn.functional.pad(tokens, (0, 1))
        tokens = tokens.scatter(1, stops, allowed[:, END, None].expand_as(stops))[:, :-1]
        # A token that the model rules out and the constraint allows must stay possible: it may be the only one.
        there = to_device(slots, device)
        return logits.index_copy(0, there, logits[there].clamp(min=LEAST).masked_fill(~tokens, -torch.inf)), state

    def settle(
        self, canvas: Canvas, window: Window, guess: Guess, commit: Bool[Tensor, "b k"], score: Float[Tensor, "b k"],
        state: ConstraintState, /,
    ) -> Bool[Tensor, "b k"]:  # fmt: skip
        b, t = canvas.tokens.shape
        chosen = commit.cpu()
        # A slot that is committed alone is allowed as it is: only rows with several are looked at.
        several = (chosen.sum(1) > 1).nonzero().flatten()
        if not len(several):
            return commit
        columns, kinds = window.columns.cpu(), classify_tokens(state.automaton.kinds, guess.tokens.cpu(), state.stops)
        plane = torch.where(chosen, columns, t)  # the values of other slots go to a column that is cut off

        def scatter_rows(values: Tensor) -> Tensor:
            """Bring the values of slots to their columns, in the rows with several."""
            return torch.zeros(b, t + 1, dtype=values.dtype).scatter(1, plane, values)[several, :t]

        kept = select_compatible_slots(
            state.automaton,
            state.paths.select_rows(several),
            scatter_rows(chosen),
            scatter_rows(kinds),
            scatter_rows(score.cpu().float()),
        )
        full = torch.zeros(b, t + 1, dtype=torch.bool)
        full[several, :t] = kept
        kept = chosen & torch.where((chosen.sum(1) > 1)[:, None], full.gather(1, columns.clamp(max=t)), True)
        return to_device(kept, commit.device)


def _default_stop_ids(canvas: Canvas, model: Model) -> Int[Tensor, "b s"]:
    """List the model's own end tokens for every row."""
    ids = torch.tensor(model.stop_ids, dtype=torch.int64)
    return rearrange(ids, "s -> 1 s").repeat(len(canvas.tokens), 1)


def _advance_paths(
    state: ConstraintState, canvas: Canvas, undecided: Bool[Tensor, "b t"] | None, rows: Int[Tensor, " r"], upto: int
) -> ConstraintState:
    """Bring the paths of some rows up to date with what was decided since.

    Args:
        state: State of the step before.
        canvas: The canvas.
        undecided: Pending columns of the canvas, if the host knows them.
        rows: Rows to bring up to date (host).
        upto: Boundary up to which the paths from the left are needed.
    """
    paths = state.paths.select_rows(rows)
    tokens, pending = canvas.tokens.cpu()[rows], (canvas.pending.cpu() if undecided is None else undecided)[rows]
    new = (paths.kinds == PENDING) & ~pending
    paths = paths.decide(new, classify_tokens(state.automaton.kinds, tokens, state.stops[rows]))
    if bool(new.any()):
        # Right of the last new column nothing has changed, and left of the first pending one `right` is never read.
        last = int(new.any(0).nonzero().max())
        head = int(torch.where(pending, torch.arange(pending.shape[1]), pending.shape[1]).amin())
        paths = paths.update_right(state.automaton, min(head, last), last)
    paths = paths.update_left(state.automaton, max(upto, 0))
    return state._replace(paths=state.paths.replace_rows(rows, paths))
