"""How likely a model finds a text: estimators on the model protocol, apart from every decoder and every harness.

An estimator turns a prompt and its continuation into rows to run, each a canvas with some columns masked, and says what
each row's predictions weigh. All of them answer for the distributions that decoding draws from: the mask id is never
proposed; with bidirectional attention the canvas ends with the continuation; with block-causal attention what follows
it in its last block is masked, as it is while decoding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from einops import rearrange
from torch import Tensor

from dllm.errors import ConfigError, NumericsError, RequestError
from dllm.requests import Request
from dllm.transfer import to_device
from dllm.types import Bidirectional, Query

SLOTS = 256
"""Columns whose logits exist at a time."""


class Pair(NamedTuple):
    """A prompt of at least one token, and the continuation that is asked about."""

    prompt: tuple[int, ...]
    continuation: tuple[int, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        return self.prompt + self.continuation


class Look(NamedTuple):
    """One row to run.

    pair     which pair it is about
    tokens   the canvas, with the mask id where it is masked
    columns  those whose true tokens' log-probabilities count
    weight   of their sum in the pair's total
    group    rows of one group are samples of one expectation; -1: the row is no sample, its part is exact
    """

    pair: int
    tokens: tuple[int, ...]
    columns: tuple[int, ...]
    weight: float
    group: int = -1


class Likelihood(NamedTuple):
    """What a model says of a continuation.

    value   log-probability in nats, or the estimate of a lower bound of it
    greedy  whether greedy decoding, one token a step in the estimator's order, writes this continuation; None where
            that was not asked
    error   standard error of the value; 0 where nothing was drawn
    rows    canvases that were run
    """

    value: float
    greedy: bool | None
    error: float
    rows: int


class Estimator(Protocol):
    """Which rows a likelihood is made of."""

    ordered: bool
    """Whether its rows also tell if greedy decoding writes the continuation."""

    def looks(self, model: Any, index: int, pair: Pair, /) -> Iterator[Look]: ...


@dataclass(frozen=True)
class Sequential:
    """The exact log-likelihood under decoding one token at a time from left to right.

    log p(x | prompt) = sum over i of log p(x_i | prompt, x_<i, masks to the end of what column i sees)

    This is a normalised distribution over continuations of a length. With block-causal attention the blocks before x_i
    are finished and seen as they are, the rest of its block is masked; so it is exact for a block-causal model
    (Fast-dLLM v2, SDAR, BD3-LM) that decodes block by block, and each block from left to right. With blocks of one it
    is the likelihood of a plain causal model.
    Costs a row for each column, but one for all whose prediction reads finished blocks only.
    """

    ordered = True

    def looks(self, model: Any, index: int, pair: Pair, /) -> Iterator[Look]:
        tokens, n = pair.tokens, len(pair.prompt)
        ends = seen_ends(model, len(tokens))
        clean = [i for i in range(n, len(tokens)) if ends[i - model.needs_left] <= i]
        if clean:
            yield Look(index, tokens, tuple(clean), 1.0)
        for i in range(n, len(tokens)):
            end = ends[i - model.needs_left]
            if end > i:
                yield Look(index, (*tokens[:i], *[mask_of(model)] * (end - i)), (i,), 1.0)


@dataclass(frozen=True)
class Bound:
    """The bound that masked diffusion is trained on, by Monte Carlo: unbiased, below the log-likelihood on average.

    log p(x | prompt) >= E_l E_S [ (L / l) * sum over i in S of log p(x_i | prompt, x without S) ]

    for a continuation of L tokens, l uniform in 1..L and S uniform among the sets of l of its columns. Equality holds
    for a model whose conditionals are those of one joint distribution. With block-causal attention it is the sum of
    such bounds over the blocks, each given the true blocks before it. The l are drawn in strata, so that N samples
    cover 1..L evenly; where there are no more than `samples` sets in all, each is run once and the bound is exact.

    samples  rows for each block (bidirectional attention: for the continuation)
    seed     of the masks; every pair draws from it anew, so that no value depends on what else is asked

    Reference: Nie et al. 2025, LLaDA (arXiv:2502.09992), equation 6, and its evaluation: 128 samples.
    """

    samples: int = 128
    seed: int = 0
    ordered = False

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ConfigError(f"Bound(samples={self.samples}): samples must be at least 1")

    def looks(self, model: Any, index: int, pair: Pair, /) -> Iterator[Look]:
        tokens, n = pair.tokens, len(pair.prompt)
        mask, ends = mask_of(model), seen_ends(model, len(tokens))
        draw = torch.Generator().manual_seed(self.seed)
        for group, (end, block) in enumerate(itertools.groupby(range(n, len(tokens)), key=lambda i: ends[i])):
            columns = list(block)
            canvas = [*tokens[:end], *[mask] * (end - len(tokens))]
            exact = 2 ** len(columns) - 1 <= self.samples
            for chosen, weight in subsets(columns) if exact else self.draws(columns, draw):
                row = [mask if i in chosen else token for i, token in enumerate(canvas)]
                yield Look(index, tuple(row), chosen, weight, -1 if exact else group)

    def draws(self, columns: Sequence[int], draw: torch.Generator) -> Iterator[tuple[tuple[int, ...], float]]:
        """Random sets of columns, their sizes spread evenly, with their weights."""
        size, count = len(columns), self.samples
        start = float(torch.rand((), generator=draw))
        for j in range(count):
            hidden = 1 + min(size - 1, int((start + j) * size / count))
            chosen = torch.randperm(size, generator=draw)[:hidden].tolist()
            yield tuple(sorted(columns[i] for i in chosen)), size / hidden / count


def subsets(columns: Sequence[int]) -> Iterator[tuple[tuple[int, ...], float]]:
    """Every set of columns but the empty one, with its weight in the bound."""
    for size in range(1, len(columns) + 1):
        for chosen in itertools.combinations(columns, size):
            yield chosen, 1 / (size * math.comb(len(columns), size))


def default_estimator(model: Any, samples: int = 128, seed: int = 0) -> Estimator:
    """The estimator that the model's training suggests: exact where blocks follow each other, else the bound."""
    return Bound(samples, seed) if isinstance(model.geometry, Bidirectional) else Sequential()


def likelihoods(
    model: Any, pairs: Sequence[Pair], estimator: Estimator, batch_size: int = 32, greedy: bool = True
) -> Iterator[tuple[int, Likelihood]]:
    """The likelihood of each pair, as soon as it is known: (its place, what was found).

    batch_size  rows that are run together; no value depends on it
    greedy      also find out whether greedy decoding would write the continuation

    Raises RequestError for a pair that the model cannot read, before any forward; NumericsError for broken logits.
    """
    for pair in pairs:
        check(model, pair)
    found: list[list[tuple[Look, float]]] = [[] for _ in pairs]
    same = [True] * len(pairs)
    told = 0

    def result(index: int) -> tuple[int, Likelihood]:
        asked = same[index] if estimator.ordered else greedy and writes(model, pairs[index])
        return index, total(found[index], asked if greedy else None)

    looks = (look for i, pair in enumerate(pairs) if pair.continuation for look in estimator.looks(model, i, pair))
    while batch := list(itertools.islice(looks, batch_size)):
        for look, (scores, right) in zip(batch, run(model, pairs, batch), strict=True):
            found[look.pair].append((look, float(scores.sum()) * look.weight))
            same[look.pair] &= bool(right.all())
        while told < batch[-1].pair:  # rows come in the order of their pairs
            yield result(told)
            told += 1
    yield from (result(index) for index in range(told, len(pairs)))


def check(model: Any, pair: Pair) -> None:
    """Raise RequestError if the model cannot read a pair."""
    Request(pair.prompt, max(1, len(pair.continuation))).check(model, model.vocabulary)
    if bad := [token for token in pair.continuation if not 0 <= token < model.vocabulary]:
        raise RequestError(
            f"continuation id {bad[0]} is outside the vocabulary of {model.vocabulary}: is this the right tokenizer?"
        )


@torch.inference_mode()
def run(model: Any, pairs: Sequence[Pair], looks: Sequence[Look]) -> list[tuple[Tensor, Tensor]]:
    """For each row: log-probability of the true token at each of its columns, and whether no token is likelier."""
    hidden = model.forward(lay(model, pairs, looks), None)
    counts = [len(look.columns) for look in looks]
    row = to_device(torch.repeat_interleave(torch.arange(len(looks)), torch.tensor(counts)), hidden.device)
    columns = to_device(torch.tensor([i for look in looks for i in look.columns]), hidden.device)
    truth = torch.tensor([pairs[look.pair].tokens[i] for look in looks for i in look.columns])
    truth = to_device(truth, hidden.device)
    states = hidden[row, columns - model.needs_left]
    parts = [judge(model, states[i : i + SLOTS], truth[i : i + SLOTS]) for i in range(0, len(truth), SLOTS)]
    scores, right = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
    if bool(scores.isnan().any()):
        raise NumericsError("the model's logits are not numbers (NaN or infinite): check the weights, or the dtype", [])
    return list(zip(scores.split(counts), right.split(counts), strict=True))


def judge(model: Any, states: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability (n,) of the true tokens, and whether they are the likeliest, from hidden states (n, d)."""
    logits = proposed(model, states)
    scores = logits.gather(1, rearrange(truth, "n -> n 1"))[:, 0] - logits.logsumexp(1)
    return scores, logits.argmax(1) == truth


def proposed(model: Any, states: Tensor) -> Tensor:
    """Logits (n, v) in float32, without the mask id."""
    logits = model.head(states).float()
    if model.mask_id is not None:
        logits[:, model.mask_id] = -torch.inf
    return logits


def lay(model: Any, pairs: Sequence[Pair], looks: Sequence[Look]) -> Query:
    """The query for some rows, each as long as its canvas."""
    lengths = torch.tensor([len(look.tokens) for look in looks])
    t, device = int(lengths.max()), model.device
    tokens = torch.tensor([[*look.tokens, *[0] * (t - len(look.tokens))] for look in looks])
    columns = torch.arange(t).expand(len(looks), t)
    valid = columns < rearrange(lengths, "r -> r 1")
    given = columns < torch.tensor([[len(pairs[look.pair].prompt)] for look in looks])
    limits = torch.minimum(model.geometry.reach(columns, lengths), rearrange(lengths, "r -> r 1"))
    mask: Tensor | None = torch.arange(t) < rearrange(limits, "r q -> r 1 q 1")
    if bool((limits == t).all()):
        mask = None
    elif isinstance(model.geometry, Bidirectional):
        mask = rearrange(valid, "r k -> r 1 1 k")
    start = 0 if bool(valid.all()) else None
    return Query(
        tokens=to_device(tokens, device),
        columns=to_device(columns, device),
        valid=to_device(valid, device),
        width=t,
        mask=None if mask is None else to_device(mask, device),
        start=start,
        given=to_device(given, device),
    )


def total(found: Sequence[tuple[Look, float]], greedy: bool | None) -> Likelihood:
    """The sum of what a pair's rows showed."""
    variance = 0.0
    drawn = sorted((look.group, value) for look, value in found if look.group >= 0)
    for _, group in itertools.groupby(drawn, key=lambda x: x[0]):
        parts = torch.tensor([value for _, value in group], dtype=torch.float64)
        variance += len(parts) * float(parts.var()) if len(parts) > 1 else math.inf
    return Likelihood(math.fsum(value for _, value in found), greedy, math.sqrt(variance), len(found))


@torch.inference_mode()
def writes(model: Any, pair: Pair) -> bool:
    """Whether greedy decoding, the most confident column first, writes the continuation; it ends at the first column
    where it would not."""
    ends = seen_ends(model, len(pair.tokens))
    for end, block in itertools.groupby(range(len(pair.prompt), len(pair.tokens)), key=lambda i: ends[i]):
        open_columns = list(block)
        canvas = [*pair.tokens[: open_columns[0]], *[mask_of(model)] * (end - open_columns[0])]
        while open_columns:
            look = Look(0, tuple(canvas), tuple(open_columns), 1.0)
            hidden = model.forward(lay(model, [pair], [look]), None)[0]
            columns = to_device(torch.tensor(open_columns), hidden.device)
            chances, best = proposed(model, hidden[columns - model.needs_left]).softmax(1).max(1)
            first = int(chances.argmax())
            if int(best[first]) != pair.tokens[open_columns[first]]:
                return False
            canvas[open_columns[first]] = pair.tokens[open_columns[first]]
            del open_columns[first]
    return True


def seen_ends(model: Any, length: int) -> list[int]:
    """For each column of a text, the first column that it does not see; the rest of a block exists, masked."""
    columns = rearrange(torch.arange(length), "t -> 1 t")
    return model.geometry.reach(columns, torch.tensor([length]))[0].tolist()


def mask_of(model: Any) -> int:
    """The mask id. Raises ConfigError where the model has none."""
    if model.mask_id is None:
        raise ConfigError(f"{model.family}: a likelihood is read from masked columns, and this model has no mask id")
    return int(model.mask_id)
