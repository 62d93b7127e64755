"""Fill the gaps of a short text so that they agree: the person is a free choice, and all other words follow from it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from random import Random

from dllm.playground.base import Example, Task, check_size
from dllm.playground.limits import Answer, Values

HOLE = "__"
GAP = re.compile(r"\{(who|they|own|them|are|have)\}")
KINDS = ("they", "own", "them", "are", "have")
PEOPLE = {
    ("he", "his", "him", "is", "has"): ("boy", "man", "king", "father", "brother", "uncle"),
    ("she", "her", "her", "is", "has"): ("girl", "woman", "queen", "mother", "sister", "aunt"),
    ("they", "their", "them", "are", "have"): ("boys", "girls", "men", "women", "children", "friends"),
}
"""Forms in the order of `KINDS`, and nouns that take them."""

OPENINGS = (
    "Today the{who} walked to the {place} with{own} {thing}.",
    "In the morning the{who} came to the {place} with{own} {thing}.",
    "Near the {place} the{who} looked for{own} {thing}.",
    "Last week the{who} lost{own} {thing} near the {place}.",
    "After lunch the{who} took{own} {thing} to the {place}.",
)
CONTINUATIONS = (
    "The {place} was quiet, and a friend saw{them}.",
    "It was late, and{they} went home.",
    "Now{they} really{are} happy.",
    "Soon{they} too{are} tired.",
    "A dog followed{them} home.",
    "Then{they} gave{own} {thing} to a friend.",
    "Everybody says that{they} never{have} a {thing}.",
    "At night{they} sang a song about{own} {thing}.",
)
PLACES = ("river", "house", "park", "school", "garden", "market", "forest", "lake", "bridge", "station")
THINGS = ("hat", "book", "kite", "lamp", "ring", "ball", "coin", "pen", "bag", "cup", "boat", "key", "coat")


class Agreement(Task):
    """A text of one opening and `size` further sentences, with a gap for the person and for each word that must agree.

    One gap is for the person, and any person is right; the others depend on whether the person is he, she or they.
    Gaps that are filled all at once agree only by chance; after one gap that reveals the form, the others can be filled
    in one forward.
    """

    name = "agreement"
    title = "Fill the gaps of a text with a person and with the pronouns and verbs that fit."
    structure = "All gaps depend on one hidden choice: he, she or they."
    sizes = (1, 2, 3)
    default_size = 2

    def draw(self, rng: Random, size: int, held_out: bool) -> Example:
        check_size(self, size, 1, 5)
        text, kinds = _draw_text(rng, size)
        forms = rng.choice(tuple(PEOPLE))
        answer = _choose_words(kinds, rng.choice(PEOPLE[forms]), forms)
        return Example(text, _fill_holes(text, answer), size, infill=True, facts=kinds)

    def is_right(self, example: Example, text: str) -> bool:
        return text.strip() in {_fill_holes(example.prompt, answer) for answer in self.answers(example)}

    def answers(self, example: Example) -> Iterator[Answer]:
        for forms, people in PEOPLE.items():
            for who in people:
                yield _choose_words(example.facts, who, forms)

    def limit(self, example: Example, values: Values = "drawn") -> int:
        return 2


def _draw_text(rng: Random, size: int) -> tuple[str, tuple[str, ...]]:
    """Draw a text with a hole for each word that must agree, and the kind of word that each hole needs."""
    sentences = [rng.choice(OPENINGS), *rng.sample(CONTINUATIONS, size)]
    places, things = rng.sample(PLACES, 1 + size), rng.sample(THINGS, 1 + size)
    pattern = " ".join(
        sentence.replace("{place}", place).replace("{thing}", thing)
        for sentence, place, thing in zip(sentences, places, things, strict=True)
    )
    return GAP.sub(HOLE, pattern), tuple(GAP.findall(pattern))


def _choose_words(kinds: tuple[str, ...], who: str, forms: tuple[str, ...]) -> Answer:
    """Choose the word of each hole for a person and the forms that the person takes."""
    words = {"who": who, **dict(zip(KINDS, forms, strict=True))}
    return tuple(f" {words[kind]}" for kind in kinds)


def _fill_holes(text: str, words: Answer) -> str:
    """Put words into the holes of a text."""
    return "".join(part + word for part, word in zip(text.split(HOLE), (*words, ""), strict=True))
