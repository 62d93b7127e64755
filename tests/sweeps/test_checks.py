"""Rules that decide whether an answer is right."""

from __future__ import annotations

import pytest

from dllm.errors import ConfigError
from dllm.sweeps.answer_checks import CHECKS, check_answer, find_check, infer_check_name


@pytest.mark.parametrize(
    ("check", "text", "answer", "right"),
    [
        ("number", "2 + 3 = 5.\n#### 5", "5", True),
        ("number", "#### 5.", "5", True),
        ("number", "#### 57", "5", False),
        ("number", "#### 4 and then #### 5", "5", False),
        ("number", "5", "5", False),
        ("number", "#### $1,200.00", "so 1200.\n#### 1,200", True),
        ("number", "#### -3", "-3", True),
        ("number", "####", "0", False),
        ("last-number", "it is 4, no, 5", "5", True),
        ("last-number", "none", "5", False),
        ("exact", " yes\n", "yes", True),
        ("exact", "yes, yes", "yes", False),
        ("contains", "it is yes", "yes", True),
        ("contains", "no", "yes", False),
        ("regex", "first\ntotal: 12 apples", r"^total: \d+", True),
        ("regex", "total", r"\d", False),
    ],
)
def test_checks(check: str, text: str, answer: str, right: bool) -> None:
    assert CHECKS[check](text, answer) is right


def test_the_usual_check_goes_by_the_answer() -> None:
    assert [infer_check_name(a) for a in ("5", "so\n#### 5", "-1,000.5", "Paris", "5 apples")] == ["number"] * 3 + [
        "exact"
    ] * 2


def test_an_answer_that_nothing_could_match_is_refused() -> None:
    with pytest.raises(ConfigError, match="holds no number"):
        check_answer("number", "Paris")
    with pytest.raises(ConfigError, match="no regular expression"):
        check_answer("regex", "(")
    with pytest.raises(ConfigError, match="did you mean 'regex'"):
        find_check("regexp")
