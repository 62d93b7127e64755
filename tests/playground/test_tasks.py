"""Every task: its references are right, broken ones are not, its prompts are the seed's alone and split for good."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dllm.errors import ConfigError
from dllm.playground import TASKS, Example, Task, task
from dllm.playground.base import is_held_out
from dllm.playground.english import Writer, is_held_out_wording
from dllm.playground.problems import find_stated_number
from dllm.playground.sudoku import iterate_solutions
from dllm.playground.wordings import WORDINGS

NAMES = tuple(TASKS)
WORKED = ("problems", "questions")
LISTS = ("copy", "reverse", "sort", "shuffle", "replace", "insert", "remove")


@pytest.mark.parametrize("name", NAMES)
def test_every_reference_is_right_at_every_size_of_both_splits(name: str) -> None:
    kind = task(name)
    for size in kind.sizes:
        for held_out in (False, True):
            for example in kind.examples("right", size, 4, held_out=held_out):
                assert kind.is_right(example, example.reference), example
                assert kind.is_right(example, f" {example.reference}\n"), example
                assert is_held_out(example.prompt) == held_out


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WORKED])
def test_broken_answers_are_wrong(name: str) -> None:
    kind = task(name)
    for example in kind.examples("broken", count=6):
        words = example.reference.split()
        for text in ("", "?", " ".join(words[:-1]), example.reference + " ball 7", example.prompt):
            assert not kind.is_right(example, text), (example, text)


@pytest.mark.parametrize("name", WORKED)
def test_a_worked_answer_is_judged_by_the_number_it_states(name: str) -> None:
    kind = task(name)
    for example in kind.examples("broken", count=6):
        number = example.reference.split()[-1]
        for text in ("", "?", f"{example.reference}0", f"#### {int(number) + 1}", f"{number}\n#### -{number}1"):
            assert not kind.is_right(example, text), (example, text)
        for text in (f"#### {number}", f"The answer is {number}.", f"#### {number}, not 7"):
            assert kind.is_right(example, text), (example, text)


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(NAMES), seed=st.integers(0, 10**6), at=st.integers(0, 10**6), other=st.characters())
def test_changing_one_symbol_of_the_only_answer_makes_it_wrong(name: str, seed: int, at: int, other: str) -> None:
    kind = task(name)
    example = kind.example(seed, kind.default_size)
    at %= len(example.reference)
    text = example.reference[:at] + other + example.reference[at + 1 :]
    if kind.limit(example) == 1 and name not in WORKED and text.split() != example.reference.split():
        assert not kind.is_right(example, text)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_depends_on_its_seed_and_number_alone(name: str) -> None:
    kind = task(name)
    many = kind.examples(3, count=5)
    assert kind.examples(3, count=2) == many[:2]
    assert kind.example("3-4", kind.default_size) == many[4]
    assert kind.examples(4, count=5) != many


@pytest.mark.parametrize("name", NAMES)
def test_no_prompt_is_in_both_splits(name: str) -> None:
    kind = task(name)
    for size in (kind.sizes[0], kind.default_size):
        trained = {example.prompt for example in kind.examples(0, size, 60, held_out=False)}
        held_out = {example.prompt for example in kind.examples(0, size, 30, held_out=True)}
        assert trained and held_out and not trained & held_out


@pytest.mark.parametrize("name", NAMES)
def test_free_choices_differ_and_all_listed_answers_are_right(name: str) -> None:
    kind = task(name)
    example = kind.example(1, kind.sizes[1])
    answers = list(islice(kind.answers(example), 50))
    if name == "agreement":
        pieces = example.prompt.split("__")
        texts = ["".join(p + w for p, w in zip(pieces, (*answer, ""), strict=True)) for answer in answers]
    elif name == "latin":
        size = example.size
        texts = ["\n".join("".join(a[i * size : (i + 1) * size]) for i in range(size)) for a in answers]
    else:
        texts = [("" if name == "brackets" else " ").join(answer) for answer in answers]
    assert len(set(texts)) == len(texts)
    assert all(kind.is_right(example, text) for text in texts), texts


@pytest.mark.parametrize("name", NAMES)
def test_a_size_that_cannot_be_is_refused_by_name(name: str) -> None:
    for size in (0, 10_000):
        with pytest.raises(ConfigError, match=rf"playground/{name}: size {size} must lie in"):
            task(name).example(0, size)


def test_every_task_says_what_it_is_and_how_it_hangs_together() -> None:
    for name in NAMES:
        kind = task(f"playground/{name}")
        assert kind.name == name and kind.title.endswith(".") and kind.structure.endswith(".")
        assert kind.default_size in kind.sizes and list(kind.sizes) == sorted(kind.sizes)


def test_lists_are_of_different_words() -> None:
    for name in LISTS:
        for example in task(name).examples(0, count=20):
            words = example.prompt.rpartition(":")[2].split()
            assert len(set(words)) == len(words) == example.size


@pytest.mark.parametrize(("name", "height"), [("sudoku4", 2), ("sudoku6", 2)])
def test_a_sudoku_has_one_solution(name: str, height: int) -> None:
    kind = task(name)
    for example in kind.examples(0, count=5):
        rows = [[int(cell) for cell in row] for row in example.prompt.split("\n")[1:]]
        assert sum(row.count(0) for row in rows) == example.size
        found = list(iterate_solutions(rows, height, len(rows) // height))
        assert ["".join(map(str, row)) for row in found[0]] == example.reference.split() and len(found) == 1


def test_worked_answers_are_sums_that_hold() -> None:
    for name in ("problems", "questions"):
        kind = task(name)
        for size in kind.sizes:
            for example in kind.examples("worked", size, 60):
                *equations, last = example.reference.split("\n")
                assert len(equations) == size
                results = []
                for equation in equations:
                    left, right = equation.split(" = ")
                    one, sign, two = left.split()
                    value = {"+": int(one) + int(two), "-": int(one) - int(two), "*": int(one) * int(two)}
                    assert value.get(sign, int(one) / int(two) if sign == "/" else None) == int(right)
                    results.append(int(right))
                assert last == f"#### {results[-1]}" and all(0 <= result <= 1998 for result in results)


def test_every_number_of_a_problem_is_used() -> None:
    """The prompt's numbers in digits are among those of the equations, so that no problem asks for what is not said."""
    for example in task("problems").examples("numbers", 2, 80):
        said = {word.strip(".,?'") for word in example.prompt.split()}
        assert {word for word in said if word.isdigit()} <= set(example.reference.replace("\n", " ").split())


def test_the_number_that_a_text_states() -> None:
    assert find_stated_number("12 + 30 = 42\n#### 42") == "42"
    assert find_stated_number("The answer is 42.") == "42"
    assert find_stated_number("#### 007") == "7"
    assert find_stated_number("nothing") is None


def test_held_out_wordings_and_names_are_never_trained_on() -> None:
    unseen = {name for key in ("she", "he") for name in WORDINGS[key] if is_held_out_wording(name)}
    assert len(unseen) >= 8
    kind = task("problems")
    trained = " ".join(e.prompt for size in kind.sizes for e in kind.examples(0, size, 300, held_out=False))
    held_out = " ".join(e.prompt for size in kind.sizes for e in kind.examples(0, size, 100, held_out=True))
    words = set(trained.replace("'s", "").replace(".", "").replace("?", "").replace(",", "").split())
    assert not unseen & words
    assert any(name in held_out for name in unseen)
    for alternatives in WORDINGS.values():
        drawn = {Writer(Random(n), held_out=False).pick(alternatives) for n in range(50)}
        assert not any(is_held_out_wording(text) for text in drawn) or all(
            is_held_out_wording(text) for text in alternatives
        )


def test_tasks_need_nothing_heavy() -> None:
    """Listing and drawing tasks imports neither torch nor transformers."""
    code = (
        "import sys\nfrom dllm.playground import TASKS, task\n"
        "[task(name).examples(0) for name in TASKS]\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_task_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="unknown task 'shufle' \\(did you mean 'shuffle'\\?\\)"):
        task("playground/shufle")


class Echo(Task):
    """A task as a user writes it."""

    name = "echo"
    title = "Say it again."
    structure = "Nothing depends on anything."
    sizes = (1,)
    default_size = 1

    def draw(self, rng: Random, size: int, held_out: bool) -> Example:
        word = str(rng.random())
        return Example(f"Say {word}", word, size)

    def is_right(self, example: Example, text: str) -> bool:
        return text == example.reference


def test_a_task_in_a_file_of_ones_own_has_all_that_the_others_have() -> None:
    example = Echo().examples(0, count=3)[0]
    assert Echo().is_right(example, example.reference)
    assert Echo().limit(example) == 1 and Echo().best_accuracy(example, 1) == 1.0


def test_what_packages_bring_must_be_a_task(tmp_path: Path) -> None:
    """In a process of its own, since entry points may be read once for the life of a process."""
    (tmp_path / "my_tasks.py").write_text("from dllm.playground.copying import Copy as Mine\nclass NoTask:\n    pass\n")
    info = tmp_path / "my_tasks-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-tasks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dllm.tasks]\nmine = my_tasks:Mine\nbad = my_tasks:NoTask\n")
    code = (
        "from dllm.playground import task\n"
        "assert task('playground/mine').examples(0, count=2)\n"
        "try:\n    task('bad')\nexcept Exception as error:\n    print(error)"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = os.environ | {"PYTHONPATH": path}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert re.search(r"bad.*my-tasks 1\.0.*no subclass of dllm.playground.Task", found.stdout)


def test_one_prompt_in_sixteen_is_held_out_and_stays_so() -> None:
    held_out = [number for number in range(3200) if is_held_out(f"Copy: {number}")]
    assert 150 < len(held_out) < 250
    assert held_out[:3] == [10, 16, 34]
