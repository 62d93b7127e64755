"""SDAR: static, sequential and dynamic choice under a quota over the full block."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from dllm.compose.options import Options
from tests.goldens.replay import Case, cases, grouped, replay, until


def settings(case: Case) -> tuple[Any, ...]:
    keys = ("checkpoint", "block_length", "denoising_steps", "remasking_strategy", "confidence_threshold", "gen_length")
    return tuple(case[k] for k in keys)


def options(case: Case) -> Options:
    return Options(
        recipe="sdar",
        policy="top-k",
        tau=case["confidence_threshold"],
        score="left-to-right" if case["remasking_strategy"] == "sequential" else None,
        block_size=case["block_length"],
        steps=case["denoising_steps"] * math.ceil(case["gen_length"] / case["block_length"]),
    )


def forwards(case: Case, columns: int) -> int:
    """Recorded forwards up to the one that decided the first `columns` new tokens, or all but the last commit."""
    n, block = len(case["prompt"]), case["block_length"]
    left = set(range(n, n + columns))
    at = n // block * block
    for i, forward in enumerate(case["trace"]):
        left -= {at + j for j in forward.get("unmasked_in_block", [])}
        at += block * (forward["forward"] == "commit")
        if not left:
            return i + 1
    raise AssertionError("the recording decides them all")


@pytest.mark.parametrize("choice", ["low_confidence_static", "sequential", "low_confidence_dynamic"])
def test_tokens_and_forwards(shared: Path, choice: str) -> None:
    found = [c for c in cases(shared, "sdar_cases") if c["remasking_strategy"] == choice]
    for group in grouped(found, settings):
        rows = [(c["prompt"], c["gen_length"], () if c["stop_token"] is None else (c["stop_token"],)) for c in group]
        for case, got in zip(
            group, replay(shared, group, options(group[0]), group[0]["gen_length"], rows), strict=True
        ):
            n = len(case["prompt"])
            want = until(case["output"][n : n + case["gen_length"]], case["stop_token"])
            assert list(got.output_ids) == want, case["id"]
            assert got.nfe == (forwards(case, len(want)) if got.stopped else case["nfe"] - 1), case["id"]
