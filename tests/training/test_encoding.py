"""Responses are learnt, prompts are not and get the ids that decoding gives them, and nothing is lost silently."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dllm import prompts
from dllm.errors import ConfigError
from dllm.training.data import DataProblem, DataRecord
from dllm.training.encoding import REWRITES, encode_records
from dllm.training.tokenizer import END
from tests.training.conftest import tiny_tokenizer

TURNS = [
    {"role": "user", "content": "Mia has 3 nuts."},
    {"role": "assistant", "content": "She has 3."},
    {"role": "user", "content": "And Tom?"},
    {"role": "assistant", "content": "Tom has 4."},
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


def only(tokenizer: Any, *records: DataRecord | DataProblem, longest: int | None = 100) -> tuple[Any, Any]:
    samples, report = encode_records(records, tokenizer, longest=longest, end=0)
    assert len(samples) == 1
    return samples[0], report


def learnt(tokenizer: Any, sample: Any) -> list[str]:
    """The runs of learnt tokens, as text."""
    runs: list[list[int]] = [[]]
    for token, flag in zip(sample.tokens, sample.learnt, strict=True):
        if flag:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [tokenizer.decode(run) for run in runs if run]


def test_every_response_is_learnt_and_nothing_else(tokenizer: Any) -> None:
    sample, report = only(tokenizer, DataRecord("a:1", tuple(TURNS)))
    assert learnt(tokenizer, sample) == [f"She has 3.{END}", f"Tom has 4.{END}"]
    assert tokenizer.decode(sample.tokens) == tokenizer.apply_chat_template(TURNS, tokenize=False)
    assert not report.skipped and not report.notes


def test_the_prompt_has_the_ids_that_decoding_gives_it(tokenizer: Any) -> None:
    sample, _ = only(tokenizer, DataRecord("a:1", tuple(TURNS[:2])))
    asked = prompts.encode_prompt(SimpleNamespace(tokenizer=tokenizer), TURNS[:1])
    assert tuple(sample.tokens[: sample.learnt.index(True)]) == asked


def test_a_template_that_rewrites_earlier_turns_leaves_the_last_one_and_says_so(tokenizer: Any) -> None:
    forgetful = tiny_tokenizer()
    forgetful.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' and not loop.last %}{{ '(gone)' }}"
        "{% else %}{{ m.role + ': ' + m.content + '\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    sample, report = only(forgetful, DataRecord("a:1", tuple(TURNS)))
    assert learnt(forgetful, sample) == ["Tom has 4.\n"]
    assert report.notes == {REWRITES: 1}


def test_what_the_template_adds_to_a_response_is_learnt_with_it() -> None:
    thinking = tiny_tokenizer()
    thinking.chat_template = (
        "{% for m in messages %}{{ m.role + ':' }}{% if m.role == 'assistant' %}{{ '(hm)' }}{% endif %}"
        "{{ m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    sample, _ = only(thinking, DataRecord("a:1", tuple(TURNS[:2])))
    assert learnt(thinking, sample) == ["(hm)She has 3.\n"]


def test_documents_are_learnt_whole_and_cut_where_they_are_long(tokenizer: Any) -> None:
    text = "Mia has 3 nuts. " * 10
    ids = [*tokenizer(text).input_ids, 0]
    samples, report = encode_records([DataRecord("a:1", text=text)], tokenizer, longest=20, end=0)
    assert [token for sample in samples for token in sample.tokens] == ids
    assert all(all(sample.learnt) and len(sample.tokens) <= 20 for sample in samples)
    assert report.pieces == len(samples) == -(-len(ids) // 20)
    assert f"{len(samples)} of them parts of long documents" in report.lines()[0]


def test_over_long_conversations_and_bad_rows_are_counted_and_told(tokenizer: Any) -> None:
    long = DataRecord("a:2", ({"role": "user", "content": "x " * 200}, {"role": "assistant", "content": "y"}))
    problems = [DataProblem("a:3", "broken JSON", "comma"), DataProblem("a:9", "broken JSON", "brace")]
    _, report = only(tokenizer, DataRecord("a:1", tuple(TURNS)), long, *problems)
    assert report.rows == 4 and report.samples == 1
    assert report.skipped == {"over-long sample": 1, "broken JSON": 2}
    assert "skipped 2: broken JSON (first: a:3: comma)" in report.lines()
    assert any("first: a:2: " in line and "100 fit a row" in line for line in report.lines())


def test_strict_stops_at_the_first_bad_row(tokenizer: Any) -> None:
    rows = [DataRecord("a:1", tuple(TURNS)), DataProblem("a:2", "broken JSON", "comma")]
    with pytest.raises(ConfigError, match="a:2: broken JSON: comma"):
        encode_records(rows, tokenizer, longest=100, end=0, strict=True)


def test_no_usable_row_is_an_error_that_says_why(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"no usable row.*skipped 1: no response"):
        encode_records(
            [DataProblem("a:1", "no response", "no message of the assistant")], tokenizer, longest=100, end=0
        )


def test_a_conversation_needs_a_chat_template() -> None:
    plain = tiny_tokenizer()
    plain.chat_template = None
    with pytest.raises(ConfigError, match=r"a:1: a conversation, but the tokenizer .* no chat template"):
        encode_records([DataRecord("a:1", tuple(TURNS))], plain, longest=100, end=0)


def test_a_template_that_refuses_a_conversation_is_named() -> None:
    strict = tiny_tokenizer()
    strict.chat_template = "{{ raise_exception('no system message') }}"
    with pytest.raises(ConfigError, match=r"a:1: the chat template refuses it .*no system message"):
        encode_records([DataRecord("a:1", tuple(TURNS))], strict, longest=100, end=0)
