"""Choice of the fastest strategy that keeps accuracy, from the cells of a sweep, with the certainty of that choice."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dllm.errors import ConfigError
from dllm.sweeps.intervals import probability_of_keeping, probability_of_reaching

SEQUENTIAL = {"name": "sequential", "policy": "top-k", "k": 1, "cache": "none"}
"""Strategy that others are compared with: the most confident token of every step, nothing reused."""
CANDIDATES: list[dict[str, Any]] = [
    {"policy": "threshold", "tau": [0.95, 0.9, 0.8, 0.7], "cache": ["prefix", "dual"]},
    {"policy": "factor", "f": [0.5, 1.0, 2.0], "cache": ["prefix", "dual"]},
    {"policy": ["entropy-bound(gamma=0.1)", "entropy-bound(gamma=0.5)"], "cache": ["prefix", "dual"]},
]
"""Strategies that `dllm tune` tries by default, written as in the file of a sweep."""
SPEEDS = ("tokens_per_second", "tokens_per_forward")
"""Measures of speed by which a strategy can be chosen."""
MISSING = "no cell of the strategy that the others are compared with"


@dataclass(frozen=True)
class StrategyChoice:
    """A strategy that was chosen on questions with known answers.

    Attributes:
        row: Its row of the table.
        baseline: Row of the sequential strategy; None if a target was given and there is no such row.
        chance: Probability that its true accuracy is high enough, judged by these questions alone.
        gained: Number of questions that only this strategy answers, and not the sequential one.
        lost: Number of questions that only the sequential strategy answers.
        tried: Number of strategies it was chosen from. The best of many looks better than it is.
    """

    row: Mapping[str, Any]
    baseline: Mapping[str, Any] | None
    chance: float
    gained: int
    lost: int
    tried: int

    @property
    def speedup(self) -> float | None:
        """Tokens per second divided by those of the sequential strategy; None if these are not known."""
        before = self.baseline["tokens_per_second"] if self.baseline else 0
        return self.row["tokens_per_second"] / before if before else None


def choose_strategy(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    tolerance: float | None = None,
    target: float | None = None,
    speed: str = SPEEDS[0],
    confidence: float = 0.0,
    baseline: str = "sequential",
) -> StrategyChoice:
    """Choose the fastest of the rows that are accurate enough.

    Args:
        folder: Folder of the sweep, with the samples of the rows.
        rows: Rows of a sweep's table, all of one model and one set of prompts.
        tolerance: Largest amount by which accuracy may lie below that of the sequential strategy. Exactly one of this
            and `target` is given.
        target: Least accuracy.
        speed: Measure of speed, of `SPEEDS`.
        confidence: Least `StrategyChoice.chance` that a strategy needs besides; 0: the counts alone decide.
        baseline: Name of the sequential strategy's row.

    Raises:
        ConfigError: No row is accurate enough, no question has a known answer, or the arguments do not fit each other.
    """
    if (tolerance is None) == (target is None):
        raise ConfigError("give one of --tolerance and --target-accuracy")
    if speed not in SPEEDS:
        raise ConfigError(f"speed {speed!r}: choose from {', '.join(SPEEDS)}")
    scored = [row for row in rows if row["scored"]]
    if not scored:
        raise ConfigError("no question has an answer: give rows an `answer`")
    if len(groups := {(row["model"], row["prompts"]) for row in scored}) > 1:
        raise ConfigError(f"cells of {len(groups)} models or sets of prompts: choose for one of each at a time")
    first = next((row for row in scored if row["name"] == baseline), None)
    if first is None and tolerance is not None:
        raise ConfigError(f"{MISSING} ({baseline})")
    choices = [_assess_row(folder, row, first, tolerance, target, len(scored)) for row in scored]
    accurate = [c for c in choices if _is_accurate_enough(c, first, tolerance, target) and c.chance >= confidence]
    if not accurate:
        best = max(choices, key=lambda c: c.row["accuracy"])
        aim = f"accuracy {target}" if tolerance is None else f"within {tolerance} of {first['accuracy']:.3f}"  # type: ignore[index]
        sure = f" with a chance of {confidence:.0%}" if confidence else ""
        raise ConfigError(
            f"none of {len(scored)} strategies is {aim}{sure}: the best, {best.row['name']}, has "
            f"{best.row['accuracy']:.3f} and a chance of {best.chance:.0%}; ask for less, or give more questions"
        )
    return max(accurate, key=lambda c: (c.row[speed], c.row["accuracy"]))


def _is_accurate_enough(
    choice: StrategyChoice, first: Mapping[str, Any] | None, tolerance: float | None, target: float | None
) -> bool:
    """Return whether the counts alone say that a strategy is accurate enough."""
    if target is not None:
        return bool(choice.row["accuracy"] >= target)
    assert first is not None and tolerance is not None
    # 1e-12: a difference of exactly `tolerance` must pass, although the subtraction of two shares is rounded.
    return bool(choice.row["accuracy"] >= first["accuracy"] - tolerance - 1e-12)


def _assess_row(
    folder: Path,
    row: Mapping[str, Any],
    first: Mapping[str, Any] | None,
    tolerance: float | None,
    target: float | None,
    tried: int,
) -> StrategyChoice:
    """Judge the accuracy of a row by itself, or by comparison with the sequential row `first`."""
    gained, lost = (0, 0) if first is None else _count_gained_and_lost(folder, row, first)
    if target is not None:
        chance = probability_of_reaching(row["correct"], row["scored"], target)
    else:
        chance = 1.0 if row is first else probability_of_keeping(gained, lost, row["scored"], tolerance or 0.0)
    return StrategyChoice(row, first, chance, gained, lost, tried)


def _count_gained_and_lost(folder: Path, row: Mapping[str, Any], first: Mapping[str, Any]) -> tuple[int, int]:
    """Count the questions that only `row` answers, and those that only `first` answers."""
    own, baseline = _read_correctness(folder / row["samples"]), _read_correctness(folder / first["samples"])
    gained = sum(right and not baseline.get(name, False) for name, right in own.items())
    lost = sum(right and not own.get(name, False) for name, right in baseline.items())
    return gained, lost


def _read_correctness(path: Path) -> dict[tuple[str, str], bool]:
    """Read from the file of a cell's samples which of them are right, by type and text of their ids."""
    try:
        samples = [json.loads(line) for line in path.read_bytes().splitlines()]
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; it belongs to the table") from None
    return {(type(r["id"]).__name__, str(r["id"])): r["correct"] is True for r in samples}


def format_decode_command(row: Mapping[str, Any], model: str, raw: bool = False) -> str:
    """Format the `dllm decode` command that decodes with the strategy of a row of a table.

    Args:
        row: The row.
        model: Value of `--model`.
        raw: Whether a text is taken as it is, without the chat template.
    """
    words = ["dllm", "decode", "…", "--model", model]
    for name, value in row["options"].items():
        words += format_flag(name, value)
    words += ["--max-new-tokens", str(row["max_new_tokens"]), *(["--raw"] if raw else [])]
    return shlex.join(words)


def format_flag(name: str, value: Any) -> list[str]:
    """Format an option as words of the command line."""
    if name == "stop_ids":  # an empty list of end tokens means that none is heeded
        return [word for one in value for word in ("--stop-id", str(one))] or ["--ignore-eos"]
    if name == "recipe" and str(value).lstrip().startswith("Strategy("):
        return ["--strategy", value]
    option = "--" + name.replace("_", "-")
    if isinstance(value, list | tuple):
        return [word for one in value for word in (option, str(one))]
    return [option, str(value)] if value is not None else []
