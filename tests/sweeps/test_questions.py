"""Questions from files and from the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dllm.errors import ConfigError
from dllm.sweeps.questions import SOURCES, QuestionSet, find_source, read_questions
from experiments.embedded_text import is_held_out
from experiments.sweep_questions import make_lines


@pytest.mark.parametrize("name", SOURCES)
def test_the_packages_sets_are_what_their_generator_makes(name: str) -> None:
    path = find_source(name)
    assert path is not None and path.read_text() == "".join(make_lines(name))


def test_the_packages_sets_are_held_out_and_apart() -> None:
    sets = [[json.loads(line)["prompt"] for line in make_lines(name)] for name in SOURCES]
    both = [prompt for found in sets for prompt in found]
    assert len(set(both)) == len(both) == 500 and all(map(is_held_out, both))


def test_a_template_makes_prompts_of_fields(tmp_path: Path) -> None:
    path = tmp_path / "gsm8k.jsonl"
    path.write_text(json.dumps({"question": "2 + {3}?", "answer": "2 + 3 = 5\n#### 5", "prompt": "old"}) + "\n")
    (question,) = QuestionSet("gsm8k", path, template="Q: {question}\nA:").read()
    assert question.row.prompt == "Q: 2 + {3}?\nA:"
    assert question.check == "number" and question.correct("so #### 5") and not question.correct(None)
    _, problems = read_questions(QuestionSet("gsm8k", path, template="{problem}"))
    assert "no 'problem', it has question, answer, prompt" in problems[0].message


def test_lines_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(
        '{"prompt": "a", "answer": 5}\n\n{"prompt": "b", "answer": "x", "check": "number"}\n{"prompt": "c", "id": 0}\n'
        '{"prompt": "d", "answer": [1]}\n{"prompt": "e"}\nno json\n'
    )
    found, problems = read_questions(QuestionSet("q", path))
    assert [q.answer for q in found] == ["5", None] and found[1].correct("anything") is None
    assert [p.line for p in problems] == [3, 4, 5, 7]
    with pytest.raises(ConfigError, match=r"q\.jsonl:3: answer 'x': holds no number"):
        QuestionSet("q", path).read()
    assert len(QuestionSet("q", path, limit=1).read()) == 1
    with pytest.raises(ConfigError, match="No such file"):
        QuestionSet("q", tmp_path / "none.jsonl").read()
