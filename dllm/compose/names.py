"""What there is to compose: one table a kind, one line a part. The command line, its help and its listing follow it.

A line is the part's name and its class in the room of its kind, which is imported when the name is used. Packages add
names of their own by entry points in the groups given here: see `dllm.registry`.
"""

from __future__ import annotations

import inspect
from dataclasses import is_dataclass
from typing import Any

from dllm.errors import ConfigError
from dllm.registry import Registry, RegistryEntry

METHODS: dict[str, tuple[tuple[str, ...], ...]] = {
    "policy": (("step", "guess", "window", "state"),),
    "scheduler": (("step", "canvas", "state"),),
    "cache": (("step", "model", "canvas", "window", "state"),),
    "score": (("__call__", "guess", "window"),),
    "pace": (("quota", "window", "opened"),),
    "curve": (("__call__", "share"),),
    "processor": (("step", "logits", "where", "canvas", "state"), ("__call__", "input_ids", "scores")),
}
"""The method by which a kind is known, with its arguments; a processor has one of two."""


def implements_kind(kind: str, part: type) -> bool:
    """Whether a class has the method of a kind, and that takes as many arguments."""

    def takes(name: str, *arguments: str) -> bool:
        if name not in dir(part):
            return False
        try:
            inspect.signature(getattr(part, name)).bind("self", *arguments)
        except TypeError:
            return False
        return True

    return any(takes(*method) for method in METHODS[kind])


def _make_registry(kind: str, group: str, classes: dict[str, str], room: str | None = None) -> Registry[type]:
    """A registry of classes that live in one room, by default named like the group."""

    def adopt(entry: RegistryEntry, found: Any) -> Any:
        if not isinstance(found, type) or not is_dataclass(found) or not found.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            raise ConfigError(f"a {kind} is a class, and a frozen dataclass, so that its repr is its record")
        if not implements_kind(kind, found):
            ways = " or ".join(f"{name}({', '.join(arguments)})" for name, *arguments in METHODS[kind])
            raise ConfigError(f"{found.__name__} is no {kind}: it has no {ways}")
        return found

    return Registry(kind, group, {name: f"{room or group}:{called}" for name, called in classes.items()}, adopt)


POLICIES = _make_registry(
    "policy",
    "dllm.policies",
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
SCHEDULERS = _make_registry(
    "scheduler",
    "dllm.schedulers",
    {
        "blocks": "Blocks",
        "whole": "Whole",
        "adaptive": "AdaptiveBlocks",
        "sliding": "SlidingBlock",
        "pipeline": "Pipeline",
        "variable": "VariableLength",
    },
)
CACHES = _make_registry(
    "cache",
    "dllm.caches",
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
SCORES = _make_registry(
    "score",
    "dllm.scores",
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
PACES = _make_registry(
    "pace",
    "dllm.paces",
    {"equal-split": "EqualSplit", "full-block": "FullBlock", "time-schedule": "TimeSchedule"},
    "dllm.policies",
)
CURVES = _make_registry(
    "curve",
    "dllm.curves",
    {"stairs": "Stairs", "linear": "Linear", "cosine": "Cosine", "exponential": "Exponential"},
    "dllm.policies",
)
PROCESSORS = _make_registry(
    "processor", "dllm.processors", {"credit": "CreditDecoding", "regex": "Regex", "json-schema": "JsonSchema"}
)

TABLES = {registry.kind: registry for registry in (POLICIES, SCHEDULERS, CACHES, SCORES, PACES, CURVES, PROCESSORS)}
