"""A strategy: all parts together, and the two that are values: how a candidate is drawn, and what ends a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from transformers import LogitsProcessorList, TopKLogitsWarper, TopPLogitsWarper

from dllm.errors import ConfigError
from dllm.types import Cache, Policy, Probe, Processor, Scheduler, Signal, has_field

Warper = Callable[[Tensor, Tensor], Tensor]
"""A logits processor of `transformers`."""


@dataclass(frozen=True)
class Sampling:
    """The way a candidate is drawn from a marginal.

    With a temperature, a policy that prefers confident candidates (`Confidence`, as published) lets the draw choose the
    order and so prefers likely tokens: even one token at a time that is not exact sampling. With a score that looks at
    the marginal alone (`NegativeEntropy`, `Margin`, `LeftToRight`, `Random`) it is.

    A row's draws depend on its seed, the number of its windows so far and the column alone: neighbours, padding and the
    cache cannot change them.

    Attributes:
        temperature: Logits are divided by it; 0 takes the arg-max.
        top_k: Keep the k likeliest tokens; 0 keeps all.
        top_p: Then keep the smallest set of likeliest tokens whose probability reaches it; 1 keeps all.
        tempered: Whether the candidate's confidence is its probability after temperature and filters (Dream,
            Fast-dLLM v2, SDAR) instead of the model's own (LLaDA).
        processors: Applied to the logits in order: each a `Processor`, or a logits processor of `transformers`, which
            sees for every column the canvas left of that column, where pending columns hold the mask id.

    Raises:
        ConfigError: A field is out of its range, or filters are given without a temperature.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    tempered: bool = False
    processors: tuple[Processor | Warper, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"Sampling(temperature={self.temperature}): temperature must be 0 or a positive number")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"Sampling(top_p={self.top_p}): top_p must lie in (0, 1]")
        if self.top_k < 0:
            raise ConfigError(f"Sampling(top_k={self.top_k}): top_k must be 0 (off) or more")
        if self.temperature == 0 and (self.top_k or self.top_p < 1):
            raise ConfigError(
                f"{self}: top_k and top_p filter what is sampled, but temperature 0 takes the arg-max; "
                "set a temperature above 0"
            )

    def filters(self) -> LogitsProcessorList:
        filters = LogitsProcessorList()
        if self.top_k:
            filters.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1:
            filters.append(TopPLogitsWarper(self.top_p))
        return filters


@dataclass(frozen=True)
class Stopping:
    """The ends of a row before its length is reached. Only what lies behind the prompt is searched.

    Attributes:
        ids: End tokens; None for those of the checkpoint, () for none.
        strings: Texts that end a row. They need a tokenizer, and every step waits for the device once more to read the
            text.

    Raises:
        ConfigError: A stop string is empty.
    """

    ids: tuple[int, ...] | None = None
    strings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if any(not text for text in self.strings):
            raise ConfigError(f"{self}: an empty stop string would end every text at once; remove it")


@dataclass(frozen=True)
class Strategy:
    """A decoding strategy: which positions to commit, where to work, what to recompute, how to draw, when to stop.

    `eval(repr(strategy)) == strategy`, so a result file that names it says exactly what ran.

    Attributes:
        policy: Decides which positions to commit.
        scheduler: Decides where to work.
        cache: Decides what to recompute.
        sampling: How a candidate is drawn.
        stopping: What ends a row before its length is reached.

    Raises:
        ConfigError: A part is not of its kind, or two parts do not go together.

    Example:
        >>> from dllm import Blocks, DualCache, Factor, Strategy
        >>> Strategy(Factor(f=1.0), Blocks(32), DualCache()).cache
        DualCache(refresh=None, while_first=False)
    """

    policy: Policy
    scheduler: Scheduler
    cache: Cache
    sampling: Sampling = Sampling()
    stopping: Stopping = Stopping()

    def __post_init__(self) -> None:
        self._check_kinds()
        self._check_pace()
        if self.policy.edits and not self.policy.covers_decided:
            raise ConfigError(
                f"{self.policy} edits, so its needs must include a signal of decided slots, such as Current()"
            )
        if self.probes and not self.cache.fills_probes:
            raise ConfigError(
                f"{self.policy} needs {self.probes[0]}, and {self.cache} serves steps without a forward that could "
                "fill it; use another cache"
            )
        if self.constrained:
            self._check_constraint()

    @property
    def probes(self) -> tuple[Probe, ...]:
        """Probes that the policy needs."""
        return tuple(need for need in self.policy.needs if isinstance(need, Probe))

    @property
    def constrained(self) -> bool:
        """Whether a processor promises something of the whole text, and so decides what may be committed together."""
        return any(isinstance(p, Processor) and p.constrains for p in self.sampling.processors)

    def _check_kinds(self) -> None:
        """Raise ConfigError for a part that is a class, a name, or of another kind."""
        kinds: dict[str, tuple[type, str]] = {
            "policy": (Policy, "Factor(f=1.0)"),
            "scheduler": (Scheduler, "Blocks(32)"),
            "cache": (Cache, "DualCache()"),
            "sampling": (Sampling, "Sampling(temperature=0.7)"),
            "stopping": (Stopping, "Stopping()"),
        }
        for name, (kind, example) in kinds.items():
            part = getattr(self, name)
            if not isinstance(part, kind):
                said = f"the class {part.__name__}" if isinstance(part, type) else repr(part)
                raise ConfigError(
                    f"Strategy({name}={said}): a {name} is an object such as {example}; a {name} of your own derives "
                    f"from dllm.types.{kind.__name__}"
                )
        needs: object = self.policy.needs
        if not isinstance(needs, tuple) or not all(isinstance(need, Signal | Probe) for need in needs):
            raise ConfigError(
                f"{self.policy}.needs is {needs!r}: give a tuple of signals and probes, such as (SecondToken(),)"
            )

    def _check_pace(self) -> None:
        """Raise ConfigError where the policy follows steps that the scheduler does not plan, or the other way round."""
        if self.policy.paced and self.scheduler.steps is None:
            if has_field(self.scheduler, "steps"):
                raise ConfigError(f"{self.policy} follows a pace: give {type(self.scheduler).__name__} its steps")
            raise ConfigError(
                f"{self.policy} follows a pace, and {self.scheduler} plans no steps: use another of the two"
            )
        if not self.policy.paced and self.scheduler.steps is not None:
            raise ConfigError(
                f"{self.scheduler}: {self.policy} has no pace that would follow steps={self.scheduler.steps}; "
                "leave steps out, or use a policy with a pace such as TopK(pace=EqualSplit())"
            )

    def _check_constraint(self) -> None:
        """Raise ConfigError for parts under which a constraint's promise would not last."""
        if self.policy.edits:
            raise ConfigError(
                f"{self.policy} replaces decided tokens, which a constraint cannot follow; use a policy that does not"
            )
        if self.policy.chooses_tokens:
            raise ConfigError(
                f"{self.policy} commits other tokens than the candidates, which a constraint cannot follow; use a "
                "policy that does not"
            )
        if self.scheduler.moves_columns:
            raise ConfigError(
                f"{self.scheduler} moves columns, which a constraint cannot follow; use a scheduler of fixed length"
            )
        if self.stopping.strings:
            raise ConfigError(
                f"{self.stopping}: a stop string would cut the text that a constraint completes; leave it out"
            )
