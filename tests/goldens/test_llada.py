"""LLaDA as Fast-dLLM runs it: every recorded token and forward, for three caches and three rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dllm import Result
from dllm.compose.options import Options
from tests.goldens.replay import Case, cases, grouped, replay

POLICY = {"fixed": "top-k", "threshold": "threshold", "factor": "factor-as-published"}


def settings(case: Case) -> tuple[Any, ...]:
    return tuple(
        case[k] for k in ("checkpoint", "cache", "policy", "threshold", "factor", "steps", "gen_length", "block_length")
    )


def options(case: Case) -> Options:
    return Options(
        recipe="llada",
        cache=case["cache"],
        policy=POLICY[case["policy"]],
        tau=case["threshold"],
        f=case["factor"],
        steps=case["steps"] if case["policy"] == "fixed" else None,
        block_size=case["block_length"],
    )


def lockstep_nfe(results: list[Result], block: int) -> int:
    """Forwards of a batch that moves from block to block together, as the published code does and ours does not."""
    ends = [[max(r.when[start : start + block]) for start in range(0, len(r.output_ids), block)] for r in results]
    spent = [[end - ([0, *row])[i] for i, end in enumerate(row)] for row in ends]
    return sum(max(column) for column in zip(*spent, strict=True))


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("policy", ["fixed", "threshold", "factor"])
def test_tokens_and_forwards(shared: Path, cache: str, policy: str) -> None:
    found = [c for c in cases(shared, "llada_cases") if c["cache"] == cache and c["policy"] == policy]
    assert len(found) > 25
    for group in grouped(found, settings):
        rows = [(prompt, c["gen_length"], None) for c in group for prompt in c["prompt"]]
        results = iter(replay(shared, group, options(group[0]), group[0]["gen_length"], rows))
        for case in group:
            got = [next(results) for _ in case["prompt"]]
            assert [list(r.prompt_ids + r.output_ids) for r in got] == case["output"], case["id"]
            assert lockstep_nfe(got, case["block_length"]) == case["nfe"], case["id"]


def test_one_row_alone(shared: Path) -> None:
    for case in [c for c in cases(shared, "llada_cases") if c["batch_size"] == 1][::40]:
        (got,) = replay(
            shared, [case], options(case), case["gen_length"], [(case["prompt"][0], case["gen_length"], None)]
        )
        assert list(got.prompt_ids + got.output_ids) == case["output"][0]
        assert got.nfe == case["nfe"]


def test_paper_factor_commits_no_failing_last_rank(shared: Path) -> None:
    """The rule of the paper and the published code differ on most runs; the code's variant is the opt-in."""
    found = [c for c in cases(shared, "llada_cases") if c["policy"] == "factor" and c["batch_size"] == 1][::6]
    differs = 0
    for case in found:
        paper = Options(
            recipe="llada", cache=case["cache"], policy="factor", f=case["factor"], block_size=case["block_length"]
        )
        (got,) = replay(shared, [case], paper, case["gen_length"], [(case["prompt"][0], case["gen_length"], None)])
        differs += got.nfe != case["nfe"]
    assert differs > len(found) / 2
