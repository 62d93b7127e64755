"""The scripts for a CUDA machine run from end to end on the CPU, on shapes that take no time here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import dllm.bench
from benchmarks.device import correctness, laws, window_step
from benchmarks.device.preflight import ROOT
from benchmarks.device.recordings import FIXTURE

EVERY = 10_000
"""Seconds: a budget in which all fits. It counts from the beginning of this process."""

Row = dict[str, Any]


@pytest.fixture(autouse=True)
def nothing_is_compiled(monkeypatch) -> None:
    """Compiled forwards take their own path through the scripts, and the compiler its time elsewhere."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


def lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def call(script: Any, output: Path, *more: str) -> int:
    """The exit code of a rehearsal."""
    with pytest.raises(SystemExit) as left:
        script.main([*f"--tiny --device cpu --budget {EVERY} --output {output}".split(), *more])
    return int(left.value.code or 0)


def check(output: Path, recordings: Path = FIXTURE, *more: str) -> int:
    """The exit code of the correctness script."""
    return call(correctness, output, "--recordings", str(recordings), *more)


@pytest.fixture
def few(monkeypatch) -> None:
    """Two groups of recordings and two cells of laws are enough to see a fault."""
    monkeypatch.setitem(correctness.LIMITS, True, {False: (2, 1, 2), True: (1, 1, 1)})


def outcomes(rows: list[Row]) -> dict[str, str]:
    return {row["measurement"]: row["outcome"] for row in rows if row["kind"] == "outcome"}


def test_every_way_of_a_window_step_is_measured(tmp_path: Path) -> None:
    output = tmp_path / "found.jsonl"
    assert call(window_step, output, "--context", "24", "--new", "64") == 0
    rows = lines(output)
    assert rows[0]["script"] == "window_step" and rows[0]["versions"]["torch"] and rows[-1]["kind"] == "end"
    assert set(outcomes(rows).values()) == {"done"} and len(outcomes(rows)) == 11
    timed = [row for row in rows if "tokens_per_second" in row]
    assert [(row["what"], row["cudnn"]) for row in timed] == [
        ("published loop", False), ("ours", False), ("ours, compiled", False), ("published loop", True),
        ("ours", True), ("ours, compiled", True),
    ]  # fmt: skip
    assert {row["nfe"] for row in timed} == {18}, "every way does the forwards of the plan"
    for row in timed:
        assert row["tokens_per_second"] > 0
        assert row["what"] == "published loop" or (row["window"] > row["window_floor"] > 0 and row["speedup"] > 0)


def test_what_cannot_be_measured_is_a_fault_and_stops_nothing(monkeypatch, tmp_path: Path, capsys) -> None:
    def planted(*_: Any, **__: Any) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(dllm.bench, "time_strategy", planted)
    output = tmp_path / "found.jsonl"
    assert call(window_step, output, "--context", "24", "--new", "32", "--no-compile") == 1
    assert {name for name, outcome in outcomes(lines(output)).items() if outcome == "failed"} == {"ours", "ours, cuDNN"}
    assert "FAULT ours: RuntimeError: no kernel" in capsys.readouterr().err


def test_recordings_and_laws_in_both_precisions_eager_and_compiled(tmp_path: Path) -> None:
    output = tmp_path / "found.jsonl"
    assert check(output) == 0
    rows = lines(output)
    assert set(outcomes(rows).values()) == {"done"} and len(outcomes(rows)) == 8
    exact = [row for row in rows if row.get("dtype") == "float32" and row["kind"] == "row" and "outcome" in row]
    assert {row["outcome"] for row in exact} == {"equal"}
    assert {(row["what"], row["compiled"]) for row in exact} == {
        (what, compiled) for what in ("recordings", "laws") for compiled in (False, True)
    }


def test_the_workshops_recordings_are_replayed(shared: Path, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(correctness.LIMITS, True, {False: (4, 2, 1), True: (1, 1, 1)})
    output = tmp_path / "found.jsonl"
    assert check(output, shared / "goldens", "--no-compile") == 0
    found = [row for row in lines(output) if row.get("what") == "recordings" and row["dtype"] == "float32"]
    assert {row["family"] for row in found} == {"llada", "dream", "fast_dllm_v2", "sdar"}
    assert {row["outcome"] for row in found} == {"equal"}


@pytest.mark.usefixtures("few")
def test_a_recording_that_is_not_met_is_a_fault(tmp_path: Path, capsys) -> None:
    spoilt = shutil.copytree(FIXTURE, tmp_path / "recordings") / "llada_cases.json"
    cases = json.loads(spoilt.read_text())
    for case in cases["cases"]:
        case["output"][0][-1] ^= 1
    spoilt.write_text(json.dumps(cases))
    assert check(tmp_path / "found.jsonl", spoilt.parent, "--no-compile") == 1
    assert "FAULT recordings, float32, eager: 2 faults" in capsys.readouterr().err


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(("raised", "outcome"), [(AssertionError("law"), "broken"), (RuntimeError("device"), "error")])
def test_a_law_that_is_broken_is_a_fault(raised: Exception, outcome: str, monkeypatch, tmp_path: Path) -> None:
    def planted(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr(laws.laws, "windows_tile", planted)
    assert check(tmp_path / "found.jsonl", FIXTURE, "--no-compile") == 1
    found = [row for row in lines(tmp_path / "found.jsonl") if row.get("what") == "laws"]
    assert found and {row["outcome"] for row in found} == {outcome}


@pytest.mark.parametrize("script", ["correctness", "window_step"])
def test_a_script_keeps_its_budget_and_ends_well(script: str, tmp_path: Path) -> None:
    """With less than its start takes, a script skips everything, says so, and is not a failure."""
    output = tmp_path / "found.jsonl"
    done = subprocess.run(
        [ROOT / "benchmarks" / "device" / f"{script}.sh", "--tiny", "--device", "cpu", "--budget", "0.01",
         "--output", output],
        capture_output=True, text=True, env={**os.environ, "PYTHON": sys.executable}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = lines(output)
    assert rows[0]["script"] == script and rows[-1]["kind"] == "end"
    assert set(outcomes(rows).values()) == {"skipped"}
    assert "skipped" in done.stderr
