"""The generated text: right by construction, split by prompt, deterministic; its grader neither lenient nor blind."""

from __future__ import annotations

import re
from itertools import islice

import pytest

from experiments.embedded_text import Example, generate_examples, is_correct, is_held_out

SOME = list(islice(generate_examples("test", held=False), 1500))


def test_the_worked_answer_is_graded_right_and_an_altered_one_wrong() -> None:
    for example in SOME:
        assert is_correct(example, example.completion)
        assert not is_correct(example, example.completion + "1")
        assert not is_correct(example, example.completion.replace("####", ""))


def test_every_line_of_working_is_true() -> None:
    for example in SOME:
        for left, sign, right, result in re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", example.completion):
            exact = {"+": int(left) + int(right), "-": int(left) - int(right), "*": int(left) * int(right)}
            assert int(result) == (int(left) / int(right) if sign == "/" else exact[sign]), example


@pytest.mark.parametrize("held", [True, False])
def test_the_splits_are_disjoint_by_the_hash_of_the_prompt(held: bool) -> None:
    assert all(is_held_out(e.prompt) is held for e in islice(generate_examples(1, held=held), 200))


def test_a_seed_decides_the_stream() -> None:
    assert list(islice(generate_examples(3, held=False), 50)) == list(islice(generate_examples(3, held=False), 50))
    assert list(islice(generate_examples(3, held=False), 50)) != list(islice(generate_examples(4, held=False), 50))


def test_word_problems_hardly_repeat() -> None:
    prompts = [e.prompt for e in SOME if e.kind == "word"]
    assert len(set(prompts)) > 0.95 * len(prompts)


def test_only_the_first_marked_number_counts() -> None:
    example = Example("sum", "What is 1 + 1?", "", "2")
    assert is_correct(example, "#### 2\n#### 3") and not is_correct(example, "#### 22") and not is_correct(example, "2")
