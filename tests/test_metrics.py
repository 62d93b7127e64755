"""What is counted, and the one line that every file has for a sample."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import dllm
from dllm import Blocks, NoCache, Result, Strategy, Threshold, TopK
from dllm.metrics import Provenance, Totals, agreement_share, package_versions, result_to_record
from dllm.models import TabularModel

STRATEGY = Strategy(Threshold(0.9), Blocks(4), NoCache())
RESULT = Result((1, 2), (3, 4, 5, 6), None, 3, 12, 3, 2, 2.0, False, when=(1, 2, 2, 3), prefill=0.5)


@pytest.fixture(scope="module")
def model() -> TabularModel:
    draw = torch.Generator().manual_seed(0)
    joint = torch.rand((3,) * 4, generator=draw)
    return TabularModel(joint / joint.sum())


def test_prefill_is_the_first_step_and_what_it_decided() -> None:
    assert RESULT.tokens_per_second == 2.0
    assert RESULT.prefilled == 1
    assert RESULT.tokens_per_second_without_prefill == 2.0  # three tokens in a second and a half
    assert replace(RESULT, prefill=None).tokens_per_second_without_prefill is None


def test_totals_add_up() -> None:
    totals = Totals.of([RESULT, replace(RESULT, seconds=3.0, prefill=0.75)], seconds=4.0)
    assert (totals.tokens, totals.nfe, totals.queries, totals.rows) == (8, 6, 24, 2)
    assert totals.tokens_per_forward == 8 / 6
    assert totals.certified_share == 4 / 6
    assert totals.tokens_per_second == 2.0
    assert totals.prefill == 0.25
    assert totals.tokens_per_second_without_prefill == 6 / 3
    assert totals == Totals.of(
        [result_to_record(RESULT, None), result_to_record(replace(RESULT, seconds=3.0, prefill=0.75), None)], 4.0
    )
    assert Totals.of([replace(RESULT, prefill=None)], 1.0).tokens_per_second_without_prefill is None
    nothing = Totals.of([], 0.0).row()
    assert (nothing["tokens_per_forward"], nothing["certified_share"], nothing["tokens_per_second"]) == (0, None, 0)


def test_agreement_is_of_whole_rows() -> None:
    assert agreement_share([[1, 2], [3]], [(1, 2), (3, 4)]) == 0.5
    assert agreement_share([], []) is None
    with pytest.raises(ValueError, match="shorter"):
        agreement_share([[1]], [])


def test_a_record_is_json_and_says_what_made_it(model: TabularModel) -> None:
    row = json.loads(json.dumps(result_to_record(RESULT, STRATEGY, Provenance.of(model), name="a", seed=7)))
    assert eval(row["strategy"], vars(dllm)) == STRATEGY
    assert (row["id"], row["seed"], row["model"], row["tokens"]) == ("a", 7, "tabular", 4)
    assert row["device"].startswith("cpu (")
    assert row["versions"] == package_versions()
    assert row["versions"]["torch"] == torch.__version__
    assert "device" not in result_to_record(RESULT, STRATEGY)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_seconds_begin_with_the_row_and_prefill_with_them(model: TabularModel, batch_size: int) -> None:
    strategy = Strategy(TopK(k=1), Blocks(4), NoCache())
    for result in dllm.decode(model, [[0]] * 5, strategy, max_new_tokens=4, batch_size=batch_size):
        assert result.nfe == 4
        assert result.prefilled == 1
        assert result.prefill is not None
        assert 0 < result.prefill < result.seconds
