"""Small word problems and sums in free wordings, with worked answers that end in `#### result`."""

from __future__ import annotations

import re
from random import Random

from dllm.playground import daily, stories
from dllm.playground.base import Example, Task, demand
from dllm.playground.english import Writer, sentence
from dllm.playground.limits import Values
from dllm.playground.stories import Kind, Story, Work, fill
from dllm.playground.wordings import WORDINGS

KINDS: tuple[tuple[Kind, int, int], ...] = (
    (stories.changes, 8, 3),
    (stories.together, 3, 2),
    (stories.compare, 3, 2),
    (daily.groups, 4, 2),
    (daily.share, 2, 1),
    (daily.parts, 4, 1),
    (daily.places, 2, 3),
)
"""Kinds of story, how often each comes, and how many steps it can have."""

NUMBER = re.compile(r"-?\d+")


class Worked(Task):
    """A task whose answers show their work and state a number at the end."""

    structure = "Each symbol is fixed by the prompt; each equation is most easily seen after those before it."

    def is_right(self, example: Example, text: str) -> bool:
        return stated(text) == stated(example.reference)

    def limit(self, example: Example, values: Values = "drawn") -> int:
        return 1


class Problems(Worked):
    """Word problems of `size` steps."""

    name = "problems"
    title = "Solve a small word problem."
    sizes = (1, 2, 3)
    default_size = 1
    tokens = 64

    def draw(self, rng: Random, size: int, held: bool) -> Example:
        demand(self, size, 1, 4)
        writer = Writer(rng, held)
        able = [kind for kind in KINDS if kind[2] >= size] or [(stories.changes, 1, size)]
        story = rng.choices([kind for kind, _, _ in able], [weight for _, weight, _ in able])[0](writer, size)
        text = _rearranged(rng, story.text) if rng.random() < 0.15 else story.text
        preface = writer.wording("prefaces") if writer.chance(0.2) else ""
        return Example(_casual(rng, preface + text), worked(story), len(story.equations))


class Questions(Worked):
    """Sums of `size` operations on numbers up to 999, asked for in many ways."""

    name = "questions"
    title = "Answer a sum that is asked for in free words."
    sizes = (1, 2)
    default_size = 1
    tokens = 48

    def draw(self, rng: Random, size: int, held: bool) -> Example:
        demand(self, size, 1, 2)
        writer = Writer(rng, held)
        story = _one(writer) if size == 1 else _two(writer)
        return Example(_casual(rng, story.text), worked(story), size)


def _one(writer: Writer) -> Story:
    kind = writer.rng.choice(("+", "+", "+", "-", "-", "-", "*", "/", "half"))
    if kind == "half":
        if writer.chance(0.5):
            return _asked(writer, "half", 2 * writer.draw(1, 499), "/", 2)
        return _asked(writer, "double", 2, "*", writer.draw(1, 499))
    if kind == "+":
        a = writer.draw(0, 998)
        return _asked(writer, "plus", a, "+", writer.draw(0, 999 - a) if writer.chance(0.8) else writer.draw(0, 999))
    if kind == "-":
        a = writer.draw(1, 999)
        return _asked(writer, "minus", a, "-", writer.draw(0, a))
    n, m = daily.factors(writer)
    return _asked(writer, "times", n, "*", m) if kind == "*" else _asked(writer, "over", n * m, "/", n)


def _asked(writer: Writer, wording: str, a: int, sign: str, b: int) -> Story:
    work = Work(a)
    work.step(sign, b)
    numbers = {"{a}": writer.number(a), "{b}": writer.number(b)}
    return work.story(fill(writer.wording(wording), numbers))


def _two(writer: Writer) -> Story:
    a = writer.draw(1, 998)
    work, text, plus = Work(a), str(a), writer.chance(0.3)
    words = {"+": " plus ", "-": " minus "} if plus else {"+": " + ", "-": " - "}
    for _ in range(2):
        gains = work.total < 2 or (work.total < 998 and writer.chance(0.5))
        by = writer.draw(1, 999 - work.total if gains else work.total)
        work.step("+" if gains else "-", by)
        text += words["+" if gains else "-"] + str(by)
    return work.story(fill(writer.wording("chains"), {"{e}": text}))


def worked(story: Story) -> str:
    """The equations, one a line, then the result behind `####`."""
    return "\n".join([*story.equations, f"#### {story.result}"])


def stated(text: str) -> str | None:
    """The number that a text states: behind its first `####`, else its last one."""
    marked = re.search(r"####\s*(-?\d+)", text)
    if marked:
        return str(int(marked.group(1)))
    found = NUMBER.findall(text)
    return str(int(found[-1])) if found else None


def _rearranged(rng: Random, text: str) -> str:
    """The same problem with its question in one sentence with what is known: `If …, how many …?` or `How many … if …?`.

    A text that does not end in a question, or that has more than three sentences, stays as it is.
    """
    *told, asked = re.split(r"(?<=[.?]) ", text)
    if not asked.endswith("?") or not 1 <= len(told) <= 2:
        return text
    told = [_within(text.rstrip(".")) for text in told]
    joined = rng.choice((" and ", ", and ", ", ")).join(told) if len(told) == 2 else told[0]
    known = f"If {joined}, {_within(asked)}", f"{asked[:-1]} if {joined}?", f"Suppose that {joined}. {asked}"
    return rng.choice((*known, sentence(f"{joined}. {asked}")))


def _within(text: str) -> str:
    """A sentence as part of a longer one: without its capital, unless that belongs to a name."""
    return text[0].lower() + text[1:] if text.split()[0] in WORDINGS["openers"] else text


def _casual(rng: Random, text: str) -> str:
    """Now and then without the last mark, or all in lower case."""
    if rng.random() < 0.06:
        text = text.rstrip("?.")
    return text.lower() if rng.random() < 0.05 else text
