"""What is written matches, whatever the order of commits: policies, caches, schedulers, geometries, draws, batches."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dllm
from dllm import (
    KLASS,
    Blocks,
    ConfigError,
    DualCache,
    EarlyCommit,
    EqualSplit,
    JsonSchema,
    LeftToRight,
    Linear,
    LocalLeap,
    NoCache,
    PrefixCache,
    Random,
    Regex,
    Request,
    RequestError,
    RunHierarchy,
    Sampling,
    SequenceBudget,
    Stopping,
    Strategy,
    Threshold,
    TopK,
    Whole,
)
from dllm.models.tabular import TabularModel
from dllm.testing import laws
from dllm.types import Policy, Scheduler
from tests.processors.patterns import PATTERNS
from tests.processors.words import WORDS, speaking, tokenizer
from tests.tiny import GEOMETRIES, MASK, STOP

POLICIES: list[Policy] = [
    Threshold(0.0),
    Threshold(0.6),
    TopK(k=1),
    TopK(k=3, score=Random()),
    TopK(k=2, score=LeftToRight()),
    KLASS(0.2, kl=0.5, history=1),
    LocalLeap(0.6, 0.3, 2),
    RunHierarchy(0.6, 0.2),
    SequenceBudget(3.0),
    EarlyCommit(TopK(k=1), Linear(2.0, 0.5)),
]
SCHEDULERS: list[Scheduler] = [Blocks(8), Blocks(8, sub_block=4), Blocks(8, first_alone=True), Whole()]
CACHES = [NoCache(), PrefixCache(), DualCache(refresh=3)]
REQUESTS = [
    Request((3, 7, 1, 22, 9), 13, stop_ids=(STOP,), seed=1),
    Request((5, 2, 8, 1, 0, 4, 17, 20), 7, stop_ids=(STOP,), seed=2),
]


def under(pattern: str, policy: Policy = Threshold(0.6), temperature: float = 0.0) -> Strategy:
    return Strategy(policy, Blocks(8), DualCache(), Sampling(temperature, processors=(Regex(pattern),)))


@settings(max_examples=60)
@given(
    PATTERNS,
    st.sampled_from(POLICIES),
    st.sampled_from(SCHEDULERS),
    st.sampled_from(CACHES),
    st.sampled_from(sorted(GEOMETRIES)),
    st.sampled_from([0.0, 1.0, 5.0]),
)
def test_every_text_matches(
    pattern: str, policy: Policy, scheduler: Scheduler, cache: object, geometry: str, temperature: float
) -> None:
    strategy = Strategy(policy, scheduler, cache, Sampling(temperature, processors=(Regex(pattern),)))  # type: ignore[arg-type]
    stream, results = laws.run_batch(speaking(geometry), REQUESTS, strategy)
    for result in results:
        assert re.fullmatch(pattern, result.text or ""), result
        assert not set(result.output_ids) & {MASK}
    laws.every_step_progresses(stream)
    laws.rows_finish_in_time(speaking(geometry), REQUESTS, strategy, stream, 4)
    laws.decided_stays(speaking(geometry), REQUESTS, strategy, stream)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_are_independent_also_in_a_queue(geometry: str, temperature: float) -> None:
    model = speaking(geometry)
    strategy = under("(ab|c)+[01]*", temperature=temperature)
    requests = [*REQUESTS, Request((5, 5), 9, stop_ids=(), seed=4)]
    _, results = laws.run_batch(model, requests, strategy)
    laws.rows_are_independent(model, requests, strategy, results)
    for size in (1, 2):
        assert [r.output_ids for r in dllm.decode(model, requests, strategy, batch_size=size)] == [
            r.output_ids for r in results
        ]


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = dllm.decode(speaking("bidirectional"), REQUESTS, under("(ab|c)+[01]*"))
    monkeypatch.setattr("dllm.engine.propose.CHUNK", 3 * 32)
    assert [r.output_ids for r in dllm.decode(speaking("bidirectional"), REQUESTS, under("(ab|c)+[01]*"))] == [
        r.output_ids for r in whole
    ]


def test_everything_at_once_keeps_only_what_fits() -> None:
    """Two columns that each may hold a or b, but not both the same: the surer one decides."""
    joint = torch.tensor([[0.5, 0.1], [0.25, 0.15]], dtype=torch.float64)
    words = tokenizer(["a", "b"], ("<mask>", "<end>"), 4)
    model = TabularModel(joint.repeat(1, 1), tokenizer=words)  # type: ignore[arg-type]
    model.vocabulary = 3
    free = Strategy(Threshold(0.0), Whole(), NoCache())
    held = replace(free, sampling=Sampling(processors=(Regex("ab|ba"),)))
    requests = [Request((0,), 2)]
    assert laws.run_batch(model, requests, free)[1][0].output_ids == (0, 0)
    stream, (result,) = laws.run_batch(model, requests, held)
    assert result.output_ids == (1, 0) or result.output_ids == (0, 1)
    assert len(stream) == 2
    assert stream[0].commit.sum() == 1
    assert stream[0].guess.tokens[0].tolist() == [0, 0]


def test_end_of_text_comes_only_behind_a_whole_text() -> None:
    """A row with room for more than the text says ends it; one without end tokens is filled exactly."""
    for result in dllm.decode(speaking("bidirectional"), REQUESTS, under("(ab){2}")):
        assert result.text == "abab"
        assert result.output_ids[-1] == STOP
        assert result.stopped
    (exact,) = dllm.decode(speaking("bidirectional"), [Request((1, 2), 3, stop_ids=())], under("(ab){2}"))
    assert exact.text == "abab"
    assert len(exact.output_ids) == 3


def test_a_model_that_rules_all_out_still_obeys() -> None:
    """Where every allowed token has probability 0 the constraint holds all the same."""
    joint = torch.zeros(3, 3, dtype=torch.float64)
    joint[0, 0] = 1
    model = TabularModel(joint, tokenizer=tokenizer(["a", "b", "c"], ("<mask>", "<end>"), 5))  # type: ignore[arg-type]
    strategy = Strategy(TopK(k=1), Whole(), NoCache(), Sampling(processors=(Regex("[bc]a"),)))
    (result,) = dllm.decode(model, [Request((0,), 2)], strategy)
    assert result.output_ids in ((1, 0), (2, 0))


def test_what_is_given_between_holes_must_fit() -> None:
    """The constraint speaks of all from the first hole on; end tokens belong behind the last given column."""
    model = speaking("bidirectional")
    ids = [WORDS.index(w) for w in ("1", "a", "a", "b", "a", "c")]
    row = Request(tuple(ids), 4, stop_ids=(STOP,), holes=(1, 4))
    (result,) = dllm.decode(model, [row], under("[01]ab[01]c[01]?", Threshold(0.0)))
    assert re.fullmatch("1[01]ab[01]c[01]?", result.text or "")
    for pattern in ("[01]aa[01]c", "[01]?"):
        with pytest.raises(RequestError, match="given between the holes"):
            dllm.decode(model, [row], under(pattern))


@pytest.mark.parametrize(
    ("pattern", "request_", "said"),
    [
        ("(ab){20}", Request((1,), 6, stop_ids=(STOP,)), "the shortest text that matches has"),
        ("ab?", Request((1,), 6, stop_ids=()), "exactly 6 tokens"),
        ("x", Request((1,), 6), "can write no text"),
    ],
)
def test_no_room_is_said_before_any_forward(
    pattern: str, request_: Request, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = replace(speaking("bidirectional"))
    monkeypatch.setattr(model, "forward", lambda *_: pytest.fail("a forward was made"))
    with pytest.raises(RequestError, match=said):
        dllm.decode(model, [request_], under(pattern))


def test_nor_does_a_request_that_waits_come_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    model = replace(speaking("bidirectional"))
    monkeypatch.setattr(model, "forward", lambda *_: pytest.fail("a forward was made"))
    with pytest.raises(RequestError, match="has 5 tokens, and there is room for 4"):
        dllm.decode(model, [*REQUESTS, Request((1,), 4)], under("(ab){5}"), batch_size=1)


def test_text_as_end_token_is_refused() -> None:
    with pytest.raises(ConfigError, match="end token 0 is text"):
        dllm.decode(speaking("bidirectional"), [Request((1,), 6, stop_ids=(0,))], under("ab"))


def test_parts_that_would_break_it_are_refused() -> None:
    with pytest.raises(ConfigError, match="stop string"):
        replace(under("a"), stopping=Stopping(strings=("x",)))
    with pytest.raises(ConfigError, match="moves columns"):
        replace(under("a"), scheduler=dllm.VariableLength())
    with pytest.raises(ConfigError, match="replaces decided tokens"):
        replace(under("a"), policy=dllm.JointThreshold())


SCHEMA = '{"type": "object", "properties": {"a": {"enum": [0, 1, 10]}, "b": {"type": "boolean"}}, "required": ["a"]}'


@pytest.mark.parametrize("policy", [Threshold(0.0), TopK(k=1)], ids=str)
def test_json_of_a_schema(policy: Policy) -> None:
    strategy = Strategy(policy, Whole(), NoCache(), Sampling(2.0, processors=(JsonSchema(SCHEMA, whitespace=""),)))
    requests = [Request((1, 2), 16, stop_ids=(STOP,), seed=i) for i in range(6)]
    found = [json.loads(r.text or "") for r in dllm.decode(speaking("bidirectional"), requests, strategy)]
    assert all(list(value) in (["a"], ["a", "b"]) and value["a"] in (0, 1, 10) for value in found)
    assert all(value.get("b", True) is True for value in found), "the tokenizer cannot write false"
    assert len({value["a"] for value in found}) > 1


@pytest.mark.parametrize(
    ("schema", "said"), [("{", "not JSON"), ("[1]", "must be a JSON object"), ('{"type": 3}', "cannot be")]
)
def test_a_schema_that_is_none(schema: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        JsonSchema(schema)


def test_its_repr_is_its_record() -> None:
    for processor in (Regex(r"\d+'\""), JsonSchema(SCHEMA, whitespace=" ?")):
        assert eval(repr(processor), vars(dllm)) == processor


@pytest.mark.parametrize("steps", [2, 5])
def test_a_pace_goes_on_where_its_commits_are_held_back(steps: int) -> None:
    strategy = Strategy(TopK(pace=EqualSplit()), Whole(steps), NoCache(), Sampling(processors=(Regex("(ab|ba|c1)*"),)))
    for result in dllm.decode(speaking("bidirectional"), REQUESTS, strategy):
        assert re.fullmatch("(ab|ba|c1)*", result.text or "")
