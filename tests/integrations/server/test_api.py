"""The real `openai` client against a server, whose answers are those of `dllm.decode`."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

import dllm
from dllm.compose.options import Options
from dllm.integrations.server.schemas import ALIASES
from tests.integrations.server.conftest import QUESTIONS, Site

FAST = {"policy": "factor", "f": 1.0, "cache": "dual"}


def ask_as_user(question: str) -> list[Any]:
    """Return a conversation of one question."""
    return [{"role": "user", "content": question}]


def test_models(here: Site) -> None:
    client = here.client()
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "dllm"
    with pytest.raises(openai.NotFoundError, match="here is 'tiny'"):
        client.models.retrieve("gpt-5")
    with pytest.raises(openai.NotFoundError, match="here is 'tiny'"):
        client.chat.completions.create(model="gpt-5", messages=ask_as_user("Hi"))


def test_chat_equals_decode(here: Site, embedded: Any) -> None:
    answer = here.client().chat.completions.create(model="tiny", messages=ask_as_user(QUESTIONS[0]), max_tokens=64)
    (alone,) = dllm.decode(embedded, QUESTIONS[0], max_new_tokens=64)
    assert answer.choices[0].message.content == alone.text
    assert answer.choices[0].finish_reason == "stop"
    usage: Any = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (len(alone.prompt_ids), len(alone.output_ids))
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert (usage.nfe, usage.query_tokens) == (alone.nfe, alone.queries)
    assert usage.tokens_per_forward == pytest.approx(alone.tokens_per_forward)
    assert usage.certified_share == alone.certified_share


def test_a_conversation_is_one_prompt(here: Site, embedded: Any) -> None:
    turns: list[Any] = [
        {"role": "developer", "content": "Add up."},
        *ask_as_user(QUESTIONS[2]),
        {"role": "assistant", "content": "7"},
        {"role": "user", "content": [{"type": "text", "text": "How many are "}, {"type": "text", "text": "5 and 2?"}]},
    ]
    answer = here.client().chat.completions.create(model="tiny", messages=turns, max_completion_tokens=24)
    plain = [{"role": "system", "content": "Add up."}, *turns[1:3], *ask_as_user("How many are 5 and 2?")]
    (alone,) = dllm.decode(embedded, plain, max_new_tokens=24)
    assert answer.choices[0].message.content == alone.text


def test_completions_sampled_by_seed(here: Site, embedded: Any) -> None:
    prompts = [embedded.tokenizer.encode(question) for question in QUESTIONS[:2]]
    options: dict[str, Any] = {"n": 2, "seed": 5, "temperature": 1.0, "top_p": 0.9, "max_tokens": 20}
    answer = here.client().completions.create(model="tiny", prompt=QUESTIONS[:2], **options)
    strategy = Options(temperature=1.0, top_p=0.9).strategy(embedded, 20)
    alone = dllm.decode(embedded, [p for p in prompts for _ in range(2)], strategy, max_new_tokens=20, seed=5)
    assert [choice.text for choice in answer.choices] == [result.text for result in alone]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert len({result.text for result in alone}) > 2, "the seeds differ"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == sum(map(len, prompts)), "a prompt counts once"
    again = here.client().completions.create(model="tiny", prompt=prompts, **options)
    assert [choice.text for choice in again.choices] == [choice.text for choice in answer.choices]


def test_a_seed_that_was_not_given_is_in_the_reply(here: Site) -> None:
    options: dict[str, Any] = {"model": "tiny", "prompt": QUESTIONS[0], "temperature": 1.0, "max_tokens": 16}
    first: Any = here.client().completions.create(**options)
    again = here.client().completions.create(**options, seed=first.dllm["seed"])
    assert again.choices[0].text == first.choices[0].text


@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_has_the_same_text_in_pieces(here: Site, n: int) -> None:
    options: dict[str, Any] = {"n": n, "seed": 1, "temperature": 0.7, "max_tokens": 40, "extra_body": FAST}
    ask = here.client().chat.completions.create
    whole = ask(model="tiny", messages=ask_as_user(QUESTIONS[1]), **options)
    usage = {"include_usage": True}
    chunks = list(ask(model="tiny", messages=ask_as_user(QUESTIONS[1]), stream=True, stream_options=usage, **options))
    *pieces, last = chunks
    assert last.choices == []
    assert last.usage and whole.usage
    timed = {"tokens_per_second"}
    assert last.usage.model_dump(exclude=timed) == whole.usage.model_dump(exclude=timed)
    assert {chunk.id for chunk in chunks} == {last.id}
    for index, choice in enumerate(whole.choices):
        own = [chunk.choices[0] for chunk in pieces if chunk.choices[0].index == index]
        assert own[0].delta.role == "assistant"
        assert "".join(piece.delta.content or "" for piece in own) == choice.message.content
        assert [piece.finish_reason for piece in own] == [None] * (len(own) - 1) + [choice.finish_reason]
        assert len(own) > 3, "it came in pieces"


def test_a_completion_streams_too(here: Site) -> None:
    ask = here.client().completions.create
    options: dict[str, Any] = {"model": "tiny", "prompt": [QUESTIONS[0], QUESTIONS[2]], "max_tokens": 24}
    whole = ask(**options)
    texts = ["", ""]
    for chunk in ask(**options, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in whole.choices]


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings(here: Site, embedded: Any, stream: bool) -> None:
    (alone,) = dllm.decode(embedded, QUESTIONS[0], max_new_tokens=64)
    stop = (alone.text or "")[9:13]
    options: dict[str, Any] = {"messages": ask_as_user(QUESTIONS[0]), "max_tokens": 64, "stop": [stop, "never"]}
    found = here.client().chat.completions.create(model="tiny", stream=stream, **options)
    if stream:
        pieces = [chunk.choices[0] for chunk in found]
        text, reason = "".join(piece.delta.content or "" for piece in pieces), pieces[-1].finish_reason
    else:
        text, reason = found.choices[0].message.content, found.choices[0].finish_reason
    assert (text, reason) == ((alone.text or "").partition(stop)[0], "stop")


def test_the_length_is_the_other_end(here: Site) -> None:
    answer = here.client().chat.completions.create(model="tiny", messages=ask_as_user(QUESTIONS[0]), max_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage and answer.usage.completion_tokens == 3


def test_a_strategy_for_each_call(here: Site, embedded: Any) -> None:
    ask: Any = here.client().chat.completions.create
    for given, options in (
        (FAST, Options(**FAST)),
        ({"policy": "klass(kl=0.02)"}, Options(policy="klass(kl=0.02)")),
        ({"recipe": "fast_dllm", "threshold": 0.7, "block_length": 16}, Options("fast_dllm", tau=0.7, block_size=16)),
        ({"factor": 2, "policy": "factor"}, Options(policy="factor", f=2.0)),
    ):
        answer = ask(model="tiny", messages=ask_as_user(QUESTIONS[0]), max_tokens=32, extra_body=given)
        strategy = options.strategy(embedded, 32)
        assert answer.dllm["strategy"] == repr(strategy)
        assert (
            answer.choices[0].message.content
            == dllm.decode(embedded, QUESTIONS[0], strategy, max_new_tokens=32)[0].text
        )
        same = ask(
            model="tiny", messages=ask_as_user(QUESTIONS[0]), max_tokens=32, extra_body={"strategy": repr(strategy)}
        )
        assert same.dllm["strategy"] == repr(strategy)


def test_aliases_name_options() -> None:
    assert set(ALIASES.values()) <= {"stop_ids", *Options.__dataclass_fields__}
    assert not set(ALIASES) & set(Options.__dataclass_fields__)


def test_drafts_are_events_for_callers_who_ask_for_them(here: Site) -> None:
    """Decode one token a step, since a draft that is not fetched before the next one is left out."""
    ask: Any = here.client().chat.completions.create
    options: dict[str, Any] = {"model": "tiny", "messages": ask_as_user(QUESTIONS[0]), "max_tokens": 32, "stream": True}
    chunks = list(ask(**options, extra_body={"drafts": True, "policy": "top-k", "k": 1}))
    drafts = [chunk.draft["text"] for chunk in chunks if chunk.object == "dllm.draft"]
    assert len(set(drafts)) > 1
    assert any("░" in draft and draft.strip("░") for draft in drafts), "text stands behind what is still pending"
    assert {chunk.object for chunk in ask(**options)} == {"chat.completion.chunk"}


def test_an_answer_keeps_to_a_schema(here: Site) -> None:
    pytest.importorskip("outlines_core")
    form: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": ["seven", "eight"]}}}
    ask: Any = here.client().chat.completions.create
    for _ in range(2):
        answer = ask(model="tiny", messages=ask_as_user(QUESTIONS[2]), response_format=form, max_tokens=24)
        assert answer.choices[0].message.content in ('"seven"', '"eight"')


def test_many_at_once_each_with_its_own(here: Site, embedded: Any) -> None:
    """Send calls with more strategies than runs and more answers than rows, some of them streamed."""
    kinds: list[dict[str, Any]] = [{}, FAST, {"policy": "top-k", "k": 2}, {"recipe": "fast_dllm", "tau": 0.6}]

    async def one(client: openai.AsyncOpenAI, i: int) -> str:
        body: dict[str, Any] = kinds[i % 4] | {"temperature": 0.8}
        options: dict[str, Any] = {"messages": ask_as_user(QUESTIONS[i % 3]), "seed": i, "max_tokens": 16 + 8 * (i % 3)}
        found = await client.chat.completions.create(model="tiny", stream=i % 2 == 0, extra_body=body, **options)
        if i % 2:
            return found.choices[0].message.content
        return "".join([chunk.choices[0].delta.content or "" async for chunk in found])

    async def gather_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{here.url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(one(client, i) for i in range(16)))

    for i, text in enumerate(asyncio.run(gather_all())):
        length = 16 + 8 * (i % 3)
        strategy = Options(**kinds[i % 4], temperature=0.8).strategy(embedded, length)
        assert text == dllm.decode(embedded, QUESTIONS[i % 3], strategy, max_new_tokens=length, seed=i)[0].text, i
    here.settle()


@pytest.mark.parametrize(
    ("given", "message", "param"),
    [
        ({"gamma": 0.1}, r'write policy "entropy-bound\(gamma=0.1\)"', "gamma"),
        ({"polcy": "factor"}, "unknown field 'polcy' \\(did you mean 'policy'", "polcy"),
        ({"policy": "factr"}, "unknown policy 'factr' \\(did you mean 'factor'.*threshold", None),
        ({"policy": "factor", "tau": 0.5}, "tau does not belong to factor: it takes f, score", None),
        ({"cache": "dual(refesh=3)"}, "no field 'refesh'", None),
        ({"strategy": "Strategy(policy=Threshold()"}, "never closed", None),
        ({"recipe": "llada", "strategy": "fast_dllm"}, "give one of them", "strategy"),
        ({"tau": 0.5, "threshold": 0.6}, "threshold and tau are the same", "threshold"),
        ({"tau": "high"}, "tau: Input should be a valid number \\(got 'high'\\)", "tau"),
        ({"response_format": {"type": "json_schema"}}, "needs a schema", "response_format"),
        ({"temperature": -1.0}, "temperature must be 0 or", None),
        ({"top_p": 0.5}, "set a temperature above 0", None),
        ({"logprobs": True}, "logprobs=True is not supported: leave it out \\(or False\\)", "logprobs"),
        ({"presence_penalty": 0.5}, "presence_penalty=0.5 is not supported", "presence_penalty"),
        ({"tools": [{"type": "function"}]}, "tools=.* is not supported", "tools"),
        ({"n": 0}, "n: Input should be greater than or equal to 1 \\(got 0\\)", "n"),
        ({"n": 65}, "65 answers in one call: at most 64", "n"),
        ({"seed": 2**70}, "seed", "seed"),
        ({"stop": ["a"] * 17}, "17 stop strings: at most 16", "stop"),
        ({"stop": ""}, "an empty stop string", None),
        ({"max_tokens": 5000}, "at most 2048 fit", "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "differ", "max_completion_tokens"),
        ({"drafts": True}, "drafts needs stream=true", "drafts"),
        ({"stream_options": {"include_usage": True}}, "stream_options needs stream=true", "stream_options"),
        ({"messages": []}, "at least 1 item", "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "messages.0.role"),
        ({"messages": [{"role": "user", "content": "x", "name": "Tom"}]}, "messages.0.name", "messages.0.name"),
        ({"messages": [{"role": "user"}]}, "messages.0.content: Field required", "messages.0.content"),
        ({"processor": ["regex('(')"]}, "regular expression", None),
        ({"policy": "top-k", "steps": 5, "max_tokens": 64}, "must be a multiple of", None),
    ],
)  # fmt: skip
def test_calls_that_cannot_be_decoded_are_explained(
    here: Site, given: dict[str, Any], message: str, param: str | None
) -> None:
    body = {"messages": ask_as_user("Hi"), "model": "tiny"} | given
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        here.client().post("/chat/completions", body=body, cast_to=object)
    assert caught.value.type == "invalid_request_error"
    assert caught.value.param == param


def test_neutral_values_are_taken(here: Site) -> None:
    here.client().chat.completions.create(
        model="tiny", messages=ask_as_user("Hi"), max_tokens=2, logprobs=False, presence_penalty=0,
        frequency_penalty=0.0, logit_bias={}, n=1, user="me", store=False, stream=False, tools=[],
        response_format={"type": "text"}, temperature=0, top_p=1,
    )  # fmt: skip
