"""Word problems with worked answers, in wordings that are put together from many parts.

A story is its text and its equations, one for each step. `dllm.playground.english` decides which wordings and names a
split may use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from dllm.playground.english import Person, Writer, capitalise

LARGEST = 999
"""Largest number of a story."""

VERBS = ("have", "start", "own", "keep", "collect", "begin", "get", "receive", "give", "sell", "lend")
"""Verbs that wordings about a person may have in braces."""

TO_FRIEND = ("give", "sell", "hand", "send", "lend")
"""Verbs that may be followed by the name of a friend."""


class Story(NamedTuple):
    """The text of a problem, its equations in order, and the result."""

    text: str
    equations: list[str]
    result: int


class Calculation:
    """A running result with the equations that led to it."""

    def __init__(self, total: int) -> None:
        self.total, self.equations = total, list[str]()

    def step(self, sign: str, by: int, *, swap: bool = False) -> int:
        """Apply an operation and record it as `total sign by = result`, or with `swap` as `by sign total = result`."""
        left, right = (by, self.total) if swap else (self.total, by)
        results = {"+": left + right, "-": left - right, "*": left * right, "/": left // max(right, 1)}
        self.total = results[sign]
        self.equations.append(f"{left} {sign} {right} = {self.total}")
        return self.total

    def story(self, *sentences: str) -> Story:
        """Make a story of sentences and of this calculation."""
        return Story(" ".join(filter(None, sentences)), self.equations, self.total)


class SentenceMaker:
    """A maker of sentences about one person and one kind of thing, in one tense."""

    def __init__(self, writer: Writer) -> None:
        self.writer, self.person, self.things = writer, writer.person(), writer.things()
        self.friend = writer.person(self.person, Person("I", "", "", ""), Person("You", "", "", ""))
        self.past = writer.chance(0.25)
        self.named = False

    def make(self, template: str, number: str = "", verb: str = "") -> str:
        """Fill a template with the person, the things, a number and a verb; base forms of verbs are in braces."""
        person = self.person
        name = person.name if not self.named or self.writer.chance(0.5) else person.he
        if self.named and name.startswith("A "):
            name = "the " + name[2:]
        self.named = True
        middle = name[0].lower() + name[1:] if name.split()[0] in ("A", "The", "My", "Our", "You") else name
        values = {
            "S": middle,
            "N": middle,
            "n": number,
            "things": self.things,
            "he": person.he,
            "his": person.his,
            "him": person.him,
            "He": capitalise(person.he),
            "His": capitalise(person.his),
            "F": self.friend.name,
            "do": person.do(self.past and self.writer.chance(0.3)),
            "verb": person.verb(verb, self.past) if verb else "",
            **{base: person.verb(base, self.past) for base in VERBS},
        }
        if "now" in template:
            values["have"] = person.verb("have", False)
        for key, value in values.items():
            template = template.replace(f"{{{key}}}", value)
        return capitalise(template.replace("I's", "my").replace("you's", "your"))

    def count(self, value: int, more: bool = False) -> str:
        """Write a number with or without its noun: `5 apples`, `5 more apples`, `5 more` or `5`."""
        number, noun = self.writer.number(value), self.things if self.writer.chance(0.5) else ""
        word = ""
        if self.writer.chance(0.5 if more else 0.15):
            word = "more" if more else "of them"
        parts = (number, "", word) if word == "of them" else (number, word, noun)
        return " ".join(filter(None, parts))


def write_change_story(writer: Writer, steps: int) -> Story:
    """Write a story of a person who has things and gains or loses some in each step."""
    sentences = SentenceMaker(writer)
    start = writer.draw(1, LARGEST)
    calculation, texts = Calculation(start), [sentences.make(writer.wording("have"), writer.number(start))]
    gains = False
    for number in range(steps):
        gains = _choose_gain(writer, calculation.total)
        by = writer.draw(1, LARGEST - calculation.total if gains else calculation.total)
        count = sentences.count(by, more=gains)
        if number == 0 and writer.chance(0.25) and "{" not in texts[0] and texts[0].endswith(f"{sentences.things}."):
            joined = sentences.make(
                "~" + writer.wording("joined"),
                count,
                writer.wording("gain" if gains else "loss"),
            )
            texts[0] = texts[0][:-1] + joined[1:]
        elif writer.chance(0.3):
            wording = writer.wording("friend_gives" if gains else "friend_takes")
            texts.append(sentences.make(wording, writer.number(by) if "{n} of" in wording else count))
        elif not gains and writer.chance(0.2):
            verb = (
                writer.pick(TO_FRIEND) + f" {sentences.friend.name}" if writer.chance(0.3) else writer.wording("loss")
            )
            texts.append(sentences.make(writer.wording("steps"), count, verb))
        else:
            texts.append(sentences.make(writer.wording("steps"), count, writer.wording("gain" if gains else "loss")))
        calculation.step("+" if gains else "-", by)
    if writer.chance(0.04):
        return calculation.story(*texts)
    asked = "how_many" if gains or writer.chance(0.3) else "how_many_left"
    return calculation.story(*texts, sentences.make(writer.wording(asked)))


def _choose_gain(writer: Writer, total: int) -> bool:
    """Choose a gain (True) or a loss, so that the total stays within 0..LARGEST."""
    return total < 2 or (total < LARGEST - 1 and writer.chance(0.5))


def write_total_story(writer: Writer, steps: int) -> Story:
    """Write a story of two or three people that asks for the total or the difference of their things."""
    one, things = writer.person(), writer.things()
    two = writer.person(one)
    first = writer.draw(1, LARGEST - 1)
    second = writer.draw(1, LARGEST - first)
    calculation, has = Calculation(first), one.verb("have", False)
    a, b = writer.number(first), writer.number(second)
    values = {"{A}": capitalise(one.name), "{B}": two.name, "{a}": a, "{b}": b, "{things}": things, "{has}": has}
    if steps == 1 and writer.chance(0.35) and first != second:
        calculation = Calculation(max(first, second))
        calculation.step("-", min(first, second))
        more, less = (one, two) if first > second else (two, one)
        values |= {"{M}": more.name, "{L}": less.name, "{do}": more.do(False), "{dol}": less.do(False)}
        return calculation.story(
            fill_template(writer.wording("two_have"), values), fill_template(writer.wording("difference"), values)
        )
    calculation.step("+", second)
    text = fill_template(writer.wording("two_have"), values)
    if steps == 2 and calculation.total < LARGEST:
        third = writer.draw(1, LARGEST - calculation.total)
        three = writer.person(one, two)
        text += " " + fill_template(
            writer.wording("third_has"), {"{C}": three.name, "{c}": writer.number(third), "{things}": things}
        )
        calculation.step("+", third)
        return calculation.story(text, fill_template(writer.wording("all_together"), values))
    return calculation.story(text, fill_template(writer.wording("together"), values))


def write_comparison_story(writer: Writer, steps: int) -> Story:
    """Write a story of a person who has more, fewer or a multiple of the things of another."""
    one, things = writer.person(), writer.things()
    two = writer.person(one, Person("I", "", "", ""), Person("You", "", "", ""))
    kind = writer.rng.choice(("more", "fewer", "twice", "three times", "half"))
    room = LARGEST // (1 if steps == 1 else 2) - 1
    if kind in ("more", "fewer"):
        first = writer.draw(2, room - 1)
        by = writer.draw(1, room - first if kind == "more" else first - 1)
        sign, amount = ("+", by) if kind == "more" else ("-", by)
        phrase = fill_template(writer.wording("more_than"), {"{k}": kind, "{n}": writer.number(by)})
    else:
        factor = {"twice": 2, "three times": 3, "half": 2}[kind]
        first = writer.draw(1, room // 4)
        first *= factor if kind == "half" else 1
        sign, amount, by = ("/" if kind == "half" else "*"), factor, factor
        phrase = fill_template(writer.wording("times_as_many"), {"{k}": kind})
    calculation = Calculation(first)
    values = {
        "{A}": capitalise(one.name), "{a}": one.name, "{B}": two.name, "{has}": one.verb("have", False),
        "{n}": writer.number(first), "{things}": things,
    }  # fmt: skip
    calculation.step(sign, amount)
    text = fill_template(writer.wording("one_has"), values) + " " + fill_template(phrase, values)
    if steps == 1:
        return calculation.story(text, fill_template(writer.wording("second_has"), values))
    calculation.step("+", first, swap=True)
    return calculation.story(text, fill_template(writer.wording("together"), values))


def fill_template(template: str, values: dict[str, str]) -> str:
    """Replace the keys of `values` in a template, and make its first letter a capital."""
    for key, value in values.items():
        template = template.replace(key, value)
    return capitalise(template)


Kind = Callable[[Writer, int], Story]
