"""A strategy: all parts together."""

from __future__ import annotations

from dataclasses import dataclass

from dllm.errors import ConfigError
from dllm.sampling import Sampling
from dllm.stopping import Stopping
from dllm.types import Cache, Policy, Scheduler


@dataclass(frozen=True)
class Strategy:
    """How to decode: which positions to commit, where to work, what to recompute, how to draw, when to stop.

    `eval(repr(strategy)) == strategy`, so a result file that names it says exactly what ran.
    """

    policy: Policy
    scheduler: Scheduler
    cache: Cache
    sampling: Sampling = Sampling()
    stopping: Stopping = Stopping()

    def __post_init__(self) -> None:
        if getattr(self.policy, "edits", False) and any(hasattr(p, "settle") for p in self.sampling.processors):
            raise ConfigError(
                f"{self.policy} replaces decided tokens, which a constraint cannot follow; use a policy that does not"
            )
        steps = getattr(self.scheduler, "steps", None)
        if getattr(self.policy, "paced", False):
            if steps is None:
                raise ConfigError(f"{self.policy} follows a pace: give {type(self.scheduler).__name__} its steps")
        elif steps is not None:
            raise ConfigError(
                f"{self.scheduler}: {self.policy} has no pace that would follow steps={steps}; "
                "leave steps out, or use a policy with a pace such as TopK(pace=EqualSplit())"
            )
