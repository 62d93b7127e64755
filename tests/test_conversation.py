"""A conversation that keeps what it computed says what it would say without, and runs fewer columns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import dllm
from dllm import Blocks, DualCache, NoCache, PrefixCache, Request, Strategy, Threshold
from dllm.conversation import History
from dllm.models.compiled import CompiledModel
from tests.tiny import tiny_model

FIRST = (3, 7, 1, 22, 9, 4, 4, 8, 17, 3, 12)
STRATEGIES = [
    Strategy(Threshold(0.5), Blocks(), PrefixCache()),
    Strategy(Threshold(0.5), Blocks(commit=True), PrefixCache()),
    Strategy(Threshold(0.5), Blocks(sub_block=4, commit=True), DualCache(while_first=True)),
]


def converse(m: Any, strategy: Strategy, history: History | None) -> list[dllm.Result]:
    """Three turns with a model, or a tiny one of a geometry; each asks with all that was said."""
    m, prompt, found = tiny_model(m) if isinstance(m, str) else m, FIRST, []
    for turn in range(3):
        plan = strategy if history is None else history.strategy(strategy)
        found += dllm.decode(m, Request(prompt, 20, seed=turn), plan)
        prompt = (*prompt, *found[-1].output_ids, 5, turn, 6)
    return found


@pytest.mark.parametrize("geometry", ["block-causal", "block-causal-shift"])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_nothing_changes_but_the_work(geometry: str, strategy: Strategy) -> None:
    plain, kept = converse(geometry, strategy, None), converse(geometry, strategy, history := History())
    for one, other in zip(plain, kept, strict=True):
        assert replace(one, queries=0, seconds=0.0) == replace(other, queries=0, seconds=0.0)
    assert kept[0].queries == plain[0].queries
    assert kept[2].queries < plain[2].queries - 30 and history.reused >= 32


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_nor_with_a_model_that_is_compiled(strategy: Strategy) -> None:
    """Its store has its own memory; what is compiled is left out here, since it changes nothing of that."""

    def talk(history: History | None) -> list[dllm.Result]:
        m = CompiledModel.of(replace(tiny_model("block-causal-shift")))
        m._forwards = m.decode
        return converse(m, strategy, history)

    plain, kept = talk(None), talk(history := History())
    assert [r.output_ids for r in plain] == [r.output_ids for r in kept]
    assert kept[2].queries < plain[2].queries - 30 and history.reused >= 32


def test_what_does_not_fit_begins_anew() -> None:
    strategy, history = STRATEGIES[0], History()
    converse("block-causal", strategy, history)
    (other,) = dllm.decode(tiny_model("block-causal"), Request((9, *FIRST[1:]), 20), history.strategy(strategy))
    (alone,) = dllm.decode(tiny_model("block-causal"), Request((9, *FIRST[1:]), 20), strategy)
    assert history.reused == 0 and other.output_ids == alone.output_ids
    wide = replace(strategy, scheduler=Blocks(16))
    dllm.decode(tiny_model("block-causal"), Request(FIRST + FIRST, 8), history.strategy(wide))
    assert history.reused == 0, "another attention block"
    assert (
        converse("bidirectional", strategy, history)[2]
        == replace(converse("bidirectional", strategy, None)[2], seconds=0.0)
        or history.reused == 0
    )
    assert history.strategy(replace(strategy, cache=NoCache())).cache == NoCache()
    assert repr(history.strategy(strategy)) == repr(strategy)
