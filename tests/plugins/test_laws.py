"""The laws find what is wrong with a part made elsewhere, and pytest finds the laws."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
import torch

from dllm import (
    Blocks,
    ConfigError,
    CreditDecoding,
    DualCache,
    LeftToRight,
    Linear,
    Margin,
    NoCache,
    Threshold,
    TopK,
    Whole,
)
from dllm.caches import PrefixCache
from dllm.policies import EqualSplit, PrefixRule, Score
from dllm.testing import Laws
from dllm.testing.cells import CACHES, SCHEDULERS, find_part_kind, make_cells
from dllm.testing.suite import SUBSETS
from dllm.testing.tiny import GEOMETRIES
from tests.packages import EXAMPLE, Site


@dataclass(frozen=True)
class Elsewhere(PrefixRule):
    """A policy that nobody registered."""

    share: float = 0.5
    score: Score = Margin()

    def holds(self, ranked: Any, score: Any, guess: Any, /) -> Any:
        return score >= self.share * score[:, :1]


class TestElsewhere(Laws):
    parts = (Elsewhere(),)

    def chosen(self, config: Any) -> list[Any]:
        return super().chosen(config)[::19]  # the whole product is run for our own parts


@pytest.mark.parametrize(
    ("part", "kind", "count"),
    [
        (Elsewhere(), "policy", 4 * 6 * 6 - 2 * 2 * 6),
        ("threshold", "policy", 4 * 6 * 6 - 2 * 2 * 6),
        (Blocks(4), "scheduler", 4 * 6 * 6),
        (Blocks(4, commit=True), "scheduler", 2 * 6 * 6),
        (Blocks(4, steps=2), "scheduler", 4 * 2 * 6),
        (DualCache(refresh=5), "cache", 4 * 6 * 6 - 2 * 2 * 6),
        (LeftToRight(), "score", 3 * (4 * 6 * 6 - 2 * 2 * 6)),
        (EqualSplit(), "pace", 4 * 6 * 6 - 2 * 2 * 6),
        (Linear(), "curve", 4 * 6 * 6 - 2 * 2 * 6),
        (CreditDecoding(), "processor", 6 * (4 * 6 * 6 - 2 * 2 * 6)),
    ],
    ids=str,
)
def test_a_part_meets_every_other_part(part: Any, kind: str, count: int):
    found = make_cells(part)
    assert kind == "policy" or find_part_kind(part) == kind
    assert len({repr(cell) for cell in found}) == len(found)
    assert len(found) == count
    assert {geometry for geometry, _ in found} <= set(GEOMETRIES)
    if kind not in ("scheduler", "processor"):
        assert {replace(s.scheduler, steps=None) for _, s in found} == set(SCHEDULERS)
    if kind != "cache":
        assert {s.cache for _, s in found} == set(CACHES)


def test_a_part_that_refuses_everything_is_told_so():
    with pytest.raises(ConfigError, match="refuses every model and every part, for example"):
        make_cells(Refusing())
    with pytest.raises(ConfigError, match="is no part"):
        make_cells(3)
    with pytest.raises(ConfigError, match="tests nothing"):
        Laws().pytest_generate_tests(type("Metafunc", (), {"fixturenames": ["cell"], "config": None})())


@dataclass(frozen=True)
class Refusing(Whole):
    def init(self, canvas: Any, model: Any, /) -> Any:
        raise ConfigError("Refusing(): never")


@dataclass(frozen=True)
class Neighbourly(Elsewhere):
    """Looks at the other rows of its batch."""

    def step(self, guess: Any, window: Any, state: Any, /) -> Any:
        verdict, state = super().step(guess, window, state)
        return verdict._replace(accept=verdict.accept & (len(verdict.accept) == 1)), state


@dataclass(frozen=True)
class Forgetful(Elsewhere):
    """Has a field that its repr does not say."""

    hidden: int = field(default=0, repr=False)


@dataclass(frozen=True)
class Lazy(Elsewhere):
    """Rests without saying that it may."""

    def step(self, guess: Any, window: Any, state: Any, /) -> Any:
        verdict, state = super().step(guess, window, state)
        even = (window.step % 2 == 0) & (window.step < 6)
        return verdict._replace(accept=verdict.accept & ~even.unsqueeze(1), rest=even), state


@dataclass(frozen=True)
class Stale(DualCache):
    """Says of what it kept that it is fresh."""

    def plan(self, *given: Any) -> Any:
        course = super().plan(*given)
        return course._replace(fresh=torch.ones_like(course.fresh))


@dataclass(frozen=True)
class NeverFresh(DualCache):
    """Refreshes nothing, whatever it is told."""

    def needs_refresh(self, window: Any, memory: Any) -> Any:
        return window.entered


@dataclass(frozen=True)
class Drawn:
    """Draws from a source that all rows share, and no seed."""

    needs: ClassVar[Any] = Margin.needs

    def __call__(self, guess: Any, window: Any, /) -> Any:
        return torch.rand(guess.p1.shape)


@pytest.mark.parametrize(
    ("part", "test", "subset"),
    [
        (Neighbourly(), "test_laws", "cell"),
        (Forgetful(hidden=3), "test_laws", "cell"),
        (Lazy(), "test_laws", "cell"),
        (Drawn(), "test_laws", "cell"),
        (Stale(), "test_what_is_fresh_is_exact", "fresh_cell"),
        (NeverFresh(), "test_a_cache_refreshed_at_every_step_is_no_cache", "uncached_cell"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_the_laws_find_what_is_wrong(part: Any, test: str, subset: str):
    found = SUBSETS[subset](make_cells(part))
    suite = type("TestPart", (Laws,), {"parts": (part,)})()

    def holds(cell: Any) -> bool:
        try:
            getattr(suite, test)(cell)
        except (AssertionError, ConfigError):
            return False
        return True

    assert not all(holds(cell) for cell in found[::5])


def test_subsets_are_about_what_their_laws_are_about():
    found = make_cells(Threshold(0.6))
    uncached = SUBSETS["uncached_cell"](found)
    assert all(isinstance(s.cache, NoCache) for _, s in uncached) and len(uncached) == len(found) / len(CACHES)
    assert {g for g, _ in SUBSETS["exact_cell"](found)} == {"block-causal", "block-causal-shift"}
    assert SUBSETS["exact_cell"](make_cells(PrefixCache())) == []
    judged = SUBSETS["fresh_cell"](make_cells(PrefixCache()))
    assert {type(s.policy) for _, s in judged} == {Threshold, TopK} and 0 < len(judged) < len(make_cells(PrefixCache()))


def test_pytest_collects_the_laws_of_installed_parts(site: Site, tmp_path):
    """As the example's README line says: its own test file, and a part by option, in a process that knows neither."""
    site.install_example()
    file = tmp_path / "test_relative.py"
    file.write_text((EXAMPLE / "test_relative.py").read_text())
    command = [sys.executable, "-m", "pytest", "-v", "-p", "dllm.testing.plugin", "-p", "no:cacheprovider", str(file)]
    command += [
        "--dllm-laws",
        "relative(share=0.3)",
        "-k",
        "block-causal-Relative and Whole and test_laws and NoCache",
    ]
    environment = os.environ | {"PYTHONPATH": str(site.folder)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    passed = [line for line in result.stdout.splitlines() if "PASSED" in line]
    assert len(passed) == 3 and all(sum(f"share={share}" in line for line in passed) == 1 for share in (0.8, 0.5, 0.3))
    assert sum(line.startswith("dllm-laws::") for line in passed) == 1


def test_the_pytest_plugin_does_not_wait_for_torch():
    code = "import sys, dllm.testing.plugin; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
