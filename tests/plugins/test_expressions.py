"""Parts as text: every repr can be given back, every mistake is told with the right spelling, nothing is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dllm import (
    KLASS,
    Blocks,
    CertaintyPrior,
    ConfigError,
    DualCache,
    EarlyCommit,
    Linear,
    Margin,
    NegativeEntropy,
    PositionCalibrated,
    Sampling,
    Stopping,
    Strategy,
    Threshold,
    TimeSchedule,
    TopK,
)
from dllm.compose.expressions import read_part
from dllm.compose.recipes import RECIPES
from dllm.policies import Score
from dllm.types import Cache, Policy, Scheduler
from tests.parts import CACHES, CELLS, POLICIES, SCHEDULERS

SAME = {
    "klass": KLASS(),
    "KLASS": KLASS(),
    "klass()": KLASS(),
    " klass ( kl = 0.02 , history = 3 ) ": KLASS(kl=0.02, history=3),
    "klass(0.5, 1e-3)": KLASS(0.5, 0.001),
    "threshold(tau=1)": Threshold(1.0),
    "threshold(strict=True, score=margin)": Threshold(strict=True, score=Margin()),
    "top-k(k=2, score=entropy)": TopK(k=2, score=NegativeEntropy()),
    "top_k(2, score=NegativeEntropy())": TopK(k=2, score=NegativeEntropy()),
    "top-k(pace=time-schedule(eps=1e-2))": TopK(pace=TimeSchedule(0.01)),
    "top-k(1, None, None)": TopK(k=1),
    "certainty-prior(early-commit(top-k(k=1)), sigma=3)": CertaintyPrior(EarlyCommit(TopK(k=1)), 3.0),
    "early-commit(curve=linear(low=-1, high=2))": EarlyCommit(curve=Linear(2.0, -1.0)),
}


@pytest.mark.parametrize("text", SAME)
def test_a_policy_as_text(text: str):
    made = read_part(text, Policy)
    assert made == SAME[text] and repr(made) == repr(SAME[text]), "a whole number is written as the field's type"


def test_texts_keep_what_looks_like_a_name():
    text = "Strategy(top-k(k=1, score=position-calibrated), blocks, dual, stopping=Stopping(strings=('a-b', \"c-'d\")))"
    wanted = Strategy(
        TopK(k=1, score=PositionCalibrated()), Blocks(), DualCache(), stopping=Stopping(strings=("a-b", "c-'d"))
    )
    assert read_part(text, Strategy) == wanted == read_part(repr(wanted), Strategy)


@pytest.mark.parametrize(("kind", "parts"), [(Policy, POLICIES), (Scheduler, SCHEDULERS), (Cache, CACHES)])
def test_a_repr_is_an_expression(kind: Any, parts: list[Any]):
    for part in parts:
        assert read_part(repr(part), kind) == part


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_repr_of_a_whole_strategy_is_an_expression(recipe: str):
    strategy = RECIPES[recipe].make()
    assert read_part(repr(strategy), Strategy) == strategy


@given(
    st.builds(
        KLASS,
        st.floats(0, 2),
        st.floats(0, 1e9),
        st.integers(1, 9),
        st.sampled_from([Margin(), PositionCalibrated(0.1)]),
    )
)
def test_numbers_come_back_exactly(policy: KLASS):
    assert read_part(repr(policy), Policy) == policy


@given(st.lists(st.text(min_size=1), max_size=3), st.lists(st.integers(), max_size=3) | st.none(), st.floats(0, 9))
def test_texts_and_lists_come_back_exactly(strings: list[str], ids: list[int] | None, temperature: float):
    stopping = Stopping(None if ids is None else tuple(ids), tuple(strings))
    strategy = Strategy(Threshold(), Blocks(), DualCache(), Sampling(temperature), stopping)
    assert read_part(repr(strategy), Strategy) == strategy


WRONG = {
    "treshold": ["unknown policy 'treshold' (did you mean 'threshold'?)", "choose from threshold, factor"],
    "Treshold(1)": ["did you mean 'threshold'?"],
    "klass(khl=1)": ["klass has no field 'khl' (did you mean 'kl'?)", "klass(tau=0.9, kl=0.01, history=2, score=Conf"],
    "klass(kl='a')": ["klass(kl='a'): must be a number"],
    "klass(kl=None)": ["klass(kl=None): must be a number"],
    "klass(kl=True)": ["klass(kl=True): must be a number"],
    "klass(kl=margin)": ["klass(kl=margin): must be a number"],
    "klass(kl=1+1)": ["klass(kl=1 + 1): must be a number"],
    "klass(kl=[1])": ["must be a number"],
    "klass(kl=-'1')": ["must be a number"],
    "klass(history=1.5)": ["must be a whole number"],
    "threshold(strict=1)": ["must be True or False"],
    "threshold(score=0.5)": ["threshold(score=0.5): must be a score (confidence, peak"],
    "threshold(score=mragin)": ["unknown score 'mragin' (did you mean 'margin'?)"],
    "threshold(score=klass)": ["klass is a policy", "must be a score"],
    "dual": ["dual is a cache", "must be a policy"],
    "Blocks(8)": ["Blocks is a scheduler"],
    "klass(kl=-1)": ["kl=-1.0", "must be 0 or more"],
    "klass(tau=nan)": ["tau=nan", "must be 0 or more"],
    "top-k": ["give either k, slots per step, or a pace"],
    "klass(1, 2, 3, margin, 5)": ["too many values for klass; it is klass(tau=0.9"],
    "klass(1, tau=2)": ["tau of klass is given twice"],
    "klass(tau=1, tau=2)": ["tau of klass is given twice"],
    "klass(*[1])": ["write out *[1]"],
    "klass(**{'tau': 1})": ["write out {'tau': 1}"],
    "klass(": ["no expression", "never closed"],
    "klass(tau=0.9": ["no expression"],
    "": ["no expression"],
    "klass; klass": ["no expression"],
    "a\0": ["null bytes"],
    "(" * 300 + "klass" + ")" * 300: ["no expression"],
    "0.9": ["0.9 is neither a part"],
    "'klass'": ["neither a part"],
    "dllm.KLASS()": ["neither a part"],
    "klass()()": ["neither a part"],
    "klass().tau": ["neither a part"],
    "[klass][0]": ["neither a part"],
    "klass if True else dual": ["neither a part"],
    "lambda: klass": ["neither a part"],
    "(x := klass)": ["neither a part"],
    "position-calibrated(frequencies=margin)": ["position-calibrated is a score"],
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: text[:30].replace("\0", "0"))
def test_what_is_wrong_is_said(text: str):
    with pytest.raises(ConfigError) as caught:
        read_part(text, Policy)
    for fragment in WRONG[text]:
        assert fragment in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').mkdir('{0}')",
        "threshold(tau=__import__('os').mkdir('{0}'))",
        "threshold(tau=open('{0}', 'w'))",
        "threshold(score=(lambda: open('{0}', 'w'))())",
        "top-k(k=[open('{0}', 'w') for _ in (1,)])",
        "eval(\"open('{0}', 'w')\")",
        "position-calibrated(frequencies=f\"{{open('{0}', 'w')}}\")",
    ],
)
def test_nothing_is_run(text: str, tmp_path):
    for kind in (Policy, Score, Any):
        with pytest.raises(ConfigError):
            read_part(text.format(tmp_path / "made"), kind)
    assert not list(tmp_path.iterdir())


@dataclass(frozen=True)
class Inner:
    size: int = 1


@dataclass(frozen=True)
class Rich:
    needed: float
    inner: Inner = Inner()
    mode: Literal["fast", "slow"] = "fast"
    pairs: tuple[int, str] = (1, "a")
    many: tuple[float, ...] = ()
    table: dict[str, int] | None = None
    odd: Any = None
    later: "Unknown" = 1  # type: ignore[name-defined]  # noqa: F821


@dataclass(frozen=True)
class Typed:
    inner: Inner = Inner()
    mode: Literal["fast", "slow"] = "fast"
    pairs: tuple[int, str] = (1, "a")
    many: tuple[float, ...] = ()
    table: dict[str, int] | None = None

    def __post_init__(self) -> None:
        if self.many == (0.0,):
            raise ValueError("many is zero")


def test_fields_of_any_type():
    text = "Typed(Inner(3), 'slow', (2, 'b'), (1, 2.5), {'a': 1})"
    assert read_part(text, Typed) == Typed(Inner(3), "slow", (2, "b"), (1.0, 2.5), {"a": 1})
    wrong = {
        "Typed(mode='quick')": "must be 'fast' or 'slow'",
        "Typed(pairs=(1, 2))": "must be a text in quotes",
        "Typed(pairs=(1,))": "values in brackets",
        "Typed(table={'a': 'b'})": "must be a whole number",
        "Typed(inner=3)": "must be Inner(…)",
        "Typed(inner=klass)": "klass is a policy; here must be Inner(…)",
        "Typed(many=(0,))": "Typed(many=(0,)): many is zero",
    }
    for text, said in wrong.items():
        with pytest.raises(ConfigError) as caught:
            read_part(text, Typed)
        assert said in str(caught.value), text


def test_fields_whose_types_cannot_be_told():
    assert read_part("Rich(1, odd=margin)", Rich, {"Inner": Inner}) == Rich(1, odd=Margin())
    assert read_part("Rich(1, inner=Inner(2), later=-2)", Rich, {"Inner": Inner}) == Rich(1, Inner(2), later=-2)
    with pytest.raises(ConfigError, match=r"Rich needs needed: it is Rich\(needed, inner=Inner\(size=1\)"):
        read_part("Rich()", Rich)


def test_options_give_back_what_a_result_says():
    from dllm.compose.options import Options
    from dllm.testing.tiny import tiny_model

    for geometry, strategy in CELLS[::37]:
        m = tiny_model(geometry)
        assert Options(recipe=repr(strategy)).strategy(m, 13) == strategy
