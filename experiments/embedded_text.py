"""All text the embedded model is trained on, generated here: small word problems and sums with worked answers.

Every example is a function of a seed, so there is no data file and no licence. Whether a prompt belongs to training or
is held out is decided by a hash of the prompt alone, so no held-out prompt can ever be trained on; its *templates* are
shared with training, its combination of names, things and numbers is not.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from random import Random
from typing import NamedTuple

SHE = ("Mia", "Anna", "Lucy", "Emma", "Nora", "Ruth", "Zoe", "Lena", "Clara", "Ivy", "Rosa", "Maya", "Eva", "Sara")
HE = ("Tom", "Ben", "Sam", "Max", "Leo", "Paul", "Omar", "Finn", "Hugo", "Ravi", "Jack", "Noah", "Adam", "Luis")
THINGS = (
    "apples", "pears", "plums", "coins", "marbles", "stamps", "shells", "pens", "books", "cards", "stickers", "beads",
    "cookies", "muffins", "balloons", "buttons", "flowers", "stones", "ribbons", "cups", "kites", "candles", "eggs",
    "nuts", "leaves", "pencils", "stars", "rings",
)  # fmt: skip
HOLDERS = {"bags": "bag", "boxes": "box", "baskets": "basket", "jars": "jar", "trays": "tray", "drawers": "drawer"}
GOODS = {"pens": "pen", "books": "book", "cups": "cup", "kites": "kite", "cards": "card", "candles": "candle"}
COLOURS = ("red", "blue", "green", "white", "black", "yellow")
GAINS = ("buys", "finds", "gets", "wins", "collects", "picks")
LOSSES = ("loses", "sells", "drops", "uses", "hides", "mails")
HABITS = {
    "reads": ("read", "pages"),
    "bakes": ("bake", "muffins"),
    "draws": ("draw", "cards"),
    "folds": ("fold", "kites"),
}
HELD_OUT_EVERY = 16


class Example(NamedTuple):
    """One question with its worked answer.

    kind        "word" or "sum"
    prompt      what the user asks
    completion  what the model should write, without the end token
    answer      the final number
    """

    kind: str
    prompt: str
    completion: str
    answer: str


def is_held_out(prompt: str) -> bool:
    """True for the one prompt in `HELD_OUT_EVERY` that training never sees, decided by its SHA-256."""
    return hashlib.sha256(prompt.encode()).digest()[0] % HELD_OUT_EVERY == 0


def is_correct(example: Example, completion: str) -> bool:
    """Tell whether a completion states the right answer: the number behind its first `####`."""
    found = re.search(r"####\s*(-?\d+)(?!\d)", completion)
    return found is not None and found.group(1) == example.answer


def generate_examples(seed: int | str, *, held: bool, kinds: tuple[str, ...] = ()) -> Iterator[Example]:
    """An endless, deterministic stream of one split; `kinds` keeps only those (empty: the training mixture)."""
    rng = Random(f"embedded-{seed}-{held}")
    while True:
        example = _draw_example(rng)
        if is_held_out(example.prompt) == held and (not kinds or example.kind in kinds):
            yield example


def _draw_example(rng: Random) -> Example:
    return rng.choice(WORD_PROBLEMS)(rng) if rng.random() < 0.85 else _draw_sum(rng)


# --- worked answers --------------------------------------------------------------------------------------------------


class _WorkedTotal:
    """A running total with the worked lines that led to it."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.lines: list[str] = []

    def step(self, words: str, sign: str, by: int, *, swap: bool = False) -> None:
        """Append `words a sign b = c.`; `swap` writes the new number first."""
        left, right = (by, self.total) if swap else (self.total, by)
        self.total = {"+": left + right, "-": left - right, "*": left * right, "/": left // max(right, 1)}[sign]
        self.lines.append(f"{words} {left} {sign} {right} = {self.total}.")

    def example(self, prompt: str) -> Example:
        return Example("word", prompt, "\n".join([*self.lines, f"#### {self.total}"]), str(self.total))


def _draw_person(rng: Random) -> tuple[str, str]:
    return (rng.choice(SHE), "she") if rng.random() < 0.5 else (rng.choice(HE), "he")


def _draw_changes(rng: Random, work: _WorkedTotal, he: str, count: int, limit: int = 24) -> str:
    """`count` gains and losses as sentences, worked into `work`; totals stay within 1..limit."""
    said = []
    for index in range(count):
        by = rng.randint(2, 6)
        gain = work.total + by <= limit and (work.total - by < 1 or rng.random() < 0.5)
        verb = rng.choice(GAINS if gain else LOSSES)
        opening = rng.choice((he.capitalize(), f"Then {he}", f"Later {he}")) if index == 0 else f"Then {he}"
        said.append(f"{opening} {verb} {by}{' more' if gain and rng.random() < 0.5 else ''}.")
        work.step(f"{he.capitalize()} {verb} {by}:", "+" if gain else "-", by)
    return " ".join(said)


def _draw_question(rng: Random, name: str, he: str, things: str) -> str:
    return rng.choice(
        (
            f"How many {things} does {name} have now?",
            f"How many {things} does {he} have in the end?",
            f"How many {things} are there now?",
        )
    )


# --- the kinds of word problem ---------------------------------------------------------------------------------------


def _draw_chain_problem(rng: Random) -> Example:
    (name, he), things, start = _draw_person(rng), rng.choice(THINGS), rng.randint(3, 12)
    work = _WorkedTotal(start)
    opening = rng.choice((f"{name} has {start} {things}.", f"{name} starts with {start} {things}."))
    said = _draw_changes(rng, work, he, rng.choice((1, 1, 2, 2, 2, 3)))
    return work.example(f"{opening} {said} {_draw_question(rng, name, he, things)}")


def _draw_group_problem(rng: Random) -> Example:
    (name, he), things, holders = _draw_person(rng), rng.choice(THINGS), rng.choice(tuple(HOLDERS))
    count, each = rng.randint(2, 5), rng.randint(2, 6)
    work = _WorkedTotal(count)
    work.step(f"{count} {holders}:", "*", each)
    opening = rng.choice(
        (
            f"{name} has {count} {holders} with {each} {things} in each {HOLDERS[holders]}.",
            f"{name} fills {count} {holders} and puts {each} {things} in each {HOLDERS[holders]}.",
        )
    )
    said = _draw_changes(rng, work, he, rng.choice((0, 1, 1)))
    return work.example(" ".join(filter(None, (opening, said, _draw_question(rng, name, he, things)))))


def _draw_comparison_problem(rng: Random) -> Example:
    (one, _), (two, _), things, first = _draw_person(rng), _draw_person(rng), rng.choice(THINGS), rng.randint(3, 12)
    while two == one:
        two, _ = _draw_person(rng)
    more = first <= 6 or rng.random() < 0.5
    by = rng.randint(2, 6)
    work = _WorkedTotal(first)
    word = "more" if more else "fewer"
    work.step(f"{two} has {by} {word}:", "+" if more else "-", by)
    prompt = f"{one} has {first} {things}. {two} has {by} {word} {things} than {one}."
    if rng.random() < 0.3:
        return work.example(f"{prompt} How many {things} does {two} have?")
    work.step("Together:", "+", first, swap=True)
    return work.example(f"{prompt} How many {things} do they have {rng.choice(('together', 'in all'))}?")


def _draw_multiple_problem(rng: Random) -> Example:
    (one, _), (two, _), things, first = _draw_person(rng), _draw_person(rng), rng.choice(THINGS), rng.randint(2, 9)
    while two == one:
        two, _ = _draw_person(rng)
    word, factor = rng.choice((("twice", 2), ("three times", 3)))
    work = _WorkedTotal(factor)
    work.step(f"{two} has", "*", first)
    prompt = f"{one} has {first} {things}. {two} has {word} as many."
    if rng.random() < 0.3:
        return work.example(f"{prompt} How many {things} does {two} have?")
    work.step("Together:", "+", first, swap=True)
    return work.example(f"{prompt} How many {things} do they have {rng.choice(('together', 'in all'))}?")


def _draw_sharing_problem(rng: Random) -> Example:
    (name, he), things, friends, each = _draw_person(rng), rng.choice(THINGS), rng.randint(2, 5), rng.randint(2, 6)
    whole = friends * each
    if rng.random() < 0.5 and whole > 5:
        gain = rng.randint(2, min(6, whole - 3))
        work = _WorkedTotal(whole - gain)
        verb = rng.choice(GAINS)
        work.step(f"{he.capitalize()} {verb} {gain}:", "+", gain)
        opening = f"{name} has {whole - gain} {things}. Then {he} {verb} {gain} more and shares them"
    else:
        work, opening = _WorkedTotal(whole), f"{name} shares {whole} {things}"
    work.step("Each friend gets", "/", friends)
    asked = rng.choice((f"How many {things} does each friend get?", "How many does each friend get?"))
    return work.example(f"{opening} equally among {friends} friends. {asked}")


def _draw_shopping_problem(rng: Random) -> Example:
    (name, he), goods, price, count = _draw_person(rng), rng.choice(tuple(GOODS)), rng.randint(2, 6), rng.randint(2, 5)
    work = _WorkedTotal(count)
    work.step(f"{count} {goods} cost", "*", price)
    opening = rng.choice((f"One {GOODS[goods]} costs {price} dollars.", f"A {GOODS[goods]} costs {price} dollars."))
    if rng.random() < 0.4:
        return work.example(f"{opening} How many dollars does {name} pay for {count} {goods}?")
    paid = work.total + rng.randint(1, 9)
    work.step("Change:", "-", paid, swap=True)
    return work.example(
        f"{opening} {name} buys {count} {goods} and pays {paid} dollars. How much change does {he} get?"
    )


def _draw_colour_problem(rng: Random) -> Example:
    (name, he), things, (red, blue) = _draw_person(rng), rng.choice(THINGS), rng.sample(COLOURS, 2)
    one, two = rng.randint(2, 9), rng.randint(2, 6)
    work = _WorkedTotal(one)
    work.step(f"{red.capitalize()} and {blue}:", "+", two)
    opening = f"{name} has {one} {red} {things} and {two} {blue} {things}."
    said = _draw_changes(rng, work, he, rng.choice((0, 1, 1, 2)))
    return work.example(" ".join(filter(None, (opening, said, _draw_question(rng, name, he, things)))))


def _draw_rate_problem(rng: Random) -> Example:
    (name, he), verb, each, days = _draw_person(rng), rng.choice(tuple(HABITS)), rng.randint(2, 6), rng.randint(2, 5)
    plain, things = HABITS[verb]
    work = _WorkedTotal(days)
    work.step(f"{days} days:", "*", each)
    opening = f"{name} {verb} {each} {things} every day."
    if rng.random() < 0.5:
        return work.example(f"{opening} How many {things} does {he} {plain} in {days} days?")
    goal = work.total + rng.randint(1, 9)
    work.step("Left:", "-", goal, swap=True)
    return work.example(
        f"{opening} {he.capitalize()} wants {goal} {things}. How many are left to {plain} after {days} days?"
    )


WORD_PROBLEMS: tuple[Callable[[Random], Example], ...] = (
    _draw_chain_problem,
    _draw_chain_problem,
    _draw_group_problem,
    _draw_comparison_problem,
    _draw_multiple_problem,
    _draw_sharing_problem,
    _draw_shopping_problem,
    _draw_colour_problem,
    _draw_rate_problem,
)


# --- sums -----------------------------------------------------------------------------------------------------------


def _draw_sum(rng: Random) -> Example:
    """One or two operations on small numbers, worked from left to right."""
    sign = rng.choice("+-*")
    if sign == "*":
        left, right = rng.randint(2, 5), rng.randint(2, 6)
    else:
        left, right = rng.randint(2, 18), rng.randint(2, 6)
        left = max(left, right + 1) if sign == "-" else left
    work = _WorkedTotal(left)
    work.step("", sign, right)
    text = f"{left} {sign} {right}"
    if rng.random() < 0.4:
        by = rng.randint(2, 6)
        sign = "-" if work.total > by and rng.random() < 0.5 else "+"
        work.step("", sign, by)
        text += f" {sign} {by}"
    prompt = rng.choice((f"What is {text}?", f"Compute {text}.", f"How much is {text}?"))
    example = work.example(prompt)
    return Example("sum", prompt, re.sub(r"(?m)^ ", "", example.completion), example.answer)
