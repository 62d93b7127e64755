"""The score of PC-Sampler: confidence, weighed against a token's frequency and falling off with the position."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from dllm.errors import ConfigError
from dllm.transfer import to_device
from dllm.types import Guess, Probe, Signal, Window

SMOOTHING = 1e-9
"""Added to a frequency before its logarithm is taken, as published."""


@dataclass(frozen=True)
class PositionCalibrated:
    """Confidence calibrated by token frequency and position: exp(-decay i) min(-c log f, clip).

    Here c is the confidence, f the frequency of the candidate, and i its place in the window, counted from 0.

    Frequent tokens (articles, commas, end-of-text), of which a model is easily sure, are held back, and so are late
    columns. A decay of 0 without frequencies is the order of `Confidence()`; a large decay is left to right.

    Attributes:
        decay: Rate at which the score falls per column, 0 or more; published with 0.25, for Sudoku 0, for Countdown
            0.5.
        clip: Largest calibrated confidence, above 0; published with 10.
        frequencies: JSON file {"num_token": N, "p_baseline_dict": {token id: count}}, as PC-Sampler publishes for
            LLaDA. A token that it does not list counts once. None: all tokens are equally frequent, f = 1/e.
        needs: Signals that the score reads; none.

    References:
        Huang et al. 2025, PC-Sampler (arXiv:2508.13021), with `TopK` as its rule.
    """

    decay: float = 0.25
    clip: float = 10.0
    frequencies: str | None = None
    needs: ClassVar[tuple[Signal | Probe, ...]] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.decay < math.inf or not 0 < self.clip < math.inf:
            raise ConfigError(f"{self}: decay must be 0 or more and clip above 0")
        if self.frequencies is not None:
            _read_frequencies(self.frequencies)

    def __call__(self, guess: Guess, window: Window, /) -> Float[Tensor, "b k"]:
        place = window.columns - window.columns[:, :1]
        calibrated = (guess.confidence * self._surprise(guess.tokens)).clamp(max=self.clip)
        return torch.exp(-self.decay * place) * calibrated

    def _surprise(self, tokens: Int[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """Look up -log f of tokens."""
        if self.frequencies is None:
            return torch.ones(tokens.shape, device=tokens.device)
        ids, surprises, unseen = _load_frequencies(self.frequencies, tokens.device)
        place = torch.searchsorted(ids, tokens).clamp(max=len(ids) - 1)
        return torch.where(ids[place] == tokens, surprises[place], unseen)


@functools.cache
def _load_frequencies(path: str, device: torch.device) -> tuple[Tensor, ...]:
    """Copy the result of `_read_frequencies` to a device once; it stays there."""
    return tuple(to_device(x, device) for x in _read_frequencies(path))


@functools.cache
def _read_frequencies(path: str) -> tuple[Int[Tensor, " n"], Float32[Tensor, " n"], Float32[Tensor, ""]]:
    """Read token ids in rising order, the -log f of each, and that of a token not listed.

    Raises:
        ConfigError: The file cannot be read, or holds no usable counts.
    """
    try:
        table = json.loads(Path(path).read_text())
        total = int(table["num_token"])
        counts = sorted((int(token), float(count)) for token, count in table["p_baseline_dict"].items())
        ids, values = torch.tensor([t for t, _ in counts]), torch.tensor([c for _, c in counts], dtype=torch.float64)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"frequencies={path!r}: cannot be read ({error}); give a JSON file "
            '{"num_token": total, "p_baseline_dict": {token id: count}}'
        ) from error
    if not counts or total < 1 or (values < 0).any():
        raise ConfigError(f"frequencies={path!r}: needs counts of 0 or more of at least one token, and their total")
    # The last entry, with a count of one, is the -log f of every token that the file does not list.
    surprise = -torch.log(torch.cat([values, torch.ones(1)]) / total + SMOOTHING).float()
    return ids, surprise[:-1], surprise[-1]
