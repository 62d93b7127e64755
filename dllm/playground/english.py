"""A little English grammar for generated problems: who does what, in which tense, with how many of what."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

WORDINGS_HELD_OUT_EVERY = 8

SHE = (
    "Mia Anna Lucy Emma Nora Ruth Zoe Lena Clara Ivy Rosa Maya Eva Sara Lily Alice Amy Kate Jane Mary Julia Helen Olga "
    "Fatima Aisha Priya Yuki Mei Ines Carla Sofia Elena Greta Heidi Paula Tina Wendy Susan Linda Betty Grace Hanna "
    "Leila Nadia Vera Daisy Molly Ella Chloe Ruby Freya Iris June Pearl Stella Tessa Ursula Violet Yara Zara"
).split()
HE = (
    "Tom Ben Sam Max Leo Paul Omar Finn Hugo Ravi Jack Noah Adam Luis John Peter David James Mark Luke Ali Hassan Ken "
    "Chen Wei Juan Carlos Diego Marco Luca Hans Karl Erik Lars Ivan Boris Igor Bob Jim Tim Dan Nick Mike Fred George "
    "Henry Oscar Simon Victor Walter Alan Brian Colin Eric Frank Gary Harry Ian Kevin Larry Oliver Ryan Steve Tony"
).split()
SYLLABLES = "ba be bi bo da de di do fa fe ga go ha he jo ju ka ke ki ko la le li lo lu ma me mi mo na ne ni no pa pe"
SYLLABLES = (
    SYLLABLES + " ra re ri ro sa se si so ta te ti to va ve vi wa wi ya yo za zo sha tha bri cla dre mar"
).split()
ENDINGS = ("", "", "n", "s", "l", "r", "th", "na", "ck", "m", "la")
ROLES = (
    "A farmer", "The farmer", "A teacher", "The teacher", "A shop", "The baker", "A baker", "A boy", "A girl",
    "A student", "My sister", "My brother", "My friend", "A library", "The cook", "A gardener", "A school",
    "Our neighbour", "A man", "A woman", "My mother", "My father", "A child", "The coach", "A painter",
)  # fmt: skip

THINGS = (
    "apples pears plums coins marbles stamps shells pens books cards stickers beads cookies muffins balloons buttons "
    "flowers stones ribbons cups kites candles eggs nuts leaves pencils stars rings oranges bananas cherries grapes "
    "lemons peaches tomatoes potatoes carrots onions sweets cakes toys cars dolls balls hats shirts shoes socks bags "
    "plates glasses spoons forks bottles boxes chairs tables lamps tickets photos letters postcards magazines crayons "
    "brushes keys bricks sticks roses seeds trees fish dogs cats ducks hens sheep cows goats rabbits mice puppies "
    "kittens birds points badges bracelets magnets puzzles erasers notebooks dollars sandwiches candies chocolates "
    "strawberries acorns pebbles feathers cupcakes pancakes robots dice posters"
).split()
COLOURS = ("red", "blue", "green", "white", "black", "yellow", "big", "small", "old", "new", "brown", "pink")
HOLDERS = {
    "bags": "bag", "boxes": "box", "baskets": "basket", "jars": "jar", "trays": "tray", "drawers": "drawer",
    "shelves": "shelf", "tables": "table", "packs": "pack", "rows": "row", "rooms": "room", "buckets": "bucket",
    "crates": "crate", "bowls": "bowl", "cars": "car", "teams": "team", "pages": "page", "packets": "packet",
}  # fmt: skip
NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
).split()
PAST = {
    "have": "had", "buy": "bought", "find": "found", "get": "got", "win": "won", "make": "made", "sell": "sold",
    "give": "gave", "eat": "ate", "lose": "lost", "take": "took", "throw": "threw", "lend": "lent", "break": "broke",
    "put": "put", "read": "read", "do": "did", "be": "was", "go": "went", "catch": "caught", "draw": "drew",
    "send": "sent", "drop": "dropped", "pick": "picked", "spend": "spent", "bring": "brought", "see": "saw",
    "write": "wrote", "run": "ran", "hide": "hid", "keep": "kept", "build": "built", "grow": "grew", "hold": "held",
    "say": "said", "swap": "swapped", "grab": "grabbed", "come": "came", "leave": "left", "want": "wanted",
    "plan": "planned", "pay": "paid", "fly": "flew", "begin": "began", "swim": "swam", "drive": "drove", "cut": "cut",
}  # fmt: skip


@dataclass(frozen=True)
class Person:
    """Who a sentence is about: its name, its pronouns, and whether its verbs end in s."""

    name: str
    he: str
    his: str
    him: str
    third: bool = True

    def verb(self, base: str, past: bool) -> str:
        """`base`, whose first word is the verb, as this person does it."""
        word, _, rest = base.partition(" ")
        if past:
            word = PAST.get(word) or (word + "d" if word.endswith("e") else _ied(word) + "ed")
        elif self.third:
            word = {"have": "has", "be": "is", "do": "does", "go": "goes"}.get(word) or _third(word)
        return f"{word} {rest}".strip()

    def do(self, past: bool) -> str:
        return "did" if past else "does" if self.third else "do"


def _ied(word: str) -> str:
    return word[:-1] + "i" if word.endswith("y") and word[-2] not in "aeou" else word


def _third(word: str) -> str:
    ending = "es" if word.endswith(("s", "sh", "ch", "x", "z", "o")) or _ied(word) != word else "s"
    return _ied(word) + ending


class Writer:
    """Draws wordings, names and numbers of one split.

    Every alternative of a wording is a template; one in `WORDINGS_HELD_OUT_EVERY`, decided by its hash, is kept from
    training, and so is one name in as many. The held-out split uses those wherever there is one.
    """

    def __init__(self, rng: Random, held: bool) -> None:
        self.rng, self.held = rng, held

    def pick(self, alternatives: Sequence[str]) -> str:
        """One of the alternatives that this split may use."""
        unseen = [text for text in alternatives if is_unseen(text)]
        seen = [text for text in alternatives if text not in unseen] or unseen
        return self.rng.choice(unseen if self.held and unseen else seen)

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def person(self, *others: Person) -> Person:
        """Somebody else than the others."""
        while True:
            found = self._person(first=not others)
            if all(found.name != other.name for other in others):
                return found

    def _person(self, first: bool) -> Person:
        if first and self.chance(0.06):
            return self.rng.choice((Person("I", "I", "my", "me", False), Person("You", "you", "your", "you", False)))
        if first and self.chance(0.08):
            return Person(self.pick(ROLES), *self.rng.choice((("he", "his", "him"), ("she", "her", "her"))))
        she = self.chance(0.5)
        name = self._made_up() if self.chance(0.25) else self.pick(SHE if she else HE)
        return Person(name, *(("she", "her", "her") if she else ("he", "his", "him")))

    def _made_up(self) -> str:
        parts = self.rng.choices(SYLLABLES, k=self.rng.choice((1, 2, 2, 2, 3)))
        return ("".join(parts) + self.rng.choice(ENDINGS)).capitalize()

    def things(self) -> str:
        """A plural noun, now and then an unknown one, or one with an adjective."""
        if self.chance(0.05):
            return self._made_up().lower() + "s"
        noun = self.pick(THINGS)
        return f"{self.pick(COLOURS)} {noun}" if self.chance(0.06) else noun

    def number(self, value: int) -> str:
        """In digits, a small one now and then in words."""
        return NUMBERS[value] if value < len(NUMBERS) and self.chance(0.08) else str(value)

    def draw(self, low: int, high: int) -> int:
        """A number of the range, its digits' count drawn first so that small ones are not rare."""
        digits = self.rng.choice([d for d in (1, 2, 2, 3) if 10 ** (d - 1) <= high and 10**d > low] or [len(str(high))])
        return self.rng.randint(max(low, 10 ** (digits - 1) if digits > 1 else 0), min(high, 10**digits - 1))


def is_unseen(template: str) -> bool:
    """Whether a template or a name is kept from training."""
    return hashlib.sha256(template.encode()).digest()[0] % WORDINGS_HELD_OUT_EVERY == 0


def sentence(text: str) -> str:
    """The text with a capital at its start."""
    return text[:1].upper() + text[1:]
