"""From hidden states to a guess: one pass over the vocabulary, for pending columns only, in float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from transformers import LogitsProcessorList, TopKLogitsWarper, TopPLogitsWarper

from dllm.errors import ConfigError
from dllm.remembered import Remembered
from dllm.transfer import to_device
from dllm.types import LEAST, Canvas, Guess, Processor, Rows, Seen, Signal, State, Where, Window

CHUNK = 2**24
"""Most logits that exist at a time on a CPU; more columns are worked through in chunks."""

CHUNK_ON_CUDA = 2**27
"""The same on CUDA, where every chunk is some thirty launches more."""

GROUP = 128
"""Tokens of the vocabulary that are compared by their maximum first."""

LOG2_E = 1 / math.log(2)

LIMIT = 1e8
"""Largest size of a logit that a processor may make: beyond, float32 could not tell them apart any more."""

HOT = 1e3
"""Temperature from which on a logit of `LEAST` would have a chance."""

READERS = Signal.PROBABILITIES | Signal.ENTROPY | Signal.CURRENT
"""What a policy asks for that needs the logits once more."""

HEADROOM = 15
"""The power of two that stands for the largest logit: the smallest then stay clear of subnormal numbers, which are
slow, and the exponents near the largest keep all the precision that matters."""

Warper = Callable[[Tensor, Tensor], Tensor]
"""A logits processor of `transformers`."""


@dataclass(frozen=True)
class Sampling:
    """How a candidate is drawn from a marginal.

    temperature  0: the arg-max; otherwise logits are divided by it
    top_k        keep the k likeliest tokens (0: all)
    top_p        then keep the smallest set of likeliest tokens whose probability reaches top_p (1: all)
    tempered     the candidate's confidence is its probability after temperature and filters (Dream, Fast-dLLM v2,
                 SDAR) instead of the model's own (LLaDA)
    processors   applied to the logits in order: each a `Processor`, or a logits processor of `transformers`, which
                 sees for every column the canvas left of that column, where pending columns hold the mask id

    With a temperature, a policy that prefers confident candidates (`Confidence`, as published) lets the draw choose the
    order and so prefers likely tokens: even one token at a time that is not exact sampling. With a score that looks at
    the marginal alone (`NegativeEntropy`, `Margin`, `LeftToRight`, `Random`) it is.

    A row's draws depend on its seed, the number of its windows so far and the column alone: neighbours, padding and the
    cache cannot change them.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    tempered: bool = False
    processors: tuple[Processor | Warper, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"Sampling(temperature={self.temperature}): temperature must be 0 or a positive number")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"Sampling(top_p={self.top_p}): top_p must lie in (0, 1]")
        if self.top_k < 0:
            raise ConfigError(f"Sampling(top_k={self.top_k}): top_k must be 0 (off) or more")
        if self.temperature == 0 and (self.top_k or self.top_p < 1):
            raise ConfigError(
                f"{self}: top_k and top_p filter what is sampled, but temperature 0 takes the arg-max; "
                "set a temperature above 0"
            )

    def filters(self) -> LogitsProcessorList:
        filters = LogitsProcessorList()
        if self.top_k:
            filters.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1:
            filters.append(TopPLogitsWarper(self.top_p))
        return filters


def _chunk(device: torch.device) -> int:
    """Most logits that exist at a time on a device."""
    return CHUNK_ON_CUDA if device.type == "cuda" else CHUNK


@dataclass(frozen=True)
class Proposer:
    """How hidden states become guesses: what stays the same from step to step.

    head        logits (n, v) of hidden states (n, d)
    needs       what the policy asks for
    """

    head: Callable[[Tensor], Tensor]
    sampling: Sampling
    needs: Signal
    mask_id: int | None
    vocabulary: int
    guarded: Remembered[bool] = field(init=False, compare=False, default_factory=lambda: Remembered(guards))

    def init(self, canvas: Canvas, model: Any) -> tuple[State, ...]:
        """What the processors remember at first."""
        return tuple(p.init(canvas, model) if isinstance(p, Processor) else None for p in self.sampling.processors)

    def step(
        self, seen: Seen, canvas: Canvas, window: Window, draws: Tensor, states: tuple[State, ...]
    ) -> tuple[Guess, tuple[State, ...]]:
        """The guess for a window from its hidden states (b, k, d); `draws` (b,) counts each row's windows.

        Only the window's slots get logits. The mask id is never a candidate, though its probability stays in the
        marginal; nor is an end token in a hole.
        """
        b, k = window.columns.shape
        where = Where(canvas, window, draws, window.slots, window.host_slots)
        hidden = seen.hidden.flatten(0, 1).index_select(0, window.slots)
        parts = []
        size = max(1, _chunk(hidden.device) // self.vocabulary)
        n = hidden.shape[0]
        for begin in range(0, n, size):
            span = slice(begin, begin + size)
            here, states_here = (where, hidden) if n <= size else (where.part(span), hidden[span])
            logits = self.head(states_here).float()
            if self.guarded(canvas.rows):
                logits = without_ends(logits, here, canvas)
            if self.sampling.processors:
                logits, states = self.process(logits, here, canvas, states)
            parts.append(guess_slots(logits, here, self.sampling, self.needs, self.mask_id))
        if not parts:
            return nothing(b, k, seen.hidden.device), states

        guess = spread(parts[0] if len(parts) == 1 else joined(parts), window.slots, b, k)
        if seen.shadow is not None:
            guess = guess._replace(shadow=self.shadow(seen.shadow, canvas, window))
        return guess, states

    def process(
        self, logits: Tensor, where: Where, canvas: Canvas, states: tuple[State, ...]
    ) -> tuple[Tensor, tuple[State, ...]]:
        """Logits (n, v) after all processors, minus infinity or `LIMIT` in size at most, and what these remember."""
        after = []
        for processor, state in zip(self.sampling.processors, states, strict=True):
            if isinstance(processor, Processor):
                logits, state = processor.step(logits, where, canvas, state)
            else:
                logits = warp(processor, logits, where, canvas)
            after.append(state)
        bounded = logits.clamp(-LIMIT, LIMIT)
        return torch.where(logits == -torch.inf, logits, bounded), tuple(after)

    def shadow(self, hidden: Tensor, canvas: Canvas, window: Window) -> Tensor:
        """Probability (b, k) of the tokens that decided slots hold, from the states (b, k, d) that do not see them."""
        assert window.answer is not None
        decided = window.answer & ~window.pending
        states = rearrange(hidden, "b k d -> (b k) d")[window.slots]
        tokens = window.take(canvas.tokens).flatten()[window.slots]
        size = max(1, _chunk(states.device) // self.vocabulary)
        parts = [
            self.head(some).float().log_softmax(-1).gather(-1, theirs.unsqueeze(-1)).squeeze(-1).exp()
            for some, theirs in zip(states.split(size), tokens.split(size), strict=True)
        ]
        chance = torch.cat(parts)
        full = chance.new_zeros(decided.numel()).index_copy_(0, window.slots, chance)
        return torch.where(decided, full.unflatten(0, decided.shape), 0)

    def settle(
        self, canvas: Canvas, window: Window, guess: Guess, commit: Tensor, score: Tensor, states: tuple[State, ...]
    ) -> Tensor:
        """The slots (b, k) of a commit that every processor lets go together."""
        for processor, state in zip(self.sampling.processors, states, strict=True):
            if hasattr(processor, "settle"):
                commit = processor.settle(canvas, window, guess, commit, score, state)
        return commit


def guess_slots(logits: Tensor, where: Where, sampling: Sampling, needs: Signal, mask_id: int | None) -> Guess:
    """The guess for n slots from their logits (n, v) float32, as planes (n,)."""
    if mask_id is not None:
        mask = logits.narrow(1, mask_id, 1)
        own = mask.clone()
        mask.fill_(-torch.inf)
    first, second, mode = two_best(logits)
    peak = first
    if mask_id is not None:
        mask.copy_(own)
        peak = torch.maximum(first, own)
    plain = needs is Signal.NONE and not sampling.temperature
    scale = scale_of(logits, peak, spend=plain or not (sampling.temperature or needs & READERS))
    p1, p2 = scale.probability(first).view(-1), scale.probability(second).view(-1)
    guess = Guess(mode, p1, mode, p1, p2)
    return guess if plain else guess_more(guess, logits, scale, where, sampling, needs, mask_id)


def guess_more(
    guess: Guess, logits: Tensor, scale: Scale, where: Where, sampling: Sampling, needs: Signal, mask_id: int | None
) -> Guess:
    """The guess with all that the policy asks for, and with a sampled candidate if there is a temperature."""
    if needs & (Signal.PROBABILITIES | Signal.ENTROPY):
        probabilities = scale.probability(logits)
        if Signal.ENTROPY in needs:
            guess = guess._replace(entropy=torch.special.entr(probabilities).sum(-1))
        if Signal.PROBABILITIES in needs:
            guess = guess._replace(probabilities=probabilities)
    if Signal.CURRENT in needs:
        current = scale.probability(logits.gather(-1, where.token.unsqueeze(-1))).squeeze(-1)
        guess = guess._replace(current=torch.where(where.pending, 0, current))
    if Signal.NOISE in needs:
        guess = guess._replace(noise=uniform(where, stream=1).float())
    if not sampling.temperature:
        return guess
    if mask_id is not None:
        logits[:, mask_id] = -torch.inf
    if sampling.temperature > HOT:
        ruled_out = logits <= LEAST
        logits = logits.masked_fill(ruled_out & ~ruled_out.all(1, keepdim=True), -torch.inf)
    tokens, confidence = draw(logits, scale, where, sampling)
    return guess._replace(
        tokens=torch.where(where.greedy, guess.mode, tokens), confidence=torch.where(where.greedy, guess.p1, confidence)
    )


def two_best(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The largest and the second largest logit (n, 1), and the token (n,) of the largest (any, if several are).

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


class Scale(NamedTuple):
    """How logits become probabilities: 2 ** (LOG2_E * logits + shift) / total, or e ** (logits + shift) / total.

    Powers of two cost less than those of e; but where a product and a sum are rounded twice, large logits would lose
    too much.

    In float32 this errs by a few units in the last place, however large the logits are (up to 1e8); with a logarithm in
    between, as `log_softmax` has it, the error grows with them.

    shift  (n, 1)
    total  (n, 1)
    fused  powers of two
    """

    shift: Tensor
    total: Tensor
    fused: bool

    def probability(self, logits: Tensor) -> Tensor:
        """Probabilities (n, …) of some logits (n, …)."""
        return powers(logits, self.shift, self.fused).div_(self.total)


def powers(logits: Tensor, shift: Tensor, fused: bool, out: Tensor | None = None) -> Tensor:
    """2 ** (LOG2_E * logits + shift), rounded once before the power is taken, or e ** (logits + shift)."""
    if fused:
        return torch.add(shift, logits, alpha=LOG2_E, out=out).exp2_()
    return torch.add(shift, logits, out=out).exp_()


@cache
def fuses(device: torch.device) -> bool:
    """Whether a device rounds a product and the sum it enters once, not twice."""
    x = torch.linspace(1, 100, 97)  # no multiple of a vector's length
    product, factor = x * LOG2_E, torch.tensor(LOG2_E).double()
    found = torch.add(to_device(-product, device), to_device(x, device), alpha=LOG2_E)
    return torch.equal(found.cpu(), (x.double() * factor - product.double()).float())


def scale_of(logits: Tensor, peak: Tensor, *, spend: bool) -> Scale:
    """The scale of logits (n, v) whose largest are `peak` (n, 1).

    spend  the logits may be overwritten: nobody needs them any more
    """
    fused = fuses(logits.device)
    shift = (peak * -LOG2_E).add_(HEADROOM) if fused else -peak
    return Scale(shift, powers(logits, shift, fused, out=logits if spend else None).sum(-1, keepdim=True), fused)


def draw(logits: Tensor, scale: Scale, where: Where, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Sampled tokens (n,) and their confidence (n,), by inverting the cumulative distribution."""
    tempered = sampling.filters()(where.column, logits / sampling.temperature)  # type: ignore[arg-type]
    chances = tempered.softmax(-1)
    total = chances.double().cumsum(-1)
    level = uniform(where, stream=0).unsqueeze(-1) * total[:, -1:]
    tokens = torch.searchsorted(total, level, right=True).clamp(max=logits.shape[-1] - 1)
    chance = chances.gather(-1, tokens) if sampling.tempered else scale.probability(logits.gather(-1, tokens))
    return tokens.squeeze(-1), chance.squeeze(-1)


def guards(rows: Rows) -> bool:
    """Whether there is anything that `without_ends` would rule out."""
    return rows.stops is not None and rows.stops.shape[1] > 0 and not torch.equal(rows.text, rows.prompt)


def without_ends(logits: Tensor, where: Where, canvas: Canvas) -> Tensor:
    """Logits (n, v) without the row's end tokens in columns that have given ones behind them: there no text ends."""
    rows, v = canvas.rows, logits.shape[1]
    assert rows.stops is not None
    hole = where.column < to_device(rows.text, logits.device)[where.row]
    stops = to_device(rows.stops, logits.device)[where.row]
    ends = torch.zeros(len(logits), v + 1, dtype=torch.bool, device=logits.device)
    ends.scatter_(1, torch.where(stops < 0, v, stops), rearrange(hole, "n -> n 1").expand_as(stops))
    return logits.masked_fill(ends[:, :v], LEAST)


def warp(warper: Warper, logits: Tensor, where: Where, canvas: Canvas) -> Tensor:
    """Logits (n, v) after a processor of `transformers`; slots at one column share a call, since their prefixes are as
    long."""
    out = logits.clone()
    columns = where.on_host.column
    for column in columns.unique().tolist():
        here = to_device((columns == column).nonzero().squeeze(-1), logits.device)
        out[here] = warper(canvas.tokens[where.row[here], :column], logits[here]).to(out.dtype)
    return out


def uniform(where: Where, stream: int) -> Tensor:
    """One number in [0, 1) per slot (n,) float64, a hash of seed, window, column and stream (splitmix64's mixer)."""
    x = where.seed * 0x1E3779B97F4A7C15 + where.draw * 0x3F58476D1CE4E5B9 + where.column * 0x14D049BB133111EB + stream
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 1)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return ((x >> 11) & ((1 << 53) - 1)).double() * 2.0**-53


def joined(parts: Sequence[Guess]) -> Guess:
    """The planes of all chunks as one; what is the same plane stays the same."""
    made: dict[tuple[int, ...], Tensor] = {}
    planes = []
    for some in zip(*parts, strict=True):
        key = tuple(map(id, some))
        if some[0] is not None and key not in made:
            made[key] = torch.cat(some)
        planes.append(made.get(key))
    return Guess(*planes)  # type: ignore[arg-type]


def spread(guess: Guess, slots: Tensor, b: int, k: int) -> Guess:
    """The planes (n, …) of some slots as (b, k, …), zeros elsewhere; what is the same plane stays the same."""
    full: dict[int, Tensor] = {}
    for plane in guess:
        if plane is not None and id(plane) not in full:
            rest = plane.shape[1:]
            full[id(plane)] = plane.new_zeros(b * k, *rest).index_copy_(0, slots, plane).view(b, k, *rest)
    return Guess(*(None if plane is None else full[id(plane)] for plane in guess))  # type: ignore[arg-type]


def nothing(b: int, k: int, device: torch.device) -> Guess:
    """The guess where no slot is pending."""
    zeros = torch.zeros(b, k, device=device)
    return Guess(zeros.long(), zeros, zeros.long(), zeros, zeros, zeros, None, zeros, zeros, zeros)
