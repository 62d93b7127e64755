"""The fastest strategy that keeps accuracy, chosen from the cells of a sweep, and how sure that is."""

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
"""What others are compared with: one token a step, the most confident, nothing reused."""
CANDIDATES: list[dict[str, Any]] = [
    {"policy": "threshold", "tau": [0.95, 0.9, 0.8, 0.7], "cache": ["prefix", "dual"]},
    {"policy": "factor", "f": [0.5, 1.0, 2.0], "cache": ["prefix", "dual"]},
    {"policy": ["entropy-bound(gamma=0.1)", "entropy-bound(gamma=0.5)"], "cache": ["prefix", "dual"]},
]
"""What `dllm tune` tries unless it is told otherwise."""
SPEEDS = ("tokens_per_second", "tokens_per_forward")
MISSING = "no cell of the strategy that the others are compared with"


@dataclass(frozen=True)
class StrategyChoice:
    """A strategy that was chosen on questions with known answers.

    row       its row of the table
    baseline  that of the sequential strategy; None where a target was given and there is none
    chance    probability that its true accuracy is what was asked for, from these questions alone
    gained, lost   questions that only it, only the sequential strategy answers
    tried     how many strategies it was chosen from: of many, the luckiest looks better than it is
    """

    row: Mapping[str, Any]
    baseline: Mapping[str, Any] | None
    chance: float
    gained: int
    lost: int
    tried: int

    @property
    def speedup(self) -> float | None:
        """Tokens per second over those of the sequential strategy."""
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
    """The fastest of the rows that is accurate enough.

    folder      where their samples are
    tolerance   most that accuracy may lie below that of the sequential strategy; give this or `target`
    target      least accuracy
    speed       of `SPEEDS`
    confidence  least chance (see `Choice`) that a strategy needs besides; 0: the counts alone decide
    baseline    name of the sequential strategy's row

    Raises ConfigError where no row is accurate enough, or none has known answers.
    """
    if (tolerance is None) == (target is None):
        raise ConfigError("give one of --tolerance and --target-accuracy")
    if speed not in SPEEDS:
        raise ConfigError(f"speed {speed!r}: choose from {', '.join(SPEEDS)}")
    found = [row for row in rows if row["scored"]]
    if not found:
        raise ConfigError("no question has an answer: give rows an `answer`")
    if len(groups := {(row["model"], row["prompts"]) for row in found}) > 1:
        raise ConfigError(f"cells of {len(groups)} models or sets of prompts: choose for one of each at a time")
    first = next((row for row in found if row["name"] == baseline), None)
    if first is None and tolerance is not None:
        raise ConfigError(f"{MISSING} ({baseline})")
    choices = [_assess_row(folder, row, first, tolerance, target, len(found)) for row in found]
    fit = [c for c in choices if _is_accurate_enough(c, first, tolerance, target) and c.chance >= confidence]
    if not fit:
        best = max(choices, key=lambda c: c.row["accuracy"])
        asked = f"accuracy {target}" if tolerance is None else f"within {tolerance} of {first['accuracy']:.3f}"  # type: ignore[index]
        sure = f" with a chance of {confidence:.0%}" if confidence else ""
        raise ConfigError(
            f"none of {len(found)} strategies is {asked}{sure}: the best, {best.row['name']}, has "
            f"{best.row['accuracy']:.3f} and a chance of {best.chance:.0%}; ask for less, or give more questions"
        )
    return max(fit, key=lambda c: (c.row[speed], c.row["accuracy"]))


def _is_accurate_enough(
    choice: StrategyChoice, first: Mapping[str, Any] | None, tolerance: float | None, target: float | None
) -> bool:
    """Whether the counts alone say that it is accurate enough."""
    if target is not None:
        return bool(choice.row["accuracy"] >= target)
    assert first is not None and tolerance is not None
    return bool(choice.row["accuracy"] >= first["accuracy"] - tolerance - 1e-12)


def _assess_row(
    folder: Path,
    row: Mapping[str, Any],
    first: Mapping[str, Any] | None,
    tolerance: float | None,
    target: float | None,
    tried: int,
) -> StrategyChoice:
    """A row with what is known of its accuracy."""
    gained, lost = (0, 0) if first is None else _count_gained_and_lost(folder, row, first)
    if target is not None:
        chance = probability_of_reaching(row["correct"], row["scored"], target)
    else:
        chance = 1.0 if row is first else probability_of_keeping(gained, lost, row["scored"], tolerance or 0.0)
    return StrategyChoice(row, first, chance, gained, lost, tried)


def _count_gained_and_lost(folder: Path, row: Mapping[str, Any], first: Mapping[str, Any]) -> tuple[int, int]:
    """Questions that only `row`, and that only `first` answers."""
    one, other = _read_correctness(folder / row["samples"]), _read_correctness(folder / first["samples"])
    gained = sum(right and not other.get(name, False) for name, right in one.items())
    lost = sum(right and not one.get(name, False) for name, right in other.items())
    return gained, lost


def _read_correctness(path: Path) -> dict[tuple[str, str], bool]:
    """Whether each sample of a cell's file is right."""
    try:
        found = [json.loads(line) for line in path.read_bytes().splitlines()]
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; it belongs to the table") from None
    return {(type(r["id"]).__name__, str(r["id"])): r["correct"] is True for r in found}


def format_decode_command(row: Mapping[str, Any], model: str, raw: bool = False) -> str:
    """The `dllm decode` command that decodes as a row of a table says."""
    words = ["dllm", "decode", "…", "--model", model]
    for name, value in row["options"].items():
        words += format_flag(name, value)
    words += ["--max-new-tokens", str(row["max_new_tokens"]), *(["--raw"] if raw else [])]
    return shlex.join(words)


def format_flag(name: str, value: Any) -> list[str]:
    """An option as the command line has it."""
    if name == "stop_ids":
        return [word for one in value for word in ("--stop-id", str(one))] or ["--ignore-eos"]
    if name == "recipe" and str(value).lstrip().startswith("Strategy("):
        return ["--strategy", value]
    option = "--" + name.replace("_", "-")
    if isinstance(value, list | tuple):
        return [word for one in value for word in (option, str(one))]
    return [option, str(value)] if value is not None else []
