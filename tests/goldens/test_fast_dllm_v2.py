"""Fast-dLLM v2: single runs, batches of unequal prompts, and prompts of exactly one block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dllm.compose.options import Options
from tests.goldens.replay import Case, cases, grouped, replay, until


def settings(case: Case) -> tuple[Any, ...]:
    return tuple(case[k] for k in ("checkpoint", "block_size", "small_block_size", "use_block_cache", "threshold"))


def options(case: Case) -> Options:
    return Options(
        recipe="fast_dllm_v2",
        cache="dual" if case["use_block_cache"] else "prefix",
        tau=case["threshold"],
        block_size=case["block_size"],
        sub_block_size=case["small_block_size"],
    )


@pytest.mark.parametrize("sub_block_cache", [False, True])
def test_single_runs(shared: Path, sub_block_cache: bool) -> None:
    found = [c for c in cases(shared, "fast_dllm_v2_cases") if c["use_block_cache"] == sub_block_cache]
    for group in grouped(found, settings):
        rows = [(c["prompt"], len(c["output"]) - len(c["prompt"]), (c["stop_token"],)) for c in group]
        for case, got in zip(group, replay(shared, group, options(group[0]), 1, rows), strict=True):
            assert list(got.output_ids) == case["completion"], case["id"]
            assert got.nfe == case["nfe"], case["id"]
            assert got.stopped == case["stopped"]


@pytest.mark.parametrize("sub_block_cache", [False, True])
def test_whole_blocks_need_no_last_commit(shared: Path, sub_block_cache: bool) -> None:
    """Asked for just the last block's end, we save the published run's last commit, whose token nobody asked for."""
    found = [
        c for c in cases(shared, "fast_dllm_v2_cases") if c["use_block_cache"] == sub_block_cache and not c["stopped"]
    ]
    for case in found:
        rows = [(case["prompt"], len(case["output"]) - len(case["prompt"]) - 1, (case["stop_token"],))]
        (got,) = replay(shared, [case], options(case), 1, rows)
        assert list(got.output_ids) == case["completion"][:-1], case["id"]
        assert got.nfe == case["nfe"] - 1, case["id"]


def test_prompts_of_exactly_one_block(shared: Path) -> None:
    """The published code never looks at such a prompt; ours does what its corrected version does."""
    for case in cases(shared, "fast_dllm_v2_boundary"):
        n = len(case["prompt"])
        rows = [(case["prompt"], len(case["output_fixed"]) - n, (case["stop_token"],))]
        (got,) = replay(shared, [case], options(case), 1, rows)
        want = until(case["output_fixed"][n:], case["stop_token"])
        assert list(got.output_ids) == want
        assert got.nfe == case["nfe_fixed"]
        assert list(got.output_ids) != until(case["unfixed_reference_output"][n:], case["stop_token"])


def test_batches_of_unequal_prompts(shared: Path) -> None:
    """Rows equal the recording where that equals a single run; elsewhere (its sub-block cache refreshes all rows when
    one needs it) ours equals our own single run."""
    checked = 0
    for case in cases(shared, "fast_dllm_v2_batch_cases"):
        length = max(len(c) for c in case["completions"])
        rows = [(prompt, length, (case["stop_token"],)) for prompt in case["prompts"]]
        results = replay(shared, [case], options(case), 1, rows)
        for row, got in enumerate(results):
            want = case["completions"][row]
            if case["row_equals_single_run"][row]:
                assert list(got.output_ids)[: len(want)] == want, (case["id"], row)
                checked += 1
            else:
                (alone,) = replay(shared, [case], options(case), 1, [rows[row]])
                assert (alone.output_ids, alone.nfe) == (got.output_ids, got.nfe)
    assert checked > 60
