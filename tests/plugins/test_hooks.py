"""A part that misspells a hook is refused when its class is defined, with the hook that was meant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from dllm.caches import DualCache, NoCache
from dllm.policies import Factor, PrefixRule
from dllm.schedulers import Blocks
from dllm.signals import Attention
from dllm.types import Cache, Part, Policy, Probe, Processor, Scheduler, Signal

MISSPELT = [
    (Policy, "intit", "init"),
    (Policy, "chooses_token", "chooses_tokens"),
    (Policy, "bounds", "bound"),
    (PrefixRule, "hold", "holds"),
    (Factor, "counts", "count"),
    (Scheduler, "refines", "refine"),
    (Blocks, "arange", "arrange"),
    (Cache, "observes", "observe"),
    (NoCache, "plans", "plan"),
    (DualCache, "reachs", "reach"),
    (Processor, "settles", "settle"),
    (Processor, "constrain", "constrains"),
    (Signal, "computes", "compute"),
    (Probe, "extracts", "extract"),
    (Attention, "attention", "attentions"),
]


@pytest.mark.parametrize(("base", "name", "meant"), MISSPELT, ids=lambda x: getattr(x, "__name__", x))
@pytest.mark.parametrize(
    "value", [lambda self, *given: None, property(lambda self: True), True], ids=["method", "property", "value"]
)
def test_a_misspelt_hook_is_refused(base: type[Part], name: str, meant: str, value: Any):
    with pytest.raises(TypeError, match=rf"Mine\.{name} is no hook and would never be called \(did you mean '{meant}'"):
        type("Mine", (base,), {name: value})


@pytest.mark.parametrize("base", [Policy, Scheduler, Cache, Processor, Signal, Probe])
def test_a_name_like_none_is_refused_with_the_hooks_there_are(base: type[Part]):
    with pytest.raises(TypeError, match=r"Mine.zzzz is no hook .*the hooks are .*begin the name of a helper with an"):
        type("Mine", (base,), {"zzzz": lambda self: None})


def test_helpers_fields_and_hooks_are_accepted():
    @dataclass(frozen=True)
    class Mine(Factor, hooks=("extra",)):
        field: int = 0
        constant: ClassVar[int] = 3

        def _helper(self) -> int:
            return 1

        def extra(self) -> int:
            return 2

        def holds(self, *given: Any) -> Any:
            return super().holds(*given)

    @dataclass(frozen=True)
    class Further(Mine):
        def extra(self) -> int:
            return 4

    assert Further(0.5, field=2).extra() == 4
    with pytest.raises(TypeError, match="did you mean 'extra'"):
        type("Wrong", (Mine,), {"extras": None})
