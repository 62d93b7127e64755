"""What a part is: the base classes whose hooks the loop calls on policies, schedulers, caches, processors and models.

A hook that raises NotImplementedError has to be defined; every other one has a default that does nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dllm.errors import ConfigError
from dllm.types.attention import Geometry, Query, Store
from dllm.types.canvas import Canvas, Guess, HostView, Seen, Verdict, Where, Window
from dllm.types.part import Part
from dllm.types.signal import Probe, Signal

State = Any
"""What a part remembers between steps: any value, carried by the loop and read only by the part that made it.

A state is a tensor whose first axis is the batch, a (named) tuple of states, or any other value. When a row is given to
the next request the loop replaces the row in every such tensor by what `init` makes for the new request; a value that
depends on rows in another way is a `Transient`, or the part has hooks of its own for it."""


class Transient:
    """Base class of state that is valid only while no row changes its request, and no column its place.

    The loop replaces it by None when a row is refilled or columns move.
    """


class Policy(
    Part, hooks=("needs", "init", "step", "paced", "edits", "chooses_tokens", "rests", "covers_decided", "bound")
):
    """Base class of policies: a policy decides *which* positions to commit.

    Attributes:
        needs: Signals and probes that the policy reads from the guess.
        paced: Whether the policy follows the scheduler's planned `steps`.
        edits: Whether the policy may replace and revoke what is decided, for at most `bound` steps of a range. It then
            needs a signal that covers decided slots, such as `Current`.
        chooses_tokens: Whether `Verdict.tokens` may name other tokens than the candidates.
        rests: Whether a step may commit nothing, because the pace has a quota of zero there.
        covers_decided: Whether decided slots get logits too; found from `needs`.
    """

    @property
    def needs(self) -> tuple[Signal | Probe, ...]:
        return ()

    @property
    def paced(self) -> bool:
        return False

    @property
    def edits(self) -> bool:
        return False

    @property
    def chooses_tokens(self) -> bool:
        return False

    @property
    def rests(self) -> bool:
        return False

    @property
    def covers_decided(self) -> bool:
        """True if a signal that the policy needs covers decided slots."""
        return any(isinstance(need, Signal) and need.covers_decided for need in self.needs)

    def init(self, canvas: Canvas, /) -> State:
        """Make the state before the first step."""
        return None

    def step(self, guess: Guess, window: Window, state: State, /) -> tuple[Verdict, State]:
        """Judge a window. What is accepted elsewhere than in pending slots is ignored, unless the policy edits."""
        raise NotImplementedError

    def bound(self, columns: Int[Tensor, " b"], /) -> Int[Tensor, " b"]:
        """Bound the steps for which a policy that edits may do so in a range of so many columns.

        After them the loop honours only what the policy accepts among the pending slots.
        """
        raise NotImplementedError


class Scheduler(
    Part, hooks=("init", "entering", "finished", "step", "refine", "arrange", "size", "steps", "moves_columns")
):
    """Base class of schedulers: a scheduler decides *where* to work, and how fast.

    Attributes:
        size: Columns of a block, for schedulers with a field of that name. None leaves it to the model.
        steps: Steps planned for a range, for schedulers with a field of that name. None where no pace is followed.
        moves_columns: Whether `arrange` changes the length of rows.
    """

    size: int | None = None
    steps: int | None = None
    moves_columns: ClassVar[bool] = False

    def init(self, canvas: Canvas, model: Model, /) -> State:
        """Make the state before the first step."""
        raise NotImplementedError

    def step(self, canvas: Canvas, view: HostView, state: State, /) -> tuple[Window | None, State]:
        """Open the next window, or return None when no row has anything left to decide.

        The window is marked `unchanged` where every row stays in the range of the step before.
        """
        raise NotImplementedError

    def entering(self, canvas: Canvas, view: HostView, state: State, /) -> Bool[Tensor, " b"]:
        """Find the rows whose next window lies in another block than their last one (host)."""
        raise NotImplementedError

    def finished(self, canvas: Canvas, view: HostView, state: State, /) -> Bool[Tensor, " b"]:
        """Find the rows that have nothing left to do (host).

        A block is entered only if it holds a column of the requested output that is still pending. Once entered it is
        finished to its end, also past the requested output.
        """
        rows, head = canvas.rows, view.head
        done = (head >= rows.length) | (self.entering(canvas, view, state) & (head >= rows.limit))
        return done if view.held is None else done & ~view.held

    def refine(self, guess: Guess, window: Window, state: State, /) -> tuple[Window, State]:
        """Narrow a window once its slots have been predicted, before the policy judges them.

        The `pending` and `groups` of the window that is returned say what the policy may commit.
        """
        return window, state

    def arrange(
        self, canvas: Canvas, guess: Guess | None, window: Window | None, state: State, /
    ) -> tuple[Canvas, Int[Tensor, "b t"] | None, State]:
        """Change the length of rows: called before the first step (with no guess and no window) and after every step.

        Returns:
            The canvas; for every column the one it was before (-1 where it is new), None if none moved; the state.
        """
        return canvas, None, state


class Cache(Part, hooks=("init", "step", "observe", "renew", "forget", "fills_probes")):
    """Base class of caches: a cache decides *what to recompute*.

    Attributes:
        fills_probes: Whether every step runs a forward in which probes can be filled.
    """

    fills_probes: ClassVar[bool] = True

    def init(self, canvas: Canvas, model: Model, /) -> State:
        """Make the state before the first step."""
        raise NotImplementedError

    def step(self, model: Model, canvas: Canvas, window: Window, state: State, /) -> tuple[Seen, State]:
        """Run what has to be run, and show the window what was seen."""
        raise NotImplementedError

    def observe(
        self, guess: Guess, window: Window, commit: Bool[Tensor, "b k"], score: Float[Tensor, "b k"], state: State, /
    ) -> State:
        """Take note of a step's decision; `score` is the policy's order of preference."""
        return state

    def renew(self, state: State, fresh: State, rows: Bool[Tensor, " b"], renew_rows: Callable[..., Any], /) -> State:
        """Replace some rows of the state by those of `fresh`, for rows that are given to other requests.

        Args:
            state: State of the rows so far.
            fresh: State that `init` made for the requests that the rows hold now. Only the marked rows of it count.
            rows: Rows that are replaced (host).
            renew_rows: `renew_rows(state, fresh, rows)` does so for ordinary states.
        """
        return renew_rows(state, fresh, rows)

    def forget(self, state: State, moved: Int[Tensor, "b t"], /) -> State:
        """Forget what is known of columns that have moved (`Step.moved`)."""
        return state


class Processor(Part, hooks=("init", "step", "settle", "constrains")):
    """Base class of processors: a processor changes logits before candidates are chosen.

    Attributes:
        constrains: Whether the processor promises something of the whole text, and so decides in `settle` what may be
            committed together. `Strategy` refuses parts under which such a promise would not last.
    """

    constrains: ClassVar[bool] = False

    def init(self, canvas: Canvas, model: Model, /) -> State:
        """Make the state before the first step: values by row, (b, …).

        Raises:
            RequestError: A row cannot be served.
        """
        return None

    def step(
        self, logits: Float[Tensor, "n v"], where: Where, canvas: Canvas, state: State, /
    ) -> tuple[Float[Tensor, "n v"], State]:
        """Change the logits of some slots. A step may come in several parts.

        The logits that are returned are overwritten afterwards, so do not keep them.
        """
        raise NotImplementedError

    def settle(
        self, canvas: Canvas, window: Window, guess: Guess, commit: Bool[Tensor, "b k"], score: Float[Tensor, "b k"],
        state: State, /,
    ) -> Bool[Tensor, "b k"]:  # fmt: skip
        """Choose which of the slots that a policy commits may be committed together: at least one of each row's."""
        return commit


class Model:
    """Base class of models: a model family as the loop sees it. Only here is it known how logits and columns relate.

    A model needs `geometry`, `vocabulary`, `device`, `store`, `forward` and `head`; everything else has a default.

    Attributes:
        geometry: How columns attend.
        vocabulary: Logits of a column.
        needs_left: 1 if the output at column i - 1 predicts column i (token shift), else 0.
        mask_id: The mask token; never proposed as an answer. None where there is none.
        stop_ids: Tokens that end a text.
        max_columns: Longest canvas that the positions allow.
        tokenizer: The checkpoint's tokenizer, or None.
        family: Name of the model's family, which has a default recipe; "" for none.
        name: Where the model came from.
        forward_overhead_columns: Columns that cost about as much as one more forward. Where more padding than that is
            saved, rows with much to run go through the model apart from those with little. None: always together.
        undivided_columns: Rows that run no more columns than that always go through the model together.
        chunk: Most columns of a row that are run at once while a finished text is stored. None: any number.
        lanes: Forwards of the network in one forward of the model, which all count as queries.
    """

    geometry: Geometry
    vocabulary: int
    needs_left: int = 0
    mask_id: int | None = None
    stop_ids: tuple[int, ...] = ()
    max_columns: int = 2**31
    tokenizer: Any = None
    family: str = ""
    name: str = ""
    forward_overhead_columns: int | None = None
    undivided_columns: int = 0
    chunk: int | None = None
    lanes: int = 1

    @property
    def device(self) -> torch.device:
        """Device on which the model expects tokens."""
        return torch.device("cpu")

    def store(self, columns: int) -> Store:
        """Make an empty store for rows of up to `columns` columns.

        Raises:
            ConfigError: The model keeps no keys and values, so that only `NoCache` works.
        """
        raise ConfigError(f"{type(self).__name__} keeps no keys and values: use NoCache()")

    def forward(self, query: Query, store: Any | None) -> Float[Tensor, "r q d"]:
        """Compute hidden states. Keys and values go into `store` and are read from it, unless it is None."""
        raise NotImplementedError

    def forward_with_probes(
        self, query: Query, store: Any | None, probes: tuple[Probe, ...], columns: int
    ) -> tuple[Float[Tensor, "r q d"], Mapping[Probe, Tensor]]:
        """Compute hidden states as `forward` does, and fill probes.

        Args:
            query: As in `forward`.
            store: As in `forward`.
            probes: Probes to fill.
            columns: Width t of the canvas.

        Raises:
            ConfigError: The model shows nothing of its inside.
        """
        raise ConfigError(f"{probes[0]}: {type(self).__name__} shows nothing of its inside; use another policy")

    def head(self, hidden: Float[Tensor, "n d"]) -> Float[Tensor, "n v"]:
        """Compute logits of hidden states. They are the loop's to overwrite."""
        raise NotImplementedError

    def with_block(self, size: int) -> Model:
        """Make the same model with attention blocks of `size` columns; the weights are shared.

        Raises:
            ConfigError: The model has no attention blocks.
        """
        geometry = self.geometry.with_block(size)
        model = copy.copy(self)
        model.geometry = geometry
        return model


@runtime_checkable
class CausalModel(Protocol):
    """A plain causal model, which writes one token a forward from left to right."""

    def generate(self, prompts: Any, *how: Any, **more: Any) -> list[list[int]]:
        """Generate the output ids of prompts."""
        ...
