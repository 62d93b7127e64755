"""A little English grammar for generated problems: persons, verbs in two tenses, nouns and numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from dllm.playground.wordings import PAST, WORDINGS

WORDINGS_HELD_OUT_EVERY = 8
"""One wording and one name in this many is never trained on; a hash of it decides."""


@dataclass(frozen=True)
class Person:
    """The person that a sentence is about.

    Attributes:
        name: Name, role or pronoun that the sentence begins with.
        he: Subject pronoun: he, she, I or you.
        his: Possessive pronoun.
        him: Object pronoun.
        third: The person takes verbs in the third person, which end in s.
    """

    name: str
    he: str
    his: str
    him: str
    third: bool = True

    def verb(self, base: str, past: bool) -> str:
        """Conjugate `base`, whose first word is a verb in its base form, for this person."""
        word, _, rest = base.partition(" ")
        if past:
            word = PAST.get(word) or (word + "d" if word.endswith("e") else _replace_final_y(word) + "ed")
        elif self.third:
            word = {"have": "has", "be": "is", "do": "does", "go": "goes"}.get(word) or _conjugate(word)
        return f"{word} {rest}".strip()

    def do(self, past: bool) -> str:
        """Choose the form of "do" for a question about this person."""
        return "did" if past else "does" if self.third else "do"


def _replace_final_y(word: str) -> str:
    """Replace the final y of a verb before an ending: carry, carri-es."""
    return word[:-1] + "i" if word.endswith("y") and word[-2] not in "aeou" else word


def _conjugate(word: str) -> str:
    """Form the third person of a regular verb."""
    ending = "es" if word.endswith(("s", "sh", "ch", "x", "z", "o")) or _replace_final_y(word) != word else "s"
    return _replace_final_y(word) + ending


class Writer:
    """A source of the wordings, names and numbers of one split.

    Every alternative of a wording is a template; one in `WORDINGS_HELD_OUT_EVERY`, decided by its hash, is kept from
    training, as is one name in as many. The held-out split uses these wherever there are some.

    Args:
        rng: The only source of randomness.
        held_out: Draw for the held-out split.
    """

    def __init__(self, rng: Random, held_out: bool) -> None:
        self.rng, self.held_out = rng, held_out

    def pick(self, alternatives: Sequence[str]) -> str:
        """Draw one of the alternatives that this split may use."""
        unseen = [text for text in alternatives if is_held_out_wording(text)]
        seen = [text for text in alternatives if text not in unseen] or unseen
        return self.rng.choice(unseen if self.held_out and unseen else seen)

    def wording(self, name: str) -> str:
        """Draw one of the wordings of that name in wordings.toml."""
        return self.pick(WORDINGS[name])

    def chance(self, share: float) -> bool:
        """Return True with probability `share`."""
        return self.rng.random() < share

    def person(self, *others: Person) -> Person:
        """Draw a person with another name than the others."""
        while True:
            found = self._draw_person(first=not others)
            if all(found.name != other.name for other in others):
                return found

    def _draw_person(self, first: bool) -> Person:
        if first and self.chance(0.06):
            return self.rng.choice((Person("I", "I", "my", "me", False), Person("You", "you", "your", "you", False)))
        if first and self.chance(0.08):
            return Person(self.wording("roles"), *self.rng.choice((("he", "his", "him"), ("she", "her", "her"))))
        she = self.chance(0.5)
        name = self._make_up_name() if self.chance(0.25) else self.wording("she" if she else "he")
        return Person(name, *(("she", "her", "her") if she else ("he", "his", "him")))

    def _make_up_name(self) -> str:
        parts = self.rng.choices(WORDINGS["syllables"], k=self.rng.choice((1, 2, 2, 2, 3)))
        return ("".join(parts) + self.rng.choice(WORDINGS["endings"])).capitalize()

    def things(self) -> str:
        """Draw a plural noun, sometimes an invented one or one with an adjective."""
        if self.chance(0.05):
            return self._make_up_name().lower() + "s"
        noun = self.wording("nouns")
        return f"{self.wording('colours')} {noun}" if self.chance(0.06) else noun

    def number(self, value: int) -> str:
        """Write a number in digits, a small one sometimes in words."""
        numbers = WORDINGS["numbers"]
        return numbers[value] if value < len(numbers) and self.chance(0.08) else str(value)

    def draw(self, low: int, high: int) -> int:
        """Draw a number of a range, the count of its digits first, so that small numbers are not rare."""
        digits = self.rng.choice([d for d in (1, 2, 2, 3) if 10 ** (d - 1) <= high and 10**d > low] or [len(str(high))])
        return self.rng.randint(max(low, 10 ** (digits - 1) if digits > 1 else 0), min(high, 10**digits - 1))


def is_held_out_wording(template: str) -> bool:
    """Return True if a template or a name is kept from training."""
    return hashlib.sha256(template.encode()).digest()[0] % WORDINGS_HELD_OUT_EVERY == 0


def capitalise(text: str) -> str:
    """Make the first letter of a text a capital."""
    return text[:1].upper() + text[1:]
