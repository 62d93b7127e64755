"""Strategies from named options, as a command line or a sweep file gives them; what does not belong is refused.

A recipe sets every part; an option overrides its part. Options that name a part (`policy`, `scheduler`, `cache`)
replace it; the others set a field of the part they belong to, and it is an error if no part has that field. A part is
given by its name alone, which keeps the recipe's fields where the recipe has that part, or as an expression, which is
taken as it is: `klass(kl=0.01)`. Fields of a part that are no option are written in such an expression. See
`dllm.compose.expressions`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from dllm.compose.expressions import is_expression, read_call, read_part
from dllm.compose.names import CACHES, POLICIES, PROCESSORS, SCHEDULERS, SCORES, PartRegistry
from dllm.compose.recipes import RECIPES, Recipe, default_recipe
from dllm.errors import ConfigError
from dllm.policies import BudgetedThreshold, Confidence, Threshold, TimeSchedule, TopK
from dllm.schedulers import Whole
from dllm.schedulers.blocks import DEFAULT_SIZE
from dllm.strategy import Sampling, Stopping, Strategy
from dllm.types import BlockCausal, Cache, Policy, Scheduler

P = TypeVar("P")
__all__ = ["CACHES", "POLICIES", "SCHEDULERS", "SCORES", "Options"]


@dataclass(frozen=True)
class Options:
    """Settings that a user may give; None leaves a setting to the recipe. Parts are names or expressions.

    Attributes:
        recipe: One of `RECIPES`, also with arguments, `pc_sampler(decay=0.5)`; or a whole strategy as its repr and
            result files have it, `Strategy(policy=…, …)`.
        policy: One of `POLICIES`.
        tau: Field of a policy: least score that is committed.
        f: Field of a policy: the factor.
        k: Field of a policy: tokens a step.
        score: Field of a policy: one of `SCORES`.
        eps: Where the time schedule of a pace ends (Dream).
        scheduler: One of `SCHEDULERS`.
        block_size: Field of a scheduler, called `size` there.
        sub_block_size: Field of a scheduler, called `sub_block` there.
        steps: Steps in total, over the whole generation, as LLaDA counts them.
        cache: One of `CACHES`.
        refresh: Field of a cache: forwards between two refreshes.
        temperature: Of `Sampling`.
        top_k: Of `Sampling`.
        top_p: Of `Sampling`.
        processor: Of `PROCESSORS`, applied to the logits in this order, after those of the recipe.
        stop: Stop strings.
        stop_ids: End tokens instead of the checkpoint's; () for none.
    """

    recipe: str | None = None
    policy: str | None = None
    tau: float | None = None
    f: float | None = None
    k: int | None = None
    score: str | None = None
    eps: float | None = None
    scheduler: str | None = None
    block_size: int | None = None
    sub_block_size: int | None = None
    steps: int | None = None
    cache: str | None = None
    refresh: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    processor: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] | None = None

    def strategy(self, model: Any, max_new_tokens: int) -> Strategy:
        """Build the strategy for rows of a length, on which only the meaning of `steps` depends.

        Args:
            model: A model, or as much of one as has its `family` and its `geometry`.
            max_new_tokens: New tokens of a row.
        """
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"--steps {self.steps}: must be at least 1")
        recipe, base = self._make_base(getattr(model, "family", ""), max_new_tokens)
        cache = self._make_cache(base)
        policy = self._make_policy(base, recipe)
        scheduler = self._make_scheduler(base, policy, model, max_new_tokens)
        return Strategy(policy, scheduler, cache, self._make_sampling(base), self._make_stopping(base))

    @property
    def _is_written_out(self) -> bool:
        """True if a whole strategy is written out in place of a recipe."""
        return self.recipe is not None and self.recipe.lstrip().startswith("Strategy(")

    def _make_base(self, family: str, max_new_tokens: int) -> tuple[Recipe, Strategy]:
        """Make the strategy whose parts the options replace, and find the recipe that says what top-k follows."""
        if self._is_written_out:
            return default_recipe(family), read_part(self.recipe or "", Strategy)
        if self.recipe is None:
            recipe, given = default_recipe(family), {}
        else:
            call = read_call(self.recipe, RECIPES, lambda found: found.make)
            recipe, given = call.called, call.fields or {}
        return recipe, recipe.make(**self._make_recipe_arguments(recipe, max_new_tokens) | given)

    def _make_recipe_arguments(self, recipe: Recipe, max_new_tokens: int) -> dict[str, Any]:
        """Pass on the options on which other parts of a recipe depend, as far as the recipe takes them."""
        takes = inspect.signature(recipe.make).parameters
        given: dict[str, Any] = {}
        if self.cache is not None and "cache" in takes:
            given["cache"] = _make_part(self.cache, CACHES)
        if "total_steps" in takes:
            given["total_steps"] = self.steps or max_new_tokens
        return given

    def _make_cache(self, base: Strategy) -> Cache:
        cache: Cache = _make_part(self.cache, CACHES, base.cache)
        return _replace_fields(cache, {"refresh": ("refresh", self.refresh)}, CACHES)

    def _make_policy(self, base: Strategy, recipe: Recipe) -> Policy:
        policy = self._choose_policy(base, recipe)
        if self.k is not None and isinstance(policy, TopK):
            policy = replace(policy, k=self.k, pace=None)
        if self.eps is not None:
            if not isinstance(getattr(policy, "pace", None), TimeSchedule):
                raise ConfigError(
                    f"--eps does not belong to {_name_part(policy, POLICIES)}: it ends Dream's time schedule"
                )
            policy = replace(policy, pace=TimeSchedule(self.eps))  # type: ignore[type-var]
        given = {"tau": self.tau, "f": self.f, "k": self.k, "score": _make_part(self.score, SCORES)}
        return _replace_fields(policy, {name: (name, value) for name, value in given.items()}, POLICIES)

    def _choose_policy(self, base: Strategy, recipe: Recipe) -> Policy:
        """Choose the policy before its fields are set; a bare name may mean another rule where there are steps."""
        if self.policy is not None and not is_expression(self.policy):
            kind = POLICIES.find(self.policy)
            if kind is TopK:
                return self._make_top_k(base, recipe)
            if kind is Threshold and recipe.budgeted and self.steps is not None and isinstance(base.scheduler, Whole):
                return BudgetedThreshold()
        policy: Policy = _make_part(self.policy, POLICIES, base.policy)
        return policy

    def _make_top_k(self, base: Strategy, recipe: Recipe) -> TopK:
        """Make the policy `top-k`: a fixed k, or the recipe's pace if there are steps."""
        if self.k is not None:
            return TopK(k=self.k)
        if self.steps is None and base.scheduler.steps is None:
            raise ConfigError("policy top-k: give either --k, tokens per step, or --steps, in total")
        score = base.policy.score if isinstance(base.policy, TopK) else Confidence()
        return TopK(pace=recipe.pace, score=score)

    def _make_scheduler(self, base: Strategy, policy: Policy, model: Any, max_new_tokens: int) -> Scheduler:
        options = (self.policy, self.k, self.scheduler, self.steps, self.block_size, self.sub_block_size)
        if self._is_written_out and all(option is None for option in options):
            return base.scheduler
        scheduler: Any = _make_part(self.scheduler, SCHEDULERS, base.scheduler)
        steps = self._plan_steps(scheduler, base, policy, model, max_new_tokens)
        scheduler = self._size_scheduler(scheduler)
        planned: Scheduler = scheduler if steps is None else replace(scheduler, steps=steps)
        return planned

    def _plan_steps(
        self, scheduler: Any, base: Strategy, policy: Policy, model: Any, max_new_tokens: int
    ) -> int | None:
        """Return the steps that a scheduler is to plan; None where the policy follows no pace."""
        planned: int | None = scheduler.steps
        # Steps in an expression are meant as they stand, for one block. Those of a recipe suit its own block size, and
        # are cut down to the block that is used.
        exact = planned is not None and self.scheduler is not None and is_expression(self.scheduler)
        scheduler = self._size_scheduler(scheduler)
        if not policy.paced:
            if self.steps is not None:
                raise ConfigError(f"--steps does not belong to {_name_part(policy, POLICIES)}, which has no pace")
            return planned if exact else None
        own = {field.name for field in fields(scheduler)}
        if "steps" not in own:
            raise ConfigError(f"{policy} follows a pace, and {scheduler} plans no steps: choose another scheduler")
        if "size" not in own:
            return self.steps or planned or max_new_tokens
        size = _resolve_block_size(scheduler, model)
        if self.steps is not None:
            return _divide_steps(self.steps, max_new_tokens, size)
        if exact or planned is None:
            return planned or size
        # A recipe that plans one step for each column of its block does so for blocks of any size.
        return size if planned == base.scheduler.size else min(planned, size)

    def _size_scheduler(self, scheduler: Any) -> Any:
        """Set the sizes that were given, and take away the steps, which depend on them."""
        if scheduler.steps is not None:
            scheduler = replace(scheduler, steps=None)
        if self.block_size is not None and getattr(scheduler, "sub_block", None) is not None and self.block_size > 0:
            scheduler = replace(scheduler, sub_block=min(scheduler.sub_block, self.block_size))
        given = {"size": ("block-size", self.block_size), "sub_block": ("sub-block-size", self.sub_block_size)}
        return _replace_fields(scheduler, given, SCHEDULERS)

    def _make_sampling(self, base: Strategy) -> Sampling:
        given: dict[str, Any] = {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}
        if self.processor:
            added = (_make_part(text, PROCESSORS) for text in self.processor)
            given["processors"] = (*base.sampling.processors, *added)
        return replace(base.sampling, **{name: value for name, value in given.items() if value is not None})

    def _make_stopping(self, base: Strategy) -> Stopping:
        return Stopping(
            base.stopping.ids if self.stop_ids is None else self.stop_ids, self.stop or base.stopping.strings
        )


def _resolve_block_size(scheduler: Any, model: Any) -> int:
    """Return the columns of a block once the scheduler meets the model."""
    if scheduler.size is not None:
        return int(scheduler.size)
    return model.geometry.size if isinstance(model.geometry, BlockCausal) else DEFAULT_SIZE


def _divide_steps(steps: int, max_new_tokens: int, size: int) -> int:
    """Share out `steps` among the blocks of the whole generation, and return those of one block."""
    count = math.ceil(max_new_tokens / size)
    if steps < count or steps % count:
        raise ConfigError(
            f"--steps {steps}: {max_new_tokens} new tokens are {count} blocks of {size}, "
            f"so the total must be a multiple of {count} (for example {count * max(1, round(steps / count))})"
        )
    return steps // count


def _make_part(text: str | None, registry: PartRegistry, base: Any = None) -> Any:
    """Make the part that an option asks for; `base` if there is no option, or only the name of the base's own class."""
    if text is None:
        return base
    call = read_call(text, registry, lambda found: found)
    return base if call.fields is None and type(base) is call.called else call.part()


def _name_part(part: Any, registry: PartRegistry) -> str:
    """Return what the command line calls a part."""
    return registry.name_of(type(part)) or type(part).__name__


def _replace_fields(part: P, given: Mapping[str, tuple[str, Any]], registry: PartRegistry) -> P:
    """Set the fields that were given.

    Args:
        part: The part.
        given: By field, the option that sets it and the value, or None.
        registry: The names of the part's kind, for the message.

    Raises:
        ConfigError: An option was given for a field that the part does not have.
    """
    own = {field.name for field in fields(part)}  # type: ignore[arg-type]
    values = {field: value for field, (_, value) in given.items() if value is not None}
    for field, (option, _) in given.items():
        if field in values and field not in own:
            fitting = [f"--{o}" for f, (o, _) in given.items() if f in own]
            takes = f"it takes {', '.join(fitting)}" if fitting else "it takes none of these"
            raise ConfigError(f"--{option} does not belong to {_name_part(part, registry)}: {takes}")
    return replace(part, **values)  # type: ignore[type-var]
