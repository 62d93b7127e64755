"""Parts by name: one table for each kind, one line for each part. The command line, its help and its listing follow it.

A line holds the part's name and its class in the package of its kind, which is imported when the name is used. Packages
add names of their own by entry points in the groups given here: see `dllm.registry`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from dllm.errors import ConfigError
from dllm.registry import Registry, RegistryEntry


class PartRegistry(Registry[type]):
    """Names of the classes of one kind of part.

    Attributes:
        interfaces: Place of a protocol or base class ("module:Class"), and its method by which a part of this kind is
            known. The first is the kind's own; a class that has the method of any of them is a part of this kind.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        interfaces: Mapping[str, str],
        classes: Mapping[str, str],
        package: str | None = None,
    ) -> None:
        """Name the classes of a package, which by default is called like the entry-point group."""
        super().__init__(
            kind, group, {name: f"{package or group}:{made}" for name, made in classes.items()}, self._adopt
        )
        self.interfaces = dict(interfaces)

    @property
    def protocol(self) -> Any:
        """The kind's own protocol, which annotations of fields name."""
        return _load_place(next(iter(self.interfaces)))

    def accepts(self, part: type) -> bool:
        """Return whether a class derives from the base class of this kind, or has the method of its protocol."""
        return any(_implements(part, place, method) for place, method in self.interfaces.items())

    def _describe_interfaces(self) -> str:
        """Say what makes a class one of this kind."""
        ways = []
        for place, method in self.interfaces.items():
            if _is_base_class(place):
                ways.append(f"it does not derive from {place.replace(':', '.')}")
            else:
                ways.append(f"it has no {method}({', '.join(_list_arguments(place, method))})")
        return " and ".join(ways)

    def _adopt(self, entry: RegistryEntry, found: Any) -> Any:
        if not isinstance(found, type) or not is_dataclass(found) or not found.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            raise ConfigError(f"a {self.kind} is a class, and a frozen dataclass, so that its repr is its record")
        if not self.accepts(found):
            raise ConfigError(f"{found.__name__} is no {self.kind}: {self._describe_interfaces()}")
        return found


@functools.cache
def _load_place(place: str) -> Any:
    return RegistryEntry("", place).load()


@functools.cache
def _list_arguments(place: str, method: str) -> tuple[str, ...]:
    """List the arguments of a method as its class declares them, without `self`."""
    return tuple(inspect.signature(getattr(_load_place(place), method)).parameters)[1:]


def _is_base_class(place: str) -> bool:
    """Tell whether a kind is known by a base class, whose hooks are declared, rather than by a protocol."""
    from dllm.types import Part  # not above: a list of names must not wait for torch

    found = _load_place(place)
    return isinstance(found, type) and issubclass(found, Part)


def _implements(part: type, place: str, method: str) -> bool:
    """Tell whether a class is a part by one interface of its kind."""
    if _is_base_class(place):
        return issubclass(part, _load_place(place))
    return _takes(part, method, _list_arguments(place, method))


def _takes(part: type, method: str, arguments: tuple[str, ...]) -> bool:
    # `dir` and not `hasattr`: every class can be called, so each would have a `__call__` by way of `type`.
    if method not in dir(part):
        return False
    try:
        inspect.signature(getattr(part, method)).bind("self", *arguments)
    except TypeError:
        return False
    return True


POLICIES = PartRegistry(
    "policy",
    "dllm.policies",
    {"dllm.types:Policy": "step"},
    {
        "threshold": "Threshold",
        "factor": "Factor",
        "factor-as-published": "FactorAsPublished",
        "top-k": "TopK",
        "budgeted-threshold": "BudgetedThreshold",
        "decaying-threshold": "DecayingThreshold",
        "entropy-bound": "EntropyBound",
        "entropy-threshold": "EntropyThreshold",
        "certified": "Certified",
        "error-budget": "ErrorBudget",
        "sequence-budget": "SequenceBudget",
        "klass": "KLASS",
        "local-leap": "LocalLeap",
        "run-hierarchy": "RunHierarchy",
        "dilated": "Dilated",
        "certainty-prior": "CertaintyPrior",
        "early-commit": "EarlyCommit",
        "saber": "Saber",
        "wino": "WINO",
        "joint-threshold": "JointThreshold",
        "remdm": "ReMDM",
    },
)
SCHEDULERS = PartRegistry(
    "scheduler",
    "dllm.schedulers",
    {"dllm.types:Scheduler": "step"},
    {
        "blocks": "Blocks",
        "whole": "Whole",
        "adaptive": "AdaptiveBlocks",
        "sliding": "SlidingBlock",
        "pipeline": "Pipeline",
        "variable": "VariableLength",
    },
)
CACHES = PartRegistry(
    "cache",
    "dllm.caches",
    {"dllm.types:Cache": "step"},
    {
        "none": "NoCache",
        "prefix": "PrefixCache",
        "dual": "DualCache",
        "vicinity": "VicinityCache",
        "sliding": "SlidingCache",
        "delayed": "DelayedCache",
        "speculative": "Speculative",
    },
)
SCORES = PartRegistry(
    "score",
    "dllm.scores",
    {"dllm.policies:Score": "__call__"},
    {
        "confidence": "Confidence",
        "peak": "Peak",
        "margin": "Margin",
        "entropy": "NegativeEntropy",
        "random": "Random",
        "left-to-right": "LeftToRight",
        "sequential": "LeftToRight",
        "position-calibrated": "PositionCalibrated",
    },
    "dllm.policies",
)
PACES = PartRegistry(
    "pace",
    "dllm.paces",
    {"dllm.policies:Pace": "quota"},
    {"equal-split": "EqualSplit", "full-block": "FullBlock", "time-schedule": "TimeSchedule"},
    "dllm.policies",
)
CURVES = PartRegistry(
    "curve",
    "dllm.curves",
    {"dllm.policies:Curve": "__call__"},
    {"stairs": "Stairs", "linear": "Linear", "cosine": "Cosine", "exponential": "Exponential"},
    "dllm.policies",
)
PROCESSORS = PartRegistry(
    "processor",
    "dllm.processors",
    {"dllm.types:Processor": "step", "transformers:LogitsProcessor": "__call__"},
    {"credit": "CreditDecoding", "regex": "Regex", "json-schema": "JsonSchema"},
)
SIGNALS = PartRegistry(
    "signal",
    "dllm.signals",
    {"dllm.types:Signal": "compute", "dllm.types:Probe": "extract"},
    {
        "slot-entropy": "Entropy",
        "probabilities": "Probabilities",
        "second-token": "SecondToken",
        "noise": "Noise",
        "current": "Current",
        "shadow": "Shadow",
        "attention": "Attention",
        "hidden": "Hidden",
    },
)

TABLES = {
    registry.kind: registry for registry in (POLICIES, SCHEDULERS, CACHES, SCORES, PACES, CURVES, PROCESSORS, SIGNALS)
}
