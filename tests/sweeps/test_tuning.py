"""Choice of the fastest strategy that keeps accuracy, and the certainty of that choice."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from dllm.compose.options import Options
from dllm.errors import ConfigError
from dllm.sweeps.pareto import pareto_front
from dllm.sweeps.tuning import choose_strategy, format_decode_command

FIRST = set(range(90))


@pytest.fixture
def rows(row, keep):
    found = [row("sequential", 90, 1.0), row("careful", 89, 3.0), row("bold", 85, 5.0), row("better", 91, 2.0)]
    for one, right in zip(found, (FIRST, FIRST - {0, 1} | {95}, set(range(85)), FIRST | {99}), strict=True):
        keep(one, right)
    return found


def test_within_a_tolerance(rows, tmp_path: Path) -> None:
    choice = choose_strategy(tmp_path, rows, tolerance=0.02)
    assert choice.row["name"] == "careful" and (choice.gained, choice.lost) == (1, 2) and choice.tried == 4
    assert 0.5 < choice.chance < 0.9 and choice.speedup == 3
    assert choose_strategy(tmp_path, rows, tolerance=0.05).row["name"] == "bold"
    assert choose_strategy(tmp_path, rows, tolerance=0.0).row["name"] == "better"
    assert choose_strategy(tmp_path, rows, tolerance=0.02, confidence=0.9).row["name"] == "better"


def test_a_target(rows, tmp_path: Path) -> None:
    choice = choose_strategy(tmp_path, rows, target=0.85)
    assert choice.row["name"] == "bold" and 0.4 < choice.chance < 0.6
    with pytest.raises(ConfigError, match=r"none of 4 strategies is accuracy 0.95: the best, better, has 0.910"):
        choose_strategy(tmp_path, rows, target=0.95)


def test_what_cannot_be_chosen(rows, row, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give one of"):
        choose_strategy(tmp_path, rows)
    with pytest.raises(ConfigError, match="no cell of the strategy"):
        choose_strategy(tmp_path, rows[1:], tolerance=0.1)
    with pytest.raises(ConfigError, match="no question has an answer"):
        choose_strategy(tmp_path, [row("a", 0) | {"scored": 0}], target=0.1)
    with pytest.raises(ConfigError, match="one of each at a time"):
        choose_strategy(tmp_path, [*rows, row("a", 1, prompts="others")], target=0.1)


def test_the_front_has_no_row_that_another_beats() -> None:
    points = [(1, 0.9), (2, 0.9), (3, 0.8), (3, 0.7), (4, 0.8), (5, 0.1), (0, 0.95)]
    assert pareto_front(points, lambda p: p[0], lambda p: p[1]) == [(0, 0.95), (2, 0.9), (4, 0.8), (5, 0.1)]


@pytest.mark.parametrize(
    "given",
    [
        {"policy": "factor", "f": 1.0, "cache": "dual"},
        {"recipe": "Strategy(policy=Threshold(tau=0.9), scheduler=Blocks(), cache=PrefixCache())"},
        {"recipe": "pc_sampler(decay=0.5)", "stop": ("a b", "'"), "stop_ids": ()},
        {"policy": "klass(kl=0.02)", "stop_ids": (3, 4), "processor": ("credit-decoding",)},
    ],
)
def test_the_command_means_the_same_strategy(given, row, monkeypatch) -> None:
    from typer.testing import CliRunner

    from dllm import jobs
    from dllm.cli import decode, main

    made = []
    monkeypatch.setattr(jobs, "Job", lambda options, *_: made.append(options) or jobs.plan.Job(options))
    monkeypatch.setattr(decode, "run_job", lambda *_: None)
    monkeypatch.setattr(decode, "_check_job", lambda *_: None)
    words = shlex.split(format_decode_command(row("x", 1, options=given), "embedded"))
    result = CliRunner().invoke(main.app, words[1:])
    assert result.exit_code == 0, result.output
    assert made == [Options(**given)]
