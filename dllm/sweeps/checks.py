"""Whether a text is right: rules that compare it with a known answer, by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from dllm.errors import ConfigError
from dllm.registry import like

Check = Callable[[str, str], bool]
"""(text, answer) to whether the text is right."""

MARK = "####"
NUMBER = re.compile(r"[-+]?\$?\d[\d,]*(?:\.\d+)?")


def number(text: str, answer: str) -> bool:
    """The number behind the text's first `####` is that of the answer; GSM8K's strict match."""
    _, mark, tail = text.partition(MARK)
    found = re.match(rf"\s*({NUMBER.pattern})", tail) if mark else None
    return found is not None and value(found.group(1)) == gold(answer)


def last_number(text: str, answer: str) -> bool:
    """The last number of the text is that of the answer; GSM8K's flexible match."""
    found = NUMBER.findall(text)
    return bool(found) and value(found[-1]) == gold(answer)


def exact(text: str, answer: str) -> bool:
    """The text is the answer, but for blanks around it."""
    return text.strip() == answer.strip()


def contains(text: str, answer: str) -> bool:
    """The answer stands somewhere in the text."""
    return answer.strip() in text


def regex(text: str, answer: str) -> bool:
    """The answer, a regular expression, is found in the text; `^` and `$` match at lines."""
    return re.search(answer, text, re.MULTILINE) is not None


CHECKS: dict[str, Check] = {
    "number": number,
    "last-number": last_number,
    "exact": exact,
    "contains": contains,
    "regex": regex,
}


def find(name: str) -> Check:
    """The check of that name. Raises ConfigError."""
    if name not in CHECKS:
        raise ConfigError(f"check {name!r}{like(name, CHECKS)}: choose from {', '.join(CHECKS)}")
    return CHECKS[name]


def usual(answer: str) -> str:
    """The check for an answer that does not say: `number` where it is one or has one behind `####`, else `exact`."""
    return "exact" if gold(answer) is None else "number"


def test(name: str, answer: str) -> None:
    """Raise ConfigError where no text could ever be right."""
    find(name)
    if name in ("number", "last-number") and gold(answer) is None:
        raise ConfigError(f"answer {answer!r}: holds no number, which check {name!r} needs")
    if name == "regex":
        try:
            re.compile(answer)
        except re.error as error:
            raise ConfigError(f"answer {answer!r}: no regular expression ({error})") from None


def gold(answer: str) -> Decimal | None:
    """The number of an answer: behind its last `####`, or all of it; None where there is none."""
    found = NUMBER.fullmatch(answer.rpartition(MARK)[2].strip())
    return None if found is None else value(found.group())


def value(written: str) -> Decimal | None:
    try:
        return Decimal(re.sub(r"[$,]", "", written))
    except InvalidOperation:
        return None


def as_answer(given: Any) -> str:
    """An answer as JSON holds it, as text. Raises ConfigError."""
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        raise ConfigError(f"answer {given!r}: must be a text or a number")
    return str(given)
