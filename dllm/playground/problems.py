"""Small word problems and sums in free wordings, with worked answers that end in `#### result`."""

from __future__ import annotations

import re
from random import Random

from dllm.playground import daily, stories
from dllm.playground.base import Example, Task, demand
from dllm.playground.english import Writer
from dllm.playground.stories import Kind, Story, Work, fill

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

PREFACES = (
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "Solve this: ",
    "Here is a problem: ",
    "Please help me. ",
    "Question: ",
)
NUMBER = re.compile(r"-?\d+")


class Worked(Task):
    """A task whose answers show their work and state a number at the end."""

    structure = "Each symbol is fixed by the prompt; each equation is most easily seen after those before it."

    def is_right(self, example: Example, text: str) -> bool:
        return stated(text) == stated(example.reference)

    def limit(self, example: Example) -> int:
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
        return Example(_casual(rng, writer.pick(PREFACES) + story.text), worked(story), len(story.equations))


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


PLUS = (
    "What is {a} + {b}?", "{a} + {b}", "What is {a} plus {b}?", "How much is {a} + {b}?", "Add {a} and {b}.", "{a} plus {b}", "What is the sum of {a} and {b}?", "{a} + {b} = ?",
    "Calculate {a} + {b}.", "How much is {a} and {b}?", "How much do {a} and {b} make?", "What do you get when you add {a} and {b}?", "Compute {a} plus {b}.", "{a}+{b}?", "Please add {a} to {b}.",
    "What does {a} plus {b} equal?", "Can you add {a} and {b}?", "Tell me what {a} + {b} is.", "Give me the sum of {a} and {b}.", "Work out {a} + {b}.", "What's {a} + {b}?", "what is {a}+{b}",
    "How many is {a} plus {b}?", "If I add {b} to {a}, what do I get?", "{b} more than {a} is what?", "What number is {b} more than {a}?", "{a} and {b} together make how much?",
)  # fmt: skip
MINUS = (
    "What is {a} - {b}?", "{a} - {b}", "What is {a} minus {b}?", "How much is {a} - {b}?", "Subtract {b} from {a}.", "{a} minus {b}", "What is the difference between {a} and {b}?", "{a} - {b} = ?",
    "Calculate {a} - {b}.", "How much is {a} minus {b}?", "Take {b} away from {a}.", "What is left if you take {b} from {a}?", "Compute {a} minus {b}.", "{a}-{b}?", "What is {b} less than {a}?",
    "What does {a} minus {b} equal?", "Can you subtract {b} from {a}?", "Tell me what {a} - {b} is.", "Work out {a} - {b}.", "What's {a} - {b}?", "what is {a}-{b}", "How much is {a} less {b}?",
    "If I take {b} from {a}, what is left?", "What must be added to {b} to get {a}?", "How far is it from {b} to {a}?",
)  # fmt: skip
TIMES = (
    "What is {a} * {b}?", "{a} * {b}", "What is {a} times {b}?", "How much is {a} times {b}?", "Multiply {a} by {b}.", "{a} times {b}", "What is the product of {a} and {b}?", "{a} x {b} = ?",
    "Calculate {a} * {b}.", "Compute {a} times {b}.", "{a}*{b}?", "What is {a} x {b}?", "What does {a} times {b} equal?", "Multiply {a} and {b}.", "Tell me what {a} times {b} is.", "Work out {a} x {b}.",
    "What's {a} times {b}?", "How much is {a} multiplied by {b}?",
)  # fmt: skip
OVER = (
    "What is {a} / {b}?", "{a} / {b}", "What is {a} divided by {b}?", "How much is {a} divided by {b}?", "Divide {a} by {b}.", "{a} divided by {b}", "{a} / {b} = ?", "Calculate {a} / {b}.",
    "Compute {a} divided by {b}.", "How many times does {b} go into {a}?", "What does {a} divided by {b} equal?", "Work out {a} / {b}.", "What's {a} divided by {b}?", "Tell me what {a} / {b} is.",
)  # fmt: skip
HALF = (
    "What is half of {a}?",
    "Half of {a}?",
    "How much is half of {a}?",
    "What is one half of {a}?",
    "Tell me half of {a}.",
)
DOUBLE = (
    "What is twice {b}?",
    "Double {b}.",
    "What is the double of {b}?",
    "How much is twice {b}?",
    "What do you get if you double {b}?",
)
CHAINS = (
    "What is {e}?",
    "{e}",
    "Calculate {e}.",
    "How much is {e}?",
    "{e} = ?",
    "Compute {e}.",
    "Work out {e}.",
    "What does {e} equal?",
    "Tell me what {e} is.",
    "What's {e}?",
)


def _one(writer: Writer) -> Story:
    kind = writer.rng.choice(("+", "+", "+", "-", "-", "-", "*", "/", "half"))
    if kind == "half":
        if writer.chance(0.5):
            return _asked(writer, HALF, 2 * writer.draw(1, 499), "/", 2)
        return _asked(writer, DOUBLE, 2, "*", writer.draw(1, 499))
    if kind == "+":
        a = writer.draw(0, 998)
        return _asked(writer, PLUS, a, "+", writer.draw(0, 999 - a) if writer.chance(0.8) else writer.draw(0, 999))
    if kind == "-":
        a = writer.draw(1, 999)
        return _asked(writer, MINUS, a, "-", writer.draw(0, a))
    n, m = daily._factors(writer)
    return _asked(writer, TIMES, n, "*", m) if kind == "*" else _asked(writer, OVER, n * m, "/", n)


def _asked(writer: Writer, wordings: tuple[str, ...], a: int, sign: str, b: int) -> Story:
    work = Work(a)
    work.step(sign, b)
    numbers = {"{a}": writer.number(a), "{b}": writer.number(b)}
    return work.story(fill(writer.pick(wordings), numbers))


def _two(writer: Writer) -> Story:
    a = writer.draw(1, 998)
    work, text, plus = Work(a), str(a), writer.chance(0.3)
    words = {"+": " plus ", "-": " minus "} if plus else {"+": " + ", "-": " - "}
    for _ in range(2):
        gains = work.total < 2 or (work.total < 998 and writer.chance(0.5))
        by = writer.draw(1, 999 - work.total if gains else work.total)
        work.step("+" if gains else "-", by)
        text += words["+" if gains else "-"] + str(by)
    return work.story(fill(writer.pick(CHAINS), {"{e}": text}))


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


def _casual(rng: Random, text: str) -> str:
    """Now and then without the last mark, or all in lower case."""
    if rng.random() < 0.06:
        text = text.rstrip("?.")
    return text.lower() if rng.random() < 0.05 else text
