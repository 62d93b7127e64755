"""Word problems with worked answers, in wordings that are put together from many parts.

Every story returns its text and its equations, one a step. Which wordings and names a split may use is decided in
`dllm.playground.english`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from dllm.playground.english import HOLDERS, Person, Writer, sentence

LARGEST = 999

GAIN = (
    "buy", "find", "get", "receive", "pick", "collect", "win", "gather", "make", "bring", "order", "earn", "add",
    "pick up", "pick out", "be given", "discover", "grab",
)  # fmt: skip
LOSS = (
    "lose", "sell", "give away", "eat", "use", "drop", "break", "throw away", "donate", "lend", "hand out", "hide",
    "take away", "use up", "send away", "trade away", "leave behind", "pass on", "waste",
)  # fmt: skip
TO_FRIEND = ("give", "sell", "hand", "send", "lend")
HAVE = (
    "{S} {have} {n} {things}.", "{S} {have} {n} {things}.", "{S} {start} with {n} {things}.", "At first {S} {have} {n} {things}.",
    "{S} {own} {n} {things}.", "In the morning {S} {have} {n} {things}.", "There are {n} {things} in {N}'s box.",
    "{S} already {have} {n} {things}.", "{S} {keep} {n} {things} at home.", "{S} {collect} {n} {things}.",
    "On Monday {S} {have} {n} {things}.", "{S} {have} a collection of {n} {things}.", "{S} {have} exactly {n} {things}.",
    "{S} {begin} the day with {n} {things}.", "In {N}'s bag there are {n} {things}.", "To begin with, {S} {have} {n} {things}.",
)  # fmt: skip
STEPS = (
    "{He} {verb} {n}.", "{He} {verb} {n}.", "Then {he} {verb} {n}.", "Later {he} {verb} {n}.", "{S} {verb} {n}.", "After that, {he} {verb} {n}.",
    "Then {S} {verb} {n}.", "Next, {he} {verb} {n}.", "The next day {he} {verb} {n}.", "In the evening {he} {verb} {n}.",
    "After lunch {S} {verb} {n}.", "On Tuesday {he} {verb} {n}.", "Now {he} {verb} {n}.", "At school {he} {verb} {n}.",
    "At the market {he} {verb} {n}.", "And then {he} {verb} {n}.", "A week later {S} {verb} {n}.", "At noon {he} {verb} {n}.",
)  # fmt: skip
JOINED = (
    " and {verb} {n}.",
    ", and then {he} {verb} {n}.",
    " and then {verb} {n}.",
    ". {He} {verb} {n}.",
    ", then {verb} {n}.",
    " but {verb} {n}.",
)
FRIEND_GIVES = (
    "{F} gives {him} {n}.", "{F} brings {him} {n}.", "Then {F} gives {him} {n}.", "{He} {get} {n} from {F}.", "{F} sends {him} {n}.",
    "{His} friend gives {him} {n}.", "{His} mother buys {him} {n}.", "{He} {receive} {n} from {his} uncle.", "Then {he} {get} {n} from {F}.",
)  # fmt: skip
FRIEND_TAKES = (
    "{F} takes {n} of them.", "{F} takes {n}.", "{F} borrows {n}.", "{He} {give} {n} to {F}.", "Then {he} {give} {n} to {F}.",
    "{He} {give} {F} {n}.", "{He} {give} {n} to {his} brother.", "{He} {sell} {n} to {F}.", "{He} {lend} {n} to {his} friend.",
    "{His} sister takes {n}.", "{His} dog eats {n}.", "{F} eats {n} of them.",
)  # fmt: skip
HOW_MANY = (
    "How many {things} {do} {S} have?", "How many {things} {do} {he} have now?", "How many {things} {do} {S} have now?",
    "How many {things} {do} {he} have in the end?", "How many {things} are there now?", "How many {do} {he} have?",
    "Now how many {things} {do} {S} have?", "What is the number of {things} that {S} {have} now?", "How many {do} {S} have in all?",
    "How many {things} {do} {S} have at the end?", "Find the number of {things} {S} {have} now.", "How many {things} {do} {he} have altogether?",
    "How many {things} {do} {S} end up with?", "So how many {things} {do} {he} have now?", "Tell me how many {things} {S} {have} now.",
    "Can you say how many {things} {S} {have}?", "How many {do} {he} have now?", "What is {his} number of {things} now?",
)  # fmt: skip
HOW_MANY_LEFT = (
    "How many {things} are left?", "How many {things} {do} {S} have left?", "How many {do} {he} have left?", "How many remain?",
    "How many {things} remain?", "How many {things} does that leave?", "How many are left?", "How many {things} {do} {he} still have?",
    "How many {things} {do} {S} still have?", "How many of the {things} are left over?", "How many {things} are there still?",
)  # fmt: skip
TOGETHER = (
    "How many {things} do they have together?", "How many {things} do they have in all?", "How many do they have altogether?",
    "How many {things} do they have in total?", "What is the total number of {things}?", "How many {things} do both have together?",
    "How many is that together?", "How many {things} are there in total?", "How many {things} do the two have?", "How many do they have in all?",
    "Together, how many {things} do they have?", "Find the total.", "How many {things} are there altogether?",
)  # fmt: skip


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
        person, out = self.person, template
        name = person.name if not self.named or self.writer.chance(0.5) else person.he
        if self.named and name.startswith("A "):
            name = "the " + name[2:]
        self.named = True
        middle = name[0].lower() + name[1:] if name.split()[0] in ("A", "The", "My", "Our", "You") else name
        values = {
            "{S}": middle, "{N}": middle, "{n}": number, "{things}": self.things, "{he}": person.he, "{his}": person.his,
            "{him}": person.him, "{He}": sentence(person.he), "{His}": sentence(person.his), "{F}": self.friend.name,
            "{do}": person.do(self.past and self.writer.chance(0.3)), "{verb}": person.verb(verb, self.past) if verb else "",
        }  # fmt: skip
        for base in ("have", "start", "own", "keep", "collect", "begin", "get", "receive", "give", "sell", "lend"):
            values[f"{{{base}}}"] = person.verb(base, self.past and base != "have" or self.past and "now" not in out)
        for key, value in values.items():
            out = out.replace(key, value)
        return sentence(out.replace("I's", "my").replace("you's", "your"))

    def count(self, value: int, more: bool = False) -> str:
        """`5 apples`, `5 more apples`, `5 more` or `5`."""
        number, noun = self.writer.number(value), self.things if self.writer.chance(0.5) else ""
        word = (
            "more" if more and self.writer.chance(0.5) else "of them" if not more and self.writer.chance(0.15) else ""
        )
        parts = (number, "", word) if word == "of them" else (number, word, noun)
        return " ".join(filter(None, parts))


def changes(writer: Writer, steps: int) -> Story:
    """Somebody has things and gains or loses some, step by step."""
    tell = Teller(writer)
    start = writer.draw(1, LARGEST)
    work, said = Work(start), [tell.say(writer.pick(HAVE), writer.number(start))]
    gains = False
    for number in range(steps):
        gains = _gains(writer, work.total)
        by = writer.draw(1, LARGEST - work.total if gains else work.total)
        count = tell.count(by, more=gains)
        if number == 0 and writer.chance(0.25) and "{" not in said[0] and said[0].endswith(f"{tell.things}."):
            joined = tell.say("~" + writer.pick(JOINED), count, writer.pick(GAIN if gains else LOSS))
            said[0] = said[0][:-1] + joined[1:]
        elif writer.chance(0.3):
            wording = writer.pick(FRIEND_GIVES if gains else FRIEND_TAKES)
            said.append(tell.say(wording, writer.number(by) if "{n} of" in wording else count))
        elif not gains and writer.chance(0.2):
            verb = writer.pick(TO_FRIEND) + f" {tell.friend.name}" if writer.chance(0.3) else writer.pick(LOSS)
            said.append(tell.say(writer.pick(STEPS), count, verb))
        else:
            said.append(tell.say(writer.pick(STEPS), count, writer.pick(GAIN if gains else LOSS)))
        work.step("+" if gains else "-", by)
    if writer.chance(0.04):
        return work.story(*said)
    asked = HOW_MANY if gains or writer.chance(0.3) else HOW_MANY_LEFT
    return work.story(*said, tell.say(writer.pick(asked)))


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
        return work.story(fill(writer.pick(TWO_HAVE), say), fill(writer.pick(DIFFERENCE), say))
    work.step("+", second)
    text = fill(writer.pick(TWO_HAVE), say)
    if steps == 2 and work.total < LARGEST:
        third = writer.draw(1, LARGEST - work.total)
        three = writer.person(one, two)
        text += " " + fill(writer.pick(THIRD_HAS), {"{C}": three.name, "{c}": writer.number(third), "{things}": things})
        work.step("+", third)
        return work.story(text, fill(writer.pick(ALL_TOGETHER), say))
    return work.story(text, fill(writer.pick(TOGETHER), say))


TWO_HAVE = (
    "{A} {has} {a} {things} and {B} has {b} {things}.", "{A} {has} {a} {things} and {B} has {b}.", "{A} {has} {a} {things}. {B} has {b}.",
    "{A} {has} {a} {things}. {B} has {b} {things}.", "{A} {has} {a} {things}, {B} has {b}.", "{A} {has} {a} {things} while {B} has {b}.",
    "{A} {has} {a} {things}, and {B} has {b} {things}.", "{A} {has} {a} of the {things} and {B} has {b} of them.",
    "{A} {has} {a} {things}, but {B} has {b} of them.",
    "{A} {has} {a} {things}. {B} also has some: {b}.", "{A} {has} {a} {things} and {B} owns {b}.",
)  # fmt: skip
THIRD_HAS = (
    "{C} has {c}.",
    "{C} has {c} {things}.",
    "And {C} has {c}.",
    "{C} has another {c} {things}.",
    "{C} brings {c} more.",
    "Then there is {C} with {c}.",
)
ALL_TOGETHER = (
    "How many {things} do they have together?", "How many {things} do all three have?", "How many do they have in all?", "What is the total?",
    "How many {things} is that altogether?", "How many {things} are there in total?", "How many {things} do the three of them have?",
)  # fmt: skip
DIFFERENCE = (
    "How many more {things} {do} {M} have than {L}?", "How many more {do} {M} have?", "How many {things} more {do} {M} have than {L}?",
    "What is the difference?", "How many fewer {things} {dol} {L} have than {M}?", "How many more {things} {dol} {L} need to have as many as {M}?",
    "By how many {things} {do} {M} have more?", "How many more than {L} {do} {M} have?",
)  # fmt: skip


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
        phrase = fill(writer.pick(MORE_THAN), {"{k}": kind, "{n}": writer.number(by)})
    else:
        factor = {"twice": 2, "three times": 3, "half": 2}[kind]
        first = writer.draw(1, room // 4)
        first *= factor if kind == "half" else 1
        sign, amount, by = ("/" if kind == "half" else "*"), factor, factor
        phrase = fill(writer.pick(TIMES_AS_MANY), {"{k}": kind})
    work = Work(first)
    say = {
        "{A}": sentence(one.name), "{a}": one.name, "{B}": two.name, "{has}": one.verb("have", False),
        "{n}": writer.number(first), "{things}": things,
    }  # fmt: skip
    work.step(sign, amount)
    text = fill(writer.pick(ONE_HAS), say) + " " + fill(phrase, say)
    if steps == 1:
        return work.story(text, fill(writer.pick(SECOND_HAS), say))
    work.step("+", first, swap=True)
    return work.story(text, fill(writer.pick(TOGETHER), say))


ONE_HAS = (
    "{A} {has} {n} {things}.",
    "{A} {has} {n} {things}.",
    "There are {n} {things} in a box that belongs to {a}.",
    "{A} {has} got {n} {things}.",
    "We know that {a} {has} {n} {things}.",
)
MORE_THAN = (
    "{B} has {n} {k} than {a}.", "{B} has {n} {k} {things} than {a}.", "{B} has {n} {k}.", "{B} owns {n} {k} {things}.", "{B} has {n} {k} of them.",
    "{B} counts {n} {k} than {a}.", "{B} has {n} {k} than that.",
)  # fmt: skip
TIMES_AS_MANY = (
    "{B} has {k} as many.", "{B} has {k} as many {things}.", "{B} has {k} as many {things} as {a}.", "{B} has {k} as many as {a}.",
    "{B} owns {k} as many of them.", "{B} has {k} that number.",
)  # fmt: skip
SECOND_HAS = (
    "How many {things} does {B} have?", "How many does {B} have?", "How many {things} has {B} got?", "What is the number of {things} that {B} has?",
    "So how many {things} does {B} have?", "How many {things} belong to {B}?",
)  # fmt: skip


def fill(template: str, values: dict[str, str]) -> str:
    """The template with its braces filled, and a capital at its start."""
    for key, value in values.items():
        template = template.replace(key, value)
    return sentence(template)


Kind = Callable[[Writer, int], Story]
__all__ = ["HOLDERS", "LARGEST", "Kind", "Story", "Teller", "Work", "changes", "compare", "fill", "together"]
