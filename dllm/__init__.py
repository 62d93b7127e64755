"""dllm: composable decoding strategies for masked and block diffusion language models.

The names below are imported together when the first of them is used, so that `dllm --help` need not wait for torch.
"""

from typing import TYPE_CHECKING, Any

from dllm.version import VERSION

if TYPE_CHECKING:
    from dllm.api import decode, steps, stream, stream_to
    from dllm.caches import DelayedCache, DualCache, NoCache, PrefixCache, SlidingCache, Speculative, VicinityCache
    from dllm.engine.results import Collector, Result
    from dllm.errors import CheckpointError, ConfigError, DllmError, NumericsError, RequestError
    from dllm.models import Guided, load
    from dllm.policies import (
        KLASS,
        WINO,
        BudgetedThreshold,
        ByConfidence,
        Capped,
        CertaintyPrior,
        Certified,
        Confidence,
        Cosine,
        DecayingThreshold,
        Dilated,
        EarlyCommit,
        EntropyBound,
        EntropyThreshold,
        EqualSplit,
        ErrorBudget,
        Exponential,
        Factor,
        FactorAsPublished,
        FullBlock,
        JointThreshold,
        LeftToRight,
        Linear,
        LocalLeap,
        Margin,
        NegativeEntropy,
        Peak,
        PositionCalibrated,
        Random,
        RemaskLoop,
        ReMDM,
        Rescaled,
        RunHierarchy,
        Saber,
        SequenceBudget,
        Stairs,
        Threshold,
        TimeSchedule,
        TopK,
    )
    from dllm.processors import CreditDecoding, JsonSchema, Regex
    from dllm.prompts import Infill
    from dllm.requests import Request
    from dllm.schedulers import AdaptiveBlocks, Blocks, Pipeline, SlidingBlock, VariableLength, Whole
    from dllm.strategy import Sampling, Stopping, Strategy
    from dllm.streaming import Delta, Deltas

__version__ = VERSION
__all__ = [
    "KLASS",
    "WINO",
    "AdaptiveBlocks",
    "Blocks",
    "BudgetedThreshold",
    "ByConfidence",
    "Capped",
    "CertaintyPrior",
    "Certified",
    "CheckpointError",
    "Collector",
    "Confidence",
    "ConfigError",
    "Cosine",
    "CreditDecoding",
    "DecayingThreshold",
    "DelayedCache",
    "Delta",
    "Deltas",
    "Dilated",
    "DllmError",
    "DualCache",
    "EarlyCommit",
    "EntropyBound",
    "EntropyThreshold",
    "EqualSplit",
    "ErrorBudget",
    "Exponential",
    "Factor",
    "FactorAsPublished",
    "FullBlock",
    "Guided",
    "Infill",
    "JointThreshold",
    "JsonSchema",
    "LeftToRight",
    "Linear",
    "LocalLeap",
    "Margin",
    "NegativeEntropy",
    "NoCache",
    "NumericsError",
    "Peak",
    "Pipeline",
    "PositionCalibrated",
    "PrefixCache",
    "Random",
    "ReMDM",
    "Regex",
    "RemaskLoop",
    "Request",
    "RequestError",
    "Rescaled",
    "Result",
    "RunHierarchy",
    "Saber",
    "Sampling",
    "SequenceBudget",
    "SlidingBlock",
    "SlidingCache",
    "Speculative",
    "Stairs",
    "Stopping",
    "Strategy",
    "Threshold",
    "TimeSchedule",
    "TopK",
    "VariableLength",
    "VicinityCache",
    "Whole",
    "decode",
    "load",
    "steps",
    "stream",
    "stream_to",
]

_HOMES = (
    "api",
    "caches",
    "engine.results",
    "errors",
    "models",
    "policies",
    "processors",
    "prompts",
    "requests",
    "schedulers",
    "strategy",
    "streaming",
)
"""Modules in which the public names live."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'dllm' has no attribute {name!r}")
    from importlib import import_module

    homes = [vars(import_module(f"dllm.{home}")) for home in _HOMES]
    globals().update({public: next(home[public] for home in homes if public in home) for public in __all__})
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
