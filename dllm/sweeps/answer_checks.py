"""Rules, by name, that decide whether a text is right by comparing it with a known answer."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from dllm.errors import ConfigError
from dllm.registry import suggest_name

Check = Callable[[str, str], bool]
"""Function of a text and the known answer that returns whether the text is right."""

MARK = "####"
"""Mark before the final number in answers of GSM8K."""
NUMBER = re.compile(r"[-+]?\$?\d[\d,]*(?:\.\d+)?")


def _matches_marked_number(text: str, answer: str) -> bool:
    """Compare the number behind the text's first `####` with that of the answer, as GSM8K's strict match does."""
    _, mark, tail = text.partition(MARK)
    found = re.match(rf"\s*({NUMBER.pattern})", tail) if mark else None
    return found is not None and _parse_number(found.group(1)) == _parse_answer_number(answer)


def _matches_last_number(text: str, answer: str) -> bool:
    """Compare the last number of the text with that of the answer, as GSM8K's flexible match does."""
    found = NUMBER.findall(text)
    return bool(found) and _parse_number(found[-1]) == _parse_answer_number(answer)


def _matches_exactly(text: str, answer: str) -> bool:
    """Compare the text with the answer, apart from blanks around them."""
    return text.strip() == answer.strip()


def _contains_answer(text: str, answer: str) -> bool:
    """Search the text for the answer."""
    return answer.strip() in text


def _matches_regex(text: str, answer: str) -> bool:
    """Search the text for the answer as a regular expression, in which `^` and `$` match at every line."""
    return re.search(answer, text, re.MULTILINE) is not None


CHECKS: dict[str, Check] = {
    "number": _matches_marked_number,
    "last-number": _matches_last_number,
    "exact": _matches_exactly,
    "contains": _contains_answer,
    "regex": _matches_regex,
}


def find_check(name: str) -> Check:
    """Return the check of that name. Raises ConfigError if there is none."""
    if name not in CHECKS:
        raise ConfigError(f"check {name!r}{suggest_name(name, CHECKS)}: choose from {', '.join(CHECKS)}")
    return CHECKS[name]


def infer_check_name(answer: str) -> str:
    """Choose the check for an answer: `number` if it is a number or has one behind `####`, else `exact`."""
    return "exact" if _parse_answer_number(answer) is None else "number"


def check_answer(name: str, answer: str) -> None:
    """Raise ConfigError if no text could ever be right by that check and answer."""
    find_check(name)
    if name in ("number", "last-number") and _parse_answer_number(answer) is None:
        raise ConfigError(f"answer {answer!r}: holds no number, which check {name!r} needs")
    if name == "regex":
        try:
            re.compile(answer)
        except re.error as error:
            raise ConfigError(f"answer {answer!r}: no regular expression ({error})") from None


def _parse_answer_number(answer: str) -> Decimal | None:
    """Return the number of an answer, behind its last `####` or all of it; None if that is not a number."""
    found = NUMBER.fullmatch(answer.rpartition(MARK)[2].strip())
    return None if found is None else _parse_number(found.group())


def _parse_number(text: str) -> Decimal | None:
    """Parse a number with dollar signs and thousands separators. Decimal, so that 0.1 and 0.10 are equal exactly."""
    try:
        return Decimal(re.sub(r"[$,]", "", text))
    except InvalidOperation:
        return None


def convert_answer_to_text(answer: Any) -> str:
    """Convert an answer as JSON holds it to text. Raises ConfigError if it is neither a text nor a number."""
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise ConfigError(f"answer {answer!r}: must be a text or a number")
    return str(answer)
