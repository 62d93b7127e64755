"""Deltas through the real loop: together they are the results, for policies that edit and rows that grow or share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import dllm
from dllm import (
    WINO,
    AdaptiveBlocks,
    Blocks,
    Capped,
    DualCache,
    JointThreshold,
    NoCache,
    Pipeline,
    PrefixCache,
    ReMDM,
    Request,
    Saber,
    Sampling,
    SlidingBlock,
    Stopping,
    Strategy,
    Threshold,
    TopK,
    VariableLength,
    Whole,
)
from dllm.streaming import Delta, Deltas
from tests.streaming.tokenizers import STRINGS, TOKENIZERS
from tests.tiny import STOP, tiny_model

REQUESTS = [
    Request((3, 7, 1, 22, 9), 13, seed=1),
    Request((5, 2, 8, 8, 8, 1, 0, 4, 17, 20, 11), 21, seed=2, stop_ids=(STOP, 4)),
    Request((9, 9, 1), 3),
    Request((1, 22, 6, 6, 3, 2, 8, 1, 19), 6, holes=(2, 3, 6)),
    Request((1, 22, 3, 3, 5), 0, holes=(2, 3)),
    Request((1, 22), 17, stop_ids=(7,)),
]
WARM = Sampling(temperature=1.0)
STRATEGIES = [
    Strategy(Threshold(0.6), Blocks(8), PrefixCache(), WARM),
    Strategy(TopK(k=2), Blocks(8, sub_block=4), DualCache(), WARM),
    Strategy(Threshold(0.3), Whole(), NoCache(), WARM),
    Strategy(Threshold(0.3), SlidingBlock(6), NoCache(), WARM),
    Strategy(Threshold(0.3), Pipeline(8, add=0.2), NoCache(), WARM),
    Strategy(Threshold(0.4), AdaptiveBlocks(8, delimiters=(4, 9)), NoCache(), WARM),
    Strategy(
        Threshold(0.4), VariableLength(8, initial=8, growth=3, certain=2.0, low=0.9, ends=(30, 12)), NoCache(), WARM
    ),
    Strategy(WINO(0.3, 0.3), Blocks(8), PrefixCache(), WARM),
    Strategy(Saber(), Blocks(8, sub_block=4), NoCache(), WARM),
    Strategy(JointThreshold(0.5, 0.3, post=1), Blocks(8), NoCache(), WARM),
    Strategy(ReMDM(5, Capped(0.5)), Blocks(8), NoCache(), WARM),
    Strategy(ReMDM(6, Capped(0.5)), Whole(), NoCache(), WARM),
    Strategy(WINO(0.3, 0.3), SlidingBlock(6), NoCache(), WARM),
    Strategy(Saber(), Pipeline(8, add=0.2), NoCache(), WARM),
]
SETUPS = [
    ("bidirectional", "byte-level", False),
    ("bidirectional", "word-piece", True),
    ("block-causal", "byte-fallback", True),
    ("block-causal-shift", "byte-fallback", False),
    ("block-causal-shift", None, False),
]
MADE = {name: make() for name, make in TOKENIZERS.items()}


def tiny_with_tokenizer(geometry: str, name: str | None) -> Any:
    """A tiny model with a tokenizer."""
    return replace(tiny_model(geometry), tokenizer=None if name is None else MADE[name])


def assert_deltas_make_results(deltas: list[Delta]) -> None:
    """Check that the texts and ids of each request make its result, and that nothing comes behind the last delta."""
    for place in {delta.request for delta in deltas}:
        *parts, last = (delta for delta in deltas if delta.request == place)
        assert last.done and last.result is not None and not any(part.done for part in parts)
        assert "".join(part.text for part in (*parts, last)) == (last.result.text or "")
        assert sum((part.ids for part in (*parts, last)), ()) == last.result.output_ids


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: f"{type(s.policy).__name__}-{s.scheduler}")
@pytest.mark.parametrize(("geometry", "name", "strings"), SETUPS)
def test_deltas_make_the_results(strategy: Strategy, geometry: str, name: str | None, strings: bool) -> None:
    if strings:
        strategy = replace(strategy, stopping=Stopping(strings=STRINGS[str(name)]))
    deltas = list(dllm.stream(tiny_with_tokenizer(geometry, name), REQUESTS, strategy, batch_size=3))
    assert {delta.request for delta in deltas} == set(range(len(REQUESTS)))
    assert_deltas_make_results(deltas)
    assert [d.result.output_ids for d in sorted((d for d in deltas if d.done), key=lambda d: d.request)] == [
        r.output_ids for r in dllm.decode(tiny_with_tokenizer(geometry, name), REQUESTS, strategy, batch_size=3)
    ]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: f"{type(s.policy).__name__}-{s.scheduler}")
def test_what_is_sent_never_changes_on_the_canvas(strategy: Strategy) -> None:
    tiny = tiny_with_tokenizer("bidirectional", None)
    deltas = Deltas(tiny, REQUESTS[:3], strategy)
    sent: dict[int, list[int]] = {}
    early = 0
    for step in dllm.steps(tiny, REQUESTS[:3], strategy):
        for delta in deltas.add(step):
            sent.setdefault(delta.request, []).extend(delta.ids)
            early += not delta.done and bool(delta.ids)
        for place, ids in sent.items():
            start = len(REQUESTS[place].prompt)
            assert step.canvas.tokens[place, start : start + len(ids)].tolist() == ids
    blocks = isinstance(strategy.scheduler, Blocks)
    assert early or (deltas.edits and not blocks), "something is final before the end"


def test_drafts_show_the_rest() -> None:
    tiny = tiny_with_tokenizer("block-causal", "byte-fallback")
    deltas = list(dllm.stream(tiny, REQUESTS[:3], STRATEGIES[0], drafts=True))
    assert_deltas_make_results(deltas)
    for delta in deltas:
        assert delta.draft is not None and delta.pending is not None
        assert delta.draft.count("░") == delta.pending.count(None)
    for place in range(3):
        assert next(d for d in deltas if d.request == place).pending, "the first step leaves something to do"


def test_a_plain_causal_model_streams_too(autoregressive: Any) -> None:
    deltas = list(dllm.stream(autoregressive, [(3, 4, 5), (7, 8)], max_new_tokens=5, batch_size=1))
    assert_deltas_make_results(deltas)
    assert [r.output_ids for r in dllm.decode(autoregressive, [(3, 4, 5), (7, 8)], max_new_tokens=5)] == [
        d.result.output_ids for d in deltas if d.result is not None
    ]


def test_no_prompts_no_deltas_and_misfits_are_refused(autoregressive: Any) -> None:
    assert list(dllm.stream(tiny_with_tokenizer("bidirectional", None), [])) == []
    with pytest.raises(dllm.ConfigError, match="does not fit"):
        list(dllm.stream(autoregressive, [(1, 2)], STRATEGIES[0]))
