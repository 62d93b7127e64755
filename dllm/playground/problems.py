"""Small word problems and sums in free wordings, with worked answers that end in `#### result`."""

from __future__ import annotations

import re
from random import Random

from dllm.playground import daily, stories
from dllm.playground.base import Example, Task, check_size
from dllm.playground.english import Writer, capitalise
from dllm.playground.limits import Values
from dllm.playground.stories import Calculation, Kind, Story, fill_template
from dllm.playground.wordings import WORDINGS

KINDS: tuple[tuple[Kind, int, int], ...] = (
    (stories.write_change_story, 8, 3),
    (stories.write_total_story, 3, 2),
    (stories.write_comparison_story, 3, 2),
    (daily.write_group_story, 4, 2),
    (daily.write_sharing_story, 2, 1),
    (daily.write_parts_story, 4, 1),
    (daily.write_place_story, 2, 3),
)
"""Kinds of story, each with its relative frequency and its largest number of steps."""

NUMBER = re.compile(r"-?\d+")


class WorkedAnswer(Task):
    """A task whose answers show their work and state a number at the end."""

    structure = "Each symbol is fixed by the prompt; each equation is most easily seen after those before it."

    def is_right(self, example: Example, text: str) -> bool:
        return find_stated_number(text) == find_stated_number(example.reference)

    def limit(self, example: Example, values: Values = "drawn") -> int:
        return 1


class Problems(WorkedAnswer):
    """Word problems of `size` steps."""

    name = "problems"
    title = "Solve a small word problem."
    sizes = (1, 2, 3)
    default_size = 1
    tokens = 64

    def draw(self, rng: Random, size: int, held_out: bool) -> Example:
        check_size(self, size, 1, 4)
        writer = Writer(rng, held_out)
        possible = [kind for kind in KINDS if kind[2] >= size] or [(stories.write_change_story, 1, size)]
        story = rng.choices([kind for kind, _, _ in possible], [weight for _, weight, _ in possible])[0](writer, size)
        text = _join_sentences(rng, story.text) if rng.random() < 0.15 else story.text
        preface = writer.wording("prefaces") if writer.chance(0.2) else ""
        return Example(_make_casual(rng, preface + text), _format_solution(story), len(story.equations))


class Questions(WorkedAnswer):
    """Sums of `size` operations on numbers up to 999, in many wordings."""

    name = "questions"
    title = "Answer a sum that is asked for in free words."
    sizes = (1, 2)
    default_size = 1
    tokens = 48

    def draw(self, rng: Random, size: int, held_out: bool) -> Example:
        check_size(self, size, 1, 2)
        writer = Writer(rng, held_out)
        story = _write_one_operation(writer) if size == 1 else _write_two_operations(writer)
        return Example(_make_casual(rng, story.text), _format_solution(story), size)


def _write_one_operation(writer: Writer) -> Story:
    """Write a question about one operation."""
    kind = writer.rng.choice(("+", "+", "+", "-", "-", "-", "*", "/", "half"))
    if kind == "half":
        if writer.chance(0.5):
            return _write_question(writer, "half", 2 * writer.draw(1, 499), "/", 2)
        return _write_question(writer, "double", 2, "*", writer.draw(1, 499))
    if kind == "+":
        a = writer.draw(0, 998)
        return _write_question(
            writer, "plus", a, "+", writer.draw(0, 999 - a) if writer.chance(0.8) else writer.draw(0, 999)
        )
    if kind == "-":
        a = writer.draw(1, 999)
        return _write_question(writer, "minus", a, "-", writer.draw(0, a))
    n, m = daily.draw_factors(writer)
    return (
        _write_question(writer, "times", n, "*", m) if kind == "*" else _write_question(writer, "over", n * m, "/", n)
    )


def _write_question(writer: Writer, wording: str, a: int, sign: str, b: int) -> Story:
    """Write a question about `a sign b` in a wording of that name."""
    calculation = Calculation(a)
    calculation.step(sign, b)
    numbers = {"{a}": writer.number(a), "{b}": writer.number(b)}
    return calculation.story(fill_template(writer.wording(wording), numbers))


def _write_two_operations(writer: Writer) -> Story:
    """Write a question about a chain of two additions or subtractions."""
    a = writer.draw(1, 998)
    calculation, text, plus = Calculation(a), str(a), writer.chance(0.3)
    words = {"+": " plus ", "-": " minus "} if plus else {"+": " + ", "-": " - "}
    for _ in range(2):
        gains = calculation.total < 2 or (calculation.total < 998 and writer.chance(0.5))
        by = writer.draw(1, 999 - calculation.total if gains else calculation.total)
        calculation.step("+" if gains else "-", by)
        text += words["+" if gains else "-"] + str(by)
    return calculation.story(fill_template(writer.wording("chains"), {"{e}": text}))


def _format_solution(story: Story) -> str:
    """Write the equations of a story, one on each line, then the result after `####`."""
    return "\n".join([*story.equations, f"#### {story.result}"])


def find_stated_number(text: str) -> str | None:
    """Find the number that a text states: the one after its first `####`, else its last number."""
    marked = re.search(r"####\s*(-?\d+)", text)
    if marked:
        return str(int(marked.group(1)))
    found = NUMBER.findall(text)
    return str(int(found[-1])) if found else None


def _join_sentences(rng: Random, text: str) -> str:
    """Join the sentences of a problem into one: `If …, how many …?` or `How many … if …?`.

    A text that does not end in a question, or that has more than three sentences, stays as it is.
    """
    *statements, question = re.split(r"(?<=[.?]) ", text)
    if not question.endswith("?") or not 1 <= len(statements) <= 2:
        return text
    statements = [_lower_opener(text.rstrip(".")) for text in statements]
    joined = rng.choice((" and ", ", and ", ", ")).join(statements) if len(statements) == 2 else statements[0]
    known = (
        f"If {joined}, {_lower_opener(question)}",
        f"{question[:-1]} if {joined}?",
        f"Suppose that {joined}. {question}",
    )
    return rng.choice((*known, capitalise(f"{joined}. {question}")))


def _lower_opener(text: str) -> str:
    """Make a sentence part of a longer one: remove its capital, unless it belongs to a name."""
    return text[0].lower() + text[1:] if text.split()[0] in WORDINGS["openers"] else text


def _make_casual(rng: Random, text: str) -> str:
    """Sometimes remove the last punctuation mark, or write all in lower case, as people type."""
    if rng.random() < 0.06:
        text = text.rstrip("?.")
    return text.lower() if rng.random() < 0.05 else text
