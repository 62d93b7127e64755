"""A strategy: all parts together."""

from __future__ import annotations

from dataclasses import dataclass

from dllm.errors import ConfigError
from dllm.types import JUDGES, Cache, Policy, Scheduler


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
        if self.constrained:
            self.check_constraint()
        if getattr(self.policy, "edits", False) and not self.policy.needs & JUDGES:
            raise ConfigError(f"{self.policy} edits, so its needs must include Signal.CURRENT or Signal.SHADOW")
        steps = getattr(self.scheduler, "steps", None)
        if getattr(self.policy, "paced", False):
            if not hasattr(self.scheduler, "steps"):
                raise ConfigError(
                    f"{self.policy} follows a pace, and {self.scheduler} plans no steps: use another of the two"
                )
            if steps is None:
                raise ConfigError(f"{self.policy} follows a pace: give {type(self.scheduler).__name__} its steps")
        elif steps is not None:
            raise ConfigError(
                f"{self.scheduler}: {self.policy} has no pace that would follow steps={steps}; "
                "leave steps out, or use a policy with a pace such as TopK(pace=EqualSplit())"
            )

    @property
    def constrained(self) -> bool:
        """Whether a processor promises something of the whole text, and so decides what may be committed together."""
        return any(hasattr(processor, "settle") for processor in self.sampling.processors)

    def check_constraint(self) -> None:
        """Raise ConfigError for parts under which what a constraint promised would not last."""
        if getattr(self.policy, "edits", False):
            raise ConfigError(
                f"{self.policy} replaces decided tokens, which a constraint cannot follow; use a policy that does not"
            )
        if hasattr(self.scheduler, "arrange"):
            raise ConfigError(
                f"{self.scheduler} moves columns, which a constraint cannot follow; use a scheduler of fixed length"
            )
        if self.stopping.strings:
            raise ConfigError(
                f"{self.stopping}: a stop string would cut the text that a constraint completes; leave it out"
            )
