"""Dream as Fast-dLLM runs it: the whole canvas without a cache, blocks with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dllm.compose.options import Options
from tests.goldens.replay import Case, cases, grouped, replay

SCORE = {"entropy": "entropy", "maskgit_plus": "confidence", "topk_margin": "margin"}


def settings(case: Case) -> tuple[Any, ...]:
    return tuple(
        case[k] for k in ("checkpoint", "cache", "alg", "threshold", "steps", "gen_length", "block_length", "eps")
    )


def options(case: Case) -> Options:
    threshold = case["alg"] == "confidence_threshold"
    cached = case["cache"] != "none"
    return Options(
        recipe="dream",
        cache=case["cache"],
        policy="threshold" if threshold else None,
        tau=case["threshold"],
        eps=None if threshold else case["eps"],
        # the cached version ranks by negative entropy whatever algorithm it is told
        score=None if threshold or cached else SCORE[case["alg"]],
        steps=None if threshold and cached else case["steps"],
        block_size=case["block_length"],
    )


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("alg", ["confidence_threshold", "entropy", "maskgit_plus", "topk_margin"])
def test_tokens_and_forwards(shared: Path, cache: str, alg: str) -> None:
    found = [c for c in cases(shared, "dream_cases") if c["cache"] == cache and c["alg"] == alg]
    assert found or (cache, alg) in {("prefix", "topk_margin"), ("dual", "topk_margin")}
    for group in grouped(found, settings):
        rows = [(c["prompt"][0], c["gen_length"], None) for c in group]
        for case, got in zip(
            group, replay(shared, group, options(group[0]), group[0]["gen_length"], rows), strict=True
        ):
            assert list(got.prompt_ids + got.output_ids) == case["output"][0], case["id"]
            assert got.nfe == case["nfe"], case["id"]
