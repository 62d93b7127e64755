"""Whether a text is right: rules that compare it with a known answer, by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from dllm.errors import ConfigError
from dllm.registry import suggest_name

Check = Callable[[str, str], bool]
"""(text, answer) to whether the text is right."""

MARK = "####"
NUMBER = re.compile(r"[-+]?\$?\d[\d,]*(?:\.\d+)?")


def _matches_marked_number(text: str, answer: str) -> bool:
    """The number behind the text's first `####` is that of the answer; GSM8K's strict match."""
    _, mark, tail = text.partition(MARK)
    found = re.match(rf"\s*({NUMBER.pattern})", tail) if mark else None
    return found is not None and _parse_number(found.group(1)) == _parse_answer_number(answer)


def _matches_last_number(text: str, answer: str) -> bool:
    """The last number of the text is that of the answer; GSM8K's flexible match."""
    found = NUMBER.findall(text)
    return bool(found) and _parse_number(found[-1]) == _parse_answer_number(answer)


def _matches_exactly(text: str, answer: str) -> bool:
    """The text is the answer, but for blanks around it."""
    return text.strip() == answer.strip()


def _contains_answer(text: str, answer: str) -> bool:
    """The answer stands somewhere in the text."""
    return answer.strip() in text


def _matches_regex(text: str, answer: str) -> bool:
    """The answer, a regular expression, is found in the text; `^` and `$` match at lines."""
    return re.search(answer, text, re.MULTILINE) is not None


CHECKS: dict[str, Check] = {
    "number": _matches_marked_number,
    "last-number": _matches_last_number,
    "exact": _matches_exactly,
    "contains": _contains_answer,
    "regex": _matches_regex,
}


def find_check(name: str) -> Check:
    """The check of that name. Raises ConfigError."""
    if name not in CHECKS:
        raise ConfigError(f"check {name!r}{suggest_name(name, CHECKS)}: choose from {', '.join(CHECKS)}")
    return CHECKS[name]


def infer_check_name(answer: str) -> str:
    """The check for an answer that does not say: `number` where it is one or has one behind `####`, else `exact`."""
    return "exact" if _parse_answer_number(answer) is None else "number"


def check_answer(name: str, answer: str) -> None:
    """Raise ConfigError where no text could ever be right."""
    find_check(name)
    if name in ("number", "last-number") and _parse_answer_number(answer) is None:
        raise ConfigError(f"answer {answer!r}: holds no number, which check {name!r} needs")
    if name == "regex":
        try:
            re.compile(answer)
        except re.error as error:
            raise ConfigError(f"answer {answer!r}: no regular expression ({error})") from None


def _parse_answer_number(answer: str) -> Decimal | None:
    """The number of an answer: behind its last `####`, or all of it; None where there is none."""
    found = NUMBER.fullmatch(answer.rpartition(MARK)[2].strip())
    return None if found is None else _parse_number(found.group())


def _parse_number(written: str) -> Decimal | None:
    try:
        return Decimal(re.sub(r"[$,]", "", written))
    except InvalidOperation:
        return None


def convert_answer_to_text(given: Any) -> str:
    """An answer as JSON holds it, as text. Raises ConfigError."""
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        raise ConfigError(f"answer {given!r}: must be a text or a number")
    return str(given)
