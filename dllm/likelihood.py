"""Likelihoods of texts under a model: estimators that need the model alone, no decoder and no harness.

An estimator turns a prompt and its continuation into passes, rows to run, each a canvas with some columns masked and a
weight for its predictions. All estimators are about the distributions that decoding draws from: the mask id is never
proposed; with bidirectional attention the canvas ends with the continuation; with block-causal attention what follows
it in its last block is masked, as it is while decoding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dllm.errors import ConfigError, NumericsError, RequestError
from dllm.requests import Request
from dllm.transfer import to_device
from dllm.types import Model, Query

SLOTS = 256
"""Columns whose logits exist at a time."""


class PromptContinuation(NamedTuple):
    """A prompt and the continuation whose likelihood is asked for.

    Attributes:
        prompt: Token ids, at least one.
        continuation: Token ids.
    """

    prompt: tuple[int, ...]
    continuation: tuple[int, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        """The prompt and the continuation."""
        return self.prompt + self.continuation


class LikelihoodPass(NamedTuple):
    """One row to run.

    Attributes:
        pair: Number of the pair that it is about.
        tokens: The canvas, with the mask id where it is masked.
        columns: Columns whose true tokens' log-probabilities count.
        weight: Weight of their sum in the pair's total.
        group: Rows of one group are samples of one expectation; -1 for a row that is no sample, whose part is exact.
    """

    pair: int
    tokens: tuple[int, ...]
    columns: tuple[int, ...]
    weight: float
    group: int = -1


class Likelihood(NamedTuple):
    """The likelihood of a continuation.

    Attributes:
        value: Log-probability in nats, or the estimate of a lower bound of it.
        greedy: Whether greedy decoding, one token a step in the estimator's order, writes this continuation. None where
            that was not asked.
        error: Standard error of the value; 0 where nothing was drawn.
        rows: Canvases that were run.
    """

    value: float
    greedy: bool | None
    error: float
    rows: int


@runtime_checkable
class Estimator(Protocol):
    """An estimator chooses the rows that a likelihood is made of.

    Attributes:
        ordered: Whether the rows also show if greedy decoding writes the continuation.
    """

    @property
    def ordered(self) -> bool: ...

    def passes(self, model: Model, index: int, pair: PromptContinuation, /) -> Iterator[LikelihoodPass]:
        """Make the rows to run for a pair, whose number is `index`."""
        ...


@dataclass(frozen=True)
class Sequential:
    """The exact log-likelihood under decoding one token at a time from left to right.

    log p(x | prompt) = sum over i of log p(x_i | prompt, x_<i, masks to the end of what column i sees)

    This is a normalised distribution over continuations of a length. With block-causal attention the blocks before x_i
    are finished and seen as they are, the rest of its block is masked; so it is exact for a block-causal model
    (Fast-dLLM v2, SDAR, BD3-LM) that decodes block by block, and each block from left to right. With blocks of one it
    is the likelihood of a plain causal model.
    It costs a row for each column, but one for all columns whose prediction reads finished blocks only.
    """

    ordered: ClassVar[bool] = True

    def passes(self, model: Model, index: int, pair: PromptContinuation, /) -> Iterator[LikelihoodPass]:
        tokens, n = pair.tokens, len(pair.prompt)
        ends = _visible_ends(model, len(tokens))
        # Column i is predicted at i - needs_left. If all that is seen from there lies left of i, nothing has to be
        # masked, and one row with the true tokens shows all such columns: blocks of one, or the first column of a block
        # under token shift.
        clean = [i for i in range(n, len(tokens)) if ends[i - model.needs_left] <= i]
        if clean:
            yield LikelihoodPass(index, tokens, tuple(clean), 1.0)
        for i in range(n, len(tokens)):
            end = ends[i - model.needs_left]
            if end > i:
                yield LikelihoodPass(index, (*tokens[:i], *[_require_mask_id(model)] * (end - i)), (i,), 1.0)


@dataclass(frozen=True)
class Bound:
    """The bound that masked diffusion is trained on, by Monte Carlo: unbiased, below the log-likelihood on average.

    log p(x | prompt) >= E_l E_S [ (L / l) * sum over i in S of log p(x_i | prompt, x without S) ]

    for a continuation of L tokens, l uniform in 1..L and S uniform among the sets of l of its columns. Equality holds
    for a model whose conditionals are those of one joint distribution. With block-causal attention it is the sum of
    such bounds over the blocks, each given the true blocks before it. The l are drawn in strata, so that N samples
    cover 1..L evenly; where there are no more than `samples` sets in all, each is run once and the bound is exact.

    Attributes:
        samples: Rows for each block (bidirectional attention: for the continuation).
        seed: Seed of the masks; every pair draws from it anew, so that no value depends on what else is asked.

    References:
        Nie et al. 2025, LLaDA (arXiv:2502.09992), equation 6, and its evaluation: 128 samples.
    """

    samples: int = 128
    seed: int = 0
    ordered: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ConfigError(f"Bound(samples={self.samples}): samples must be at least 1")

    def passes(self, model: Model, index: int, pair: PromptContinuation, /) -> Iterator[LikelihoodPass]:
        tokens, n = pair.tokens, len(pair.prompt)
        mask, ends = _require_mask_id(model), _visible_ends(model, len(tokens))
        draw = torch.Generator().manual_seed(self.seed)
        for group, (end, block) in enumerate(itertools.groupby(range(n, len(tokens)), key=lambda i: ends[i])):
            columns = list(block)
            canvas = [*tokens[:end], *[mask] * (end - len(tokens))]
            exact = 2 ** len(columns) - 1 <= self.samples
            for chosen, weight in _weighted_subsets(columns) if exact else self._draw_subsets(columns, draw):
                row = [mask if i in chosen else token for i, token in enumerate(canvas)]
                yield LikelihoodPass(index, tuple(row), chosen, weight, -1 if exact else group)

    def _draw_subsets(self, columns: Sequence[int], draw: torch.Generator) -> Iterator[tuple[tuple[int, ...], float]]:
        """Draw random sets of columns, their sizes spread evenly, with their weights."""
        size, count = len(columns), self.samples
        # One random offset for all samples: sample j takes its size from the j-th of `count` equal parts of 1..size, so
        # that sizes vary less than if each were drawn alone, and each still has the same probability.
        start = float(torch.rand((), generator=draw))
        for j in range(count):
            hidden = 1 + min(size - 1, int((start + j) * size / count))
            chosen = torch.randperm(size, generator=draw)[:hidden].tolist()
            yield tuple(sorted(columns[i] for i in chosen)), size / hidden / count


def _weighted_subsets(columns: Sequence[int]) -> Iterator[tuple[tuple[int, ...], float]]:
    """List every set of columns but the empty one, with its weight in the bound.

    A set of l columns has the weight (L / l) * (1 / L) * (1 / number of sets of that size) = 1 / (l * number).
    """
    for size in range(1, len(columns) + 1):
        for chosen in itertools.combinations(columns, size):
            yield chosen, 1 / (size * math.comb(len(columns), size))


def default_estimator(model: Model, samples: int = 128, seed: int = 0) -> Estimator:
    """Choose the estimator that fits the model's training: exact where blocks follow each other, else the bound."""
    return Bound(samples, seed) if model.geometry.block is None else Sequential()


def estimate_likelihoods(
    model: Model, pairs: Sequence[PromptContinuation], estimator: Estimator, batch_size: int = 32, greedy: bool = True
) -> Iterator[tuple[int, Likelihood]]:
    """Estimate the likelihood of each pair.

    Args:
        model: A model with a mask id.
        pairs: Prompts and continuations.
        estimator: Chooses the rows to run.
        batch_size: Rows that are run together; no value depends on it.
        greedy: Whether to find out also if greedy decoding would write the continuation.

    Yields:
        The number of a pair and its likelihood, in order, as soon as it is known.

    Raises:
        RequestError: The model cannot read a pair; it is raised before any forward.
        NumericsError: Logits are not numbers.
    """
    for pair in pairs:
        _check_continuation(model, pair)
    found: list[list[tuple[LikelihoodPass, float]]] = [[] for _ in pairs]
    same = [True] * len(pairs)
    done = 0

    def result(index: int) -> tuple[int, Likelihood]:
        written = same[index] if estimator.ordered else greedy and _greedy_writes_continuation(model, pairs[index])
        return index, _combine_passes(found[index], written if greedy else None)

    passes = (one for i, pair in enumerate(pairs) if pair.continuation for one in estimator.passes(model, i, pair))
    while batch := list(itertools.islice(passes, batch_size)):
        for one, (scores, right) in zip(batch, _score_passes(model, pairs, batch), strict=True):
            found[one.pair].append((one, float(scores.sum()) * one.weight))
            same[one.pair] &= bool(right.all())
        while done < batch[-1].pair:  # rows come in the order of their pairs
            yield result(done)
            done += 1
    yield from (result(index) for index in range(done, len(pairs)))


def _check_continuation(model: Model, pair: PromptContinuation) -> None:
    """Raise RequestError if the model cannot read a pair."""
    Request(pair.prompt, max(1, len(pair.continuation))).check(model, model.vocabulary)
    if bad := [token for token in pair.continuation if not 0 <= token < model.vocabulary]:
        raise RequestError(
            f"continuation id {bad[0]} is outside the vocabulary of {model.vocabulary}: is this the right tokenizer?"
        )


@torch.inference_mode()
def _score_passes(
    model: Model, pairs: Sequence[PromptContinuation], passes: Sequence[LikelihoodPass]
) -> list[tuple[Float[Tensor, " _"], Bool[Tensor, " _"]]]:
    """Run some rows.

    Returns:
        For each row the log-probability of the true token at each of its columns, and whether no token is likelier.

    Raises:
        NumericsError: Logits are not numbers.
    """
    hidden = model.forward(_build_query(model, pairs, passes), None)
    counts = [len(one.columns) for one in passes]
    row = to_device(torch.repeat_interleave(torch.arange(len(passes)), torch.tensor(counts)), hidden.device)
    columns = to_device(torch.tensor([i for one in passes for i in one.columns]), hidden.device)
    truth = torch.tensor([pairs[one.pair].tokens[i] for one in passes for i in one.columns])
    truth = to_device(truth, hidden.device)
    states = hidden[row, columns - model.needs_left]
    # Logits are as wide as the vocabulary, so only a few columns have theirs at a time.
    parts = [
        _score_true_tokens(model, states[i : i + SLOTS], truth[i : i + SLOTS]) for i in range(0, len(truth), SLOTS)
    ]
    scores, right = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
    if bool(scores.isnan().any()):
        raise NumericsError("the model's logits are not numbers (NaN or infinite): check the weights, or the dtype", [])
    return list(zip(torch.split(scores, counts), torch.split(right, counts), strict=True))


def _score_true_tokens(
    model: Model, states: Float[Tensor, "n d"], truth: Int[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Compute the log-probability of the true tokens from hidden states, and whether they are the likeliest."""
    logits = _candidate_logits(model, states)
    scores = logits.gather(1, rearrange(truth, "n -> n 1"))[:, 0] - logits.logsumexp(1)
    return scores, logits.argmax(1) == truth


def _candidate_logits(model: Model, states: Float[Tensor, "n d"]) -> Float[Tensor, "n v"]:
    """Compute logits in float32, with the mask id ruled out."""
    logits = model.head(states).float()
    if model.mask_id is not None:
        logits[:, model.mask_id] = -torch.inf
    return logits


def _build_query(model: Model, pairs: Sequence[PromptContinuation], passes: Sequence[LikelihoodPass]) -> Query:
    """Build the query for some rows, each as long as its canvas."""
    lengths = torch.tensor([len(one.tokens) for one in passes])
    t, device = int(lengths.max()), model.device
    tokens = torch.tensor([[*one.tokens, *[0] * (t - len(one.tokens))] for one in passes])
    columns = torch.arange(t).expand(len(passes), t)
    valid = columns < rearrange(lengths, "r -> r 1")
    given = columns < torch.tensor([[len(pairs[one.pair].prompt)] for one in passes])
    limits = torch.minimum(model.geometry.visible_end(columns, lengths), rearrange(lengths, "r -> r 1"))
    mask: Tensor | None = torch.arange(t) < rearrange(limits, "r q -> r 1 q 1")
    if bool((limits == t).all()):
        mask = None
    elif model.geometry.block is None:
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


def _combine_passes(found: Sequence[tuple[LikelihoodPass, float]], greedy: bool | None) -> Likelihood:
    """Add up what a pair's rows showed.

    The value is a sum over groups, each a sum of samples that already contain the factor 1 / (number of samples). So a
    group of n samples has the variance n * var(samples), which a single sample leaves unknown.
    """
    variance = 0.0
    drawn = sorted((one.group, value) for one, value in found if one.group >= 0)
    for _, group in itertools.groupby(drawn, key=lambda x: x[0]):
        parts = torch.tensor([value for _, value in group], dtype=torch.float64)
        variance += len(parts) * float(parts.var()) if len(parts) > 1 else math.inf
    return Likelihood(math.fsum(value for _, value in found), greedy, math.sqrt(variance), len(found))


@torch.inference_mode()
def _greedy_writes_continuation(model: Model, pair: PromptContinuation) -> bool:
    """Tell whether greedy decoding, the most confident column first, writes the continuation.

    It decodes only up to the first column where it would write another token.
    """
    ends = _visible_ends(model, len(pair.tokens))
    for end, block in itertools.groupby(range(len(pair.prompt), len(pair.tokens)), key=lambda i: ends[i]):
        open_columns = list(block)
        canvas = [*pair.tokens[: open_columns[0]], *[_require_mask_id(model)] * (end - open_columns[0])]
        while open_columns:
            one = LikelihoodPass(0, tuple(canvas), tuple(open_columns), 1.0)
            hidden = model.forward(_build_query(model, [pair], [one]), None)[0]
            columns = to_device(torch.tensor(open_columns), hidden.device)
            chances, best = _candidate_logits(model, hidden[columns - model.needs_left]).softmax(1).max(1)
            first = int(chances.argmax())
            if int(best[first]) != pair.tokens[open_columns[first]]:
                return False
            canvas[open_columns[first]] = pair.tokens[open_columns[first]]
            del open_columns[first]
    return True


def _visible_ends(model: Model, length: int) -> list[int]:
    """Find the first column that each column of a text does not see; the rest of its last block exists, masked."""
    columns = rearrange(torch.arange(length), "t -> 1 t")
    ends: list[int] = model.geometry.visible_end(columns, torch.tensor([length]))[0].tolist()
    return ends


def _require_mask_id(model: Model) -> int:
    """Return the mask id.

    Raises:
        ConfigError: The model has none.
    """
    if model.mask_id is None:
        raise ConfigError(f"{model.family}: a likelihood is read from masked columns, and this model has no mask id")
    return int(model.mask_id)
