"""From hidden states to a guess: one pass over the vocabulary, for the slots of a window only, in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from dllm.engine.memo import IdentityMemo
from dllm.errors import ConfigError
from dllm.signals import Shadow, uniform_noise
from dllm.strategy import Sampling, Warper
from dllm.transfer import to_device
from dllm.types import (
    LEAST,
    LOG2_E,
    Canvas,
    Guess,
    LogitScale,
    Model,
    Probe,
    Processor,
    Rows,
    Seen,
    Signal,
    State,
    Where,
    Window,
    exponentiate,
)

CHUNK = 2**24
"""Most logits that exist at a time on a CPU; more columns are worked through in chunks."""

CHUNK_ON_CUDA = 2**27
"""The same on CUDA, where every chunk is some thirty launches more."""

GROUP = 128
"""Tokens of the vocabulary that are compared by their maximum first."""

LIMIT = 1e8
"""Largest size of a logit that a processor may make: beyond, float32 could not tell them apart any more."""

HOT = 1e3
"""Temperature from which on a logit of `LEAST` would have a chance."""

HEADROOM = 15
"""Power of two that stands for the largest logit: the smallest then stay clear of subnormal numbers, which are slow,
and the exponents near the largest keep all the precision that matters."""


@dataclass(frozen=True, eq=False)
class SlotGuess:
    """A guess for n slots: the planes of `Guess` before they are laid out in the window."""

    tokens: Int[Tensor, " n"]
    confidence: Float[Tensor, " n"]
    mode: Int[Tensor, " n"]
    p1: Float[Tensor, " n"]
    p2: Float[Tensor, " n"]
    signals: Mapping[Signal, Tensor]


def _max_logits(device: torch.device) -> int:
    """Most logits that exist at a time on a device."""
    return CHUNK_ON_CUDA if device.type == "cuda" else CHUNK


@dataclass(frozen=True)
class Proposer:
    """Make guesses of hidden states: what stays the same from step to step.

    Attributes:
        head: Computes logits (n, v) of hidden states (n, d).
        sampling: How candidates are drawn.
        needs: Signals and probes that the policy asks for.
        mask_id: The mask token, which is no candidate.
        vocabulary: Logits of a slot.
    """

    head: Callable[[Tensor], Tensor]
    sampling: Sampling
    needs: tuple[Signal | Probe, ...]
    mask_id: int | None
    vocabulary: int
    _guards: IdentityMemo[bool] = field(init=False, compare=False, default_factory=lambda: IdentityMemo(_guards_ends))

    @cached_property
    def signals(self) -> tuple[Signal, ...]:
        """Signals that are computed from the logits of the window."""
        return tuple(need for need in dict.fromkeys(self.needs) if isinstance(need, Signal) and need != Shadow())

    def init(self, canvas: Canvas, model: Model) -> tuple[State, ...]:
        """Make the processors' states before the first step."""
        return tuple(p.init(canvas, model) if isinstance(p, Processor) else None for p in self.sampling.processors)

    def step(
        self, seen: Seen, canvas: Canvas, window: Window, num_windows: Int[Tensor, " b"], states: tuple[State, ...]
    ) -> tuple[Guess, tuple[State, ...]]:
        """Guess a window from its hidden states.

        Only the window's slots get logits. The mask id is never a candidate, though its probability stays in the
        marginal; nor is an end token in a hole.

        Args:
            seen: What the forward showed.
            canvas: The canvas before the step.
            window: The window.
            num_windows: Windows of each row so far (host).
            states: What the processors remember.
        """
        b, k = window.columns.shape
        where = Where(canvas, window, num_windows, window.slots, self.mask_id, window.host_slots)
        hidden = seen.hidden.flatten(0, 1).index_select(0, window.slots)
        signals = self.signals
        parts = []
        for here, some in self._split_into_chunks(where, hidden):
            logits = self.head(some).float()
            if self._guards(canvas.rows):
                logits = _forbid_ends_in_holes(logits, here, canvas)
            if self.sampling.processors:
                logits, states = self._process(logits, here, canvas, states)
            parts.append(guess_from_logits(logits, here, self.sampling, signals))
        if parts:
            guess = _scatter_to_window(parts[0] if len(parts) == 1 else _join_guesses(parts), window.slots, b, k)
        else:
            guess = self._guess_nothing(where, b, k)
        if seen.probes or seen.shadow is not None:
            more = dict(guess.signals)
            more.update(seen.probes.items())
            if seen.shadow is not None:
                more[Shadow()] = self._shadow(seen.shadow, where)
            guess = replace(guess, signals=more)
        return guess, states

    def _guess_nothing(self, where: Where, b: int, k: int) -> Guess:
        """Make the guess where no slot got logits: zeros, of the shapes that the signals have."""
        logits = torch.zeros(0, self.vocabulary, device=where.slots.device)
        plane = logits.new_zeros(0)
        scale = LogitScale(logits[:, :1], logits[:, :1], False)
        signals = _compute_signals(self.signals, logits, where, scale)
        return _scatter_to_window(SlotGuess(where.slots, plane, where.slots, plane, plane, signals), where.slots, b, k)

    def _split_into_chunks(
        self, where: Where, hidden: Float[Tensor, "n d"]
    ) -> Sequence[tuple[Where, Float[Tensor, "m d"]]]:
        """Cut slots into chunks whose logits fit in memory."""
        size, n = max(1, _max_logits(hidden.device) // self.vocabulary), hidden.shape[0]
        if n <= size:
            return [(where, hidden)] if n else []
        spans = [slice(begin, begin + size) for begin in range(0, n, size)]
        return [(where.slice(span), hidden[span]) for span in spans]

    def _process(
        self, logits: Float[Tensor, "n v"], where: Where, canvas: Canvas, states: tuple[State, ...]
    ) -> tuple[Float[Tensor, "n v"], tuple[State, ...]]:
        """Apply all processors. What they return is minus infinity, or `LIMIT` in size at most."""
        after = []
        for processor, state in zip(self.sampling.processors, states, strict=True):
            if isinstance(processor, Processor):
                logits, state = processor.step(logits, where, canvas, state)
            else:
                logits = _apply_warper(processor, logits, where, canvas)
            after.append(state)
        bounded = logits.clamp(-LIMIT, LIMIT)
        return torch.where(logits == -torch.inf, logits, bounded), tuple(after)

    def _shadow(self, hidden: Float[Tensor, "b k d"], where: Where) -> Float[Tensor, "b k"]:
        """Compute `Shadow` from the states that do not see their own slot."""
        states = rearrange(hidden, "b k d -> (b k) d")[where.slots]
        scale = LogitScale(states[:, :1], states[:, :1], False)  # not read by this signal
        parts = [Shadow().compute(self.head(some).float(), here, scale)
                 for here, some in self._split_into_chunks(where, states)]  # fmt: skip
        b, k = hidden.shape[:2]
        full = hidden.new_zeros(b * k, dtype=torch.float32)
        return (full.index_copy_(0, where.slots, torch.cat(parts)) if parts else full).view(b, k)

    def settle(
        self,
        canvas: Canvas,
        window: Window,
        guess: Guess,
        commit: Bool[Tensor, "b k"],
        score: Float[Tensor, "b k"],
        states: tuple[State, ...],
    ) -> Bool[Tensor, "b k"]:
        """Choose the slots of a commit that every processor lets go together."""
        for processor, state in zip(self.sampling.processors, states, strict=True):
            if isinstance(processor, Processor):
                commit = processor.settle(canvas, window, guess, commit, score, state)
        return commit


def guess_from_logits(
    logits: Float[Tensor, "n v"], where: Where, sampling: Sampling, signals: tuple[Signal, ...]
) -> SlotGuess:
    """Guess n slots from their logits, which are overwritten."""
    mask_id = where.mask_id
    if mask_id is not None:
        mask = logits.narrow(1, mask_id, 1)
        own = mask.clone()
        mask.fill_(-torch.inf)
    first, second, mode = two_largest(logits)
    peak = first
    if mask_id is not None:
        mask.copy_(own)
        peak = torch.maximum(first, own)
    reread = sampling.temperature > 0 or any(signal.reads_logits for signal in signals)
    scale = measure_scale(logits, peak, spend=not reread)
    p1, p2 = scale.probability(first).view(-1), scale.probability(second).view(-1)
    guess = SlotGuess(mode, p1, mode, p1, p2, _compute_signals(signals, logits, where, scale))
    return guess if not sampling.temperature else _sample_candidates(guess, logits, scale, where, sampling)


def _compute_signals(
    signals: tuple[Signal, ...], logits: Float[Tensor, "n v"], where: Where, scale: LogitScale
) -> dict[Signal, Tensor]:
    """Compute signals of n slots.

    Raises:
        ConfigError: A signal gives something else than one value for each slot.
    """
    values = {}
    for signal in signals:
        value = signal.compute(logits, where, scale)
        if not isinstance(value, Tensor) or value.shape[:1] != logits.shape[:1]:
            said = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ConfigError(
                f"{signal}.compute gave {said} for {len(logits)} slots: return a tensor with one value for each slot"
            )
        values[signal] = value
    return values


def _sample_candidates(
    guess: SlotGuess, logits: Float[Tensor, "n v"], scale: LogitScale, where: Where, sampling: Sampling
) -> SlotGuess:
    """Replace the candidates by samples, but where a slot must be decided greedily."""
    if where.mask_id is not None:
        logits[:, where.mask_id] = -torch.inf
    if sampling.temperature > HOT:
        ruled_out = logits <= LEAST
        logits = logits.masked_fill(ruled_out & ~ruled_out.all(1, keepdim=True), -torch.inf)
    tokens, confidence = _sample_tokens(logits, scale, where, sampling)
    return replace(
        guess,
        tokens=torch.where(where.greedy, guess.mode, tokens),
        confidence=torch.where(where.greedy, guess.p1, confidence),
    )


def two_largest(
    logits: Float[Tensor, "n v"],
) -> tuple[Float[Tensor, "n 1"], Float[Tensor, "n 1"], Int[Tensor, " n"]]:
    """Find the largest and the second largest logit, and the token of the largest (any, if several are).

    Maxima are many times cheaper than a selection on a CPU. So the vocabulary is cut in groups: the largest lies in the
    group whose maximum is largest, and the second there too or at the maximum of another one.
    """
    n, v = logits.shape
    if not logits.is_cpu or v % GROUP or v < 4 * GROUP:
        likeliest = logits.topk(2)
        first, second = likeliest.values.split(1, 1)
        return first, second, likeliest.indices.select(1, 0)
    groups = logits.view(n, v // GROUP, GROUP)
    peaks = groups.amax(2)
    group = peaks.argmax(1, keepdim=True)
    first = peaks.gather(1, group)
    members = groups.gather(1, group.unsqueeze(2).expand(n, 1, GROUP)).squeeze(1)
    place = members.argmax(1, keepdim=True)
    peaks.scatter_(1, group, members.scatter_(1, place, -torch.inf).amax(1, keepdim=True))
    second = peaks.amax(1, keepdim=True)
    return first, second, torch.add(place, group, alpha=GROUP).view(-1)


@cache
def _rounds_once(device: torch.device) -> bool:
    """Tell whether a device rounds a product and the sum it enters once, not twice."""
    x = torch.linspace(1, 100, 97)  # no multiple of a vector's length
    product, factor = x * LOG2_E, torch.tensor(LOG2_E).double()
    found = torch.add(to_device(-product, device), to_device(x, device), alpha=LOG2_E)
    return torch.equal(found.cpu(), (x.double() * factor - product.double()).float())


def measure_scale(logits: Float[Tensor, "n v"], peak: Float[Tensor, "n 1"], *, spend: bool) -> LogitScale:
    """Find the normaliser of logits.

    Args:
        logits: Logits of n slots.
        peak: The largest logit of each slot.
        spend: Whether the logits may be overwritten, because they are not needed any more.
    """
    fused = _rounds_once(logits.device)
    shift = (peak * -LOG2_E).add_(HEADROOM) if fused else -peak
    return LogitScale(
        shift, exponentiate(logits, shift, fused, out=logits if spend else None).sum(-1, keepdim=True), fused
    )


def _sample_tokens(
    logits: Float[Tensor, "n v"], scale: LogitScale, where: Where, sampling: Sampling
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """Sample tokens, with their confidence, by inverting the cumulative distribution."""
    tempered = sampling.filters()(where.column, logits / sampling.temperature)  # type: ignore[arg-type]
    chances = tempered.softmax(-1)
    total = chances.double().cumsum(-1)
    level = uniform_noise(where, stream=0).unsqueeze(-1) * total[:, -1:]
    tokens = torch.searchsorted(total, level, right=True).clamp(max=logits.shape[-1] - 1)
    chance = chances.gather(-1, tokens) if sampling.tempered else scale.probability(logits.gather(-1, tokens))
    return tokens.squeeze(-1), chance.squeeze(-1)


def _guards_ends(rows: Rows) -> bool:
    """Tell whether there is anything that `_forbid_ends_in_holes` would rule out."""
    return rows.stops is not None and rows.stops.shape[1] > 0 and not torch.equal(rows.text, rows.prompt)


def _forbid_ends_in_holes(logits: Float[Tensor, "n v"], where: Where, canvas: Canvas) -> Float[Tensor, "n v"]:
    """Rule out the row's end tokens in columns that have given ones behind them: there no text ends."""
    rows, v = canvas.rows, logits.shape[1]
    assert rows.stops is not None
    hole = where.column < to_device(rows.text, logits.device)[where.row]
    stops = to_device(rows.stops, logits.device)[where.row]
    ends = torch.zeros(len(logits), v + 1, dtype=torch.bool, device=logits.device)
    ends.scatter_(1, torch.where(stops < 0, v, stops), rearrange(hole, "n -> n 1").expand_as(stops))
    return logits.masked_fill(ends[:, :v], LEAST)


def _apply_warper(warper: Warper, logits: Float[Tensor, "n v"], where: Where, canvas: Canvas) -> Float[Tensor, "n v"]:
    """Apply a processor of `transformers`; slots at one column share a call, since their prefixes are as long."""
    out = logits.clone()
    columns = where.on_host.column
    for column in columns.unique().tolist():
        here = to_device((columns == column).nonzero().squeeze(-1), logits.device)
        out[here] = warper(canvas.tokens[where.row[here], :column], logits[here]).to(out.dtype)
    return out


def _join_guesses(parts: Sequence[SlotGuess]) -> SlotGuess:
    """Join the planes of all chunks; what is the same plane stays the same."""
    made: dict[tuple[int, ...], Tensor] = {}

    def join(planes: Sequence[Tensor]) -> Tensor:
        key = tuple(map(id, planes))
        if key not in made:
            made[key] = torch.cat(list(planes))
        return made[key]

    return SlotGuess(
        tokens=join([part.tokens for part in parts]),
        confidence=join([part.confidence for part in parts]),
        mode=join([part.mode for part in parts]),
        p1=join([part.p1 for part in parts]),
        p2=join([part.p2 for part in parts]),
        signals={signal: join([part.signals[signal] for part in parts]) for signal in parts[0].signals},
    )


def _scatter_to_window(guess: SlotGuess, slots: Int[Tensor, " n"], b: int, k: int) -> Guess:
    """Lay the planes of some slots out as (b, k, …), zeros elsewhere; what is the same plane stays the same."""
    made: dict[int, Tensor] = {}

    def scatter(plane: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "b k ..."]:
        if id(plane) not in made:
            rest = plane.shape[1:]
            made[id(plane)] = plane.new_zeros(b * k, *rest).index_copy_(0, slots, plane).view(b, k, *rest)
        return made[id(plane)]

    return Guess(
        tokens=scatter(guess.tokens),
        confidence=scatter(guess.confidence),
        mode=scatter(guess.mode),
        p1=scatter(guess.p1),
        p2=scatter(guess.p2),
        signals={signal: scatter(plane) for signal, plane in guess.signals.items()},
    )
