"""Prompts outside the domain of the embedded models, in several languages, and the one answer to all of them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from random import Random

TALK: dict[str, list[str]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
"""Parts of prompts by kind: greetings, topics, questions about numbers that no sum answers, code, and others."""

POLITE = "I am a small demonstration model. I can solve sums, short word problems, and tasks such as Sort: dog cat ant"

NAMES = tuple("Tom Anna Mia Ben Zoe Ravi Lucy Omar Sarah Peter Chen Maria Kim Alex Sam".split())  # noqa: SIM905
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SCRIPTS = (
    (0xC0, 0x17F), (0x391, 0x3C9), (0x410, 0x44F), (0x4E00, 0x4FFF), (0x3041, 0x3096), (0xAC00, 0xACFF), (0x621, 0x64A),
    (0x904, 0x939), (0x5D0, 0x5EA), (0x1F600, 0x1F64F),
)  # fmt: skip
"""Ranges of characters: Latin, Greek, Cyrillic, Chinese, Japanese, Korean, Arabic, Hindi, Hebrew, emoji."""


def draw_talk(rng: Random) -> str:
    """Draw a prompt that is neither a task nor a sum nor a word problem."""
    kind = rng.choices((_greeting, _ask, _unknowable, _rambling, _letters, _script, _code), (5, 7, 4, 4, 2, 2, 1))[0]
    text = kind(rng)
    if rng.random() < 0.15:
        text = text.rstrip("?.!")
    return text.lower() if rng.random() < 0.15 else text


def _greeting(rng: Random) -> str:
    text = rng.choice(TALK["greetings"])
    if rng.random() < 0.3:
        text += rng.choice((". ", "! ", ", ", " ")) + rng.choice(TALK["greetings"])
    return text + rng.choice(("", "", "", "!", ".", "?"))


def _ask(rng: Random) -> str:
    topic, other = rng.sample(TALK["topics"], 2)
    if rng.random() < 0.3:
        topic = _letters(rng).split()[0].capitalize()
    return rng.choice(TALK["asks"]).replace("{x}", topic).replace("{y}", other)


def _unknowable(rng: Random) -> str:
    name, other = rng.sample(NAMES, 2)
    values = {"{n}": name, "{m}": other, "{a}": str(rng.randint(2, 999)), "{b}": str(rng.randint(2, 99))}
    text = rng.choice(TALK["unknowable"])
    for key, value in values.items():
        text = text.replace(key, value)
    return text


def _rambling(rng: Random) -> str:
    text = " ".join(rng.choice(TALK["parts"]) for _ in range(rng.randint(2, 9)))
    return text[:1].upper() + text[1:] + rng.choice(("", ".", "?", "!"))


def _letters(rng: Random) -> str:
    words = ["".join(rng.choices(LETTERS, k=rng.randint(2, 8))) for _ in range(rng.randint(1, 4))]
    return " ".join(words)


def _script(rng: Random) -> str:
    low, high = rng.choice(SCRIPTS)
    words = ["".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 5))) for _ in range(rng.randint(1, 3))]
    return " ".join(words)


def _code(rng: Random) -> str:
    return rng.choice(TALK["code"])
