"""Word problems with worked answers, in wordings that are put together from many parts.

Every story returns its text and its equations, one a step. Which wordings and names a split may use is decided in
`dllm.playground.english`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from dllm.playground.english import Person, Writer, sentence

LARGEST = 999

VERBS = ("have", "start", "own", "keep", "collect", "begin", "get", "receive", "give", "sell", "lend")
"""What verbs in braces the wordings of a story's person use."""

TO_FRIEND = ("give", "sell", "hand", "send", "lend")


class Story(NamedTuple):
    """The text of a problem, its equations in order, and the result."""

    text: str
    equations: list[str]
    result: int


class Work:
    """A running result with the equations that led to it."""

    def __init__(self, total: int) -> None:
        self.total, self.equations = total, list[str]()

    def step(self, sign: str, by: int, *, swap: bool = False) -> int:
        """Write `total sign by = result`, or with `swap` `by sign total = result`."""
        left, right = (by, self.total) if swap else (self.total, by)
        results = {"+": left + right, "-": left - right, "*": left * right, "/": left // max(right, 1)}
        self.total = results[sign]
        self.equations.append(f"{left} {sign} {right} = {self.total}")
        return self.total

    def story(self, *sentences: str) -> Story:
        return Story(" ".join(filter(None, sentences)), self.equations, self.total)


class Teller:
    """Fills wordings about one person and one kind of thing."""

    def __init__(self, writer: Writer) -> None:
        self.writer, self.person, self.things = writer, writer.person(), writer.things()
        self.friend = writer.person(self.person, Person("I", "", "", ""), Person("You", "", "", ""))
        self.past = writer.chance(0.25)
        self.named = False

    def say(self, template: str, number: str = "", verb: str = "") -> str:
        """A template with who, what and how many filled in; base forms of verbs stand in braces."""
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
            "He": sentence(person.he),
            "His": sentence(person.his),
            "F": self.friend.name,
            "do": person.do(self.past and self.writer.chance(0.3)),
            "verb": person.verb(verb, self.past) if verb else "",
            **{base: person.verb(base, self.past) for base in VERBS},
        }
        if "now" in template:
            values["have"] = person.verb("have", False)
        for key, value in values.items():
            template = template.replace(f"{{{key}}}", value)
        return sentence(template.replace("I's", "my").replace("you's", "your"))

    def count(self, value: int, more: bool = False) -> str:
        """`5 apples`, `5 more apples`, `5 more` or `5`."""
        number, noun = self.writer.number(value), self.things if self.writer.chance(0.5) else ""
        word = ""
        if self.writer.chance(0.5 if more else 0.15):
            word = "more" if more else "of them"
        parts = (number, "", word) if word == "of them" else (number, word, noun)
        return " ".join(filter(None, parts))


def changes(writer: Writer, steps: int) -> Story:
    """Somebody has things and gains or loses some, step by step."""
    tell = Teller(writer)
    start = writer.draw(1, LARGEST)
    work, said = Work(start), [tell.say(writer.wording("have"), writer.number(start))]
    gains = False
    for number in range(steps):
        gains = _gains(writer, work.total)
        by = writer.draw(1, LARGEST - work.total if gains else work.total)
        count = tell.count(by, more=gains)
        if number == 0 and writer.chance(0.25) and "{" not in said[0] and said[0].endswith(f"{tell.things}."):
            joined = tell.say(
                "~" + writer.wording("joined"),
                count,
                writer.wording("gain" if gains else "loss"),
            )
            said[0] = said[0][:-1] + joined[1:]
        elif writer.chance(0.3):
            wording = writer.wording("friend_gives" if gains else "friend_takes")
            said.append(tell.say(wording, writer.number(by) if "{n} of" in wording else count))
        elif not gains and writer.chance(0.2):
            verb = writer.pick(TO_FRIEND) + f" {tell.friend.name}" if writer.chance(0.3) else writer.wording("loss")
            said.append(tell.say(writer.wording("steps"), count, verb))
        else:
            said.append(tell.say(writer.wording("steps"), count, writer.wording("gain" if gains else "loss")))
        work.step("+" if gains else "-", by)
    if writer.chance(0.04):
        return work.story(*said)
    asked = "how_many" if gains or writer.chance(0.3) else "how_many_left"
    return work.story(*said, tell.say(writer.wording(asked)))


def _gains(writer: Writer, total: int) -> bool:
    return total < 2 or (total < LARGEST - 1 and writer.chance(0.5))


def together(writer: Writer, steps: int) -> Story:
    """Two or three people, or one with two kinds of thing; the total, or the difference."""
    one, things = writer.person(), writer.things()
    two = writer.person(one)
    first = writer.draw(1, LARGEST - 1)
    second = writer.draw(1, LARGEST - first)
    work, has = Work(first), one.verb("have", False)
    a, b = writer.number(first), writer.number(second)
    say = {"{A}": sentence(one.name), "{B}": two.name, "{a}": a, "{b}": b, "{things}": things, "{has}": has}
    if steps == 1 and writer.chance(0.35) and first != second:
        work = Work(max(first, second))
        work.step("-", min(first, second))
        more, less = (one, two) if first > second else (two, one)
        say |= {"{M}": more.name, "{L}": less.name, "{do}": more.do(False), "{dol}": less.do(False)}
        return work.story(fill(writer.wording("two_have"), say), fill(writer.wording("difference"), say))
    work.step("+", second)
    text = fill(writer.wording("two_have"), say)
    if steps == 2 and work.total < LARGEST:
        third = writer.draw(1, LARGEST - work.total)
        three = writer.person(one, two)
        text += " " + fill(
            writer.wording("third_has"), {"{C}": three.name, "{c}": writer.number(third), "{things}": things}
        )
        work.step("+", third)
        return work.story(text, fill(writer.wording("all_together"), say))
    return work.story(text, fill(writer.wording("together"), say))


def compare(writer: Writer, steps: int) -> Story:
    """Somebody has so many more, fewer or times as many as somebody else."""
    one, things = writer.person(), writer.things()
    two = writer.person(one, Person("I", "", "", ""), Person("You", "", "", ""))
    kind = writer.rng.choice(("more", "fewer", "twice", "three times", "half"))
    room = LARGEST // (1 if steps == 1 else 2) - 1
    if kind in ("more", "fewer"):
        first = writer.draw(2, room - 1)
        by = writer.draw(1, room - first if kind == "more" else first - 1)
        sign, amount = ("+", by) if kind == "more" else ("-", by)
        phrase = fill(writer.wording("more_than"), {"{k}": kind, "{n}": writer.number(by)})
    else:
        factor = {"twice": 2, "three times": 3, "half": 2}[kind]
        first = writer.draw(1, room // 4)
        first *= factor if kind == "half" else 1
        sign, amount, by = ("/" if kind == "half" else "*"), factor, factor
        phrase = fill(writer.wording("times_as_many"), {"{k}": kind})
    work = Work(first)
    say = {
        "{A}": sentence(one.name), "{a}": one.name, "{B}": two.name, "{has}": one.verb("have", False),
        "{n}": writer.number(first), "{things}": things,
    }  # fmt: skip
    work.step(sign, amount)
    text = fill(writer.wording("one_has"), say) + " " + fill(phrase, say)
    if steps == 1:
        return work.story(text, fill(writer.wording("second_has"), say))
    work.step("+", first, swap=True)
    return work.story(text, fill(writer.wording("together"), say))


def fill(template: str, values: dict[str, str]) -> str:
    """The template with its braces filled, and a capital at its start."""
    for key, value in values.items():
        template = template.replace(key, value)
    return sentence(template)


Kind = Callable[[Writer, int], Story]
