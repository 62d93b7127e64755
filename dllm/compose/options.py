"""From named options, as a command line or a sweep file gives them, to a strategy; what does not belong is refused.

A recipe sets every part; an option overrides its part. Options that name a part (`policy`, `scheduler`, `cache`)
replace it; the others set a field of the part they belong to, and it is an error if no part has it. A part is given by
its name alone, which keeps the recipe's fields where the recipe has that part, or as an expression, which is taken as
it is: `klass(kl=0.01)`. See `dllm.expressions`.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, fields, replace
from typing import Any

from dllm.compose.expressions import KINDS, make_default_part, read_call, read_part
from dllm.compose.names import CACHES, POLICIES, SCHEDULERS, SCORES
from dllm.compose.recipes import RECIPES, Recipe, default_recipe
from dllm.engine.propose import Processor
from dllm.errors import ConfigError
from dllm.policies import BudgetedThreshold, Confidence, Score, Threshold, TimeSchedule, TopK
from dllm.registry import Registry
from dllm.schedulers import Whole
from dllm.schedulers.blocks import DEFAULT_SIZE
from dllm.strategy import Sampling, Stopping, Strategy
from dllm.types import BlockCausal, Cache, Policy, Scheduler

__all__ = ["CACHES", "POLICIES", "SCHEDULERS", "SCORES", "Options"]


@dataclass(frozen=True)
class Options:
    """What a user may set; None leaves it to the recipe. Parts are names or expressions.

    recipe            of `RECIPES`, also with arguments, `pc_sampler(decay=0.5)`; or a whole strategy as its repr and
                      result files say it, `Strategy(policy=…, …)`
    policy            of `POLICIES`; its fields: tau, f, k, score, strict, gamma, h, delta
    score             of `SCORES`
    eps               where the time schedule of a pace ends (Dream)
    scheduler         of `SCHEDULERS`; its fields: block_size, sub_block_size, steps
    cache             of `CACHES`; its field: refresh
    steps             in total, over the whole generation, as LLaDA counts them
    temperature, top_k, top_p
    processor         of `PROCESSORS`, applied to the logits in this order, after those of the recipe
    stop              stop strings
    stop_ids          end tokens instead of the checkpoint's; () for none
    """

    recipe: str | None = None
    policy: str | None = None
    tau: float | None = None
    f: float | None = None
    k: int | None = None
    score: str | None = None
    strict: bool | None = None
    gamma: float | None = None
    h: float | None = None
    delta: float | None = None
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
        """The strategy for rows of `max_new_tokens` (on which only the meaning of `steps` depends)."""
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"--steps {self.steps}: must be at least 1")
        recipe, base = self.base(getattr(model, "family", ""), max_new_tokens)
        cache = self.make_cache(base)
        policy = self.make_policy(base, recipe)
        scheduler = self.make_scheduler(base, policy, model, max_new_tokens)
        return Strategy(policy, scheduler, cache, self.make_sampling(base), self.make_stopping(base))

    def base(self, family: str, max_new_tokens: int) -> tuple[Recipe, Strategy]:
        """What the options replace parts of, and the recipe whose habits they follow."""
        given: dict[str, Any] = {}
        if self.recipe is None:
            recipe = default_recipe(family)
        elif self.spelled:
            return default_recipe(family), read_part(self.recipe, Strategy)
        elif _is_expression(self.recipe):
            recipe, given = read_call(self.recipe, RECIPES, lambda found: found.make)
        else:
            recipe = RECIPES.find(self.recipe)
        return recipe, recipe.make(**self.due(recipe, max_new_tokens) | given)

    def due(self, recipe: Recipe, max_new_tokens: int) -> dict[str, Any]:
        """The arguments of a recipe that say options on which its other parts depend."""
        takes = inspect.signature(recipe.make).parameters
        given: dict[str, Any] = {}
        if self.cache is not None and "cache" in takes:
            given["cache"] = _choose_part(self.cache, Cache)
        if "total_steps" in takes:
            given["total_steps"] = self.steps or max_new_tokens
        return given

    def make_cache(self, base: Strategy) -> Cache:
        return _replace_fields(
            _choose_part(self.cache, Cache, base.cache), {"refresh": ("refresh", self.refresh)}, CACHES
        )

    def make_policy(self, base: Strategy, recipe: Recipe) -> Policy:
        policy = self.name_policy(base, recipe)
        if self.k is not None and isinstance(policy, TopK):
            policy = replace(policy, k=self.k, pace=None)
        if self.eps is not None:
            if not isinstance(getattr(policy, "pace", None), TimeSchedule):
                raise ConfigError(
                    f"--eps does not belong to {_name_part(policy, POLICIES)}: it ends Dream's time schedule"
                )
            policy = replace(policy, pace=TimeSchedule(self.eps))  # type: ignore[type-var]
        given = {"tau": self.tau, "f": self.f, "k": self.k, "score": _choose_part(self.score, Score)}
        given |= {"strict": self.strict, "gamma": self.gamma, "h": self.h, "delta": self.delta}
        return _replace_fields(policy, {name: (name, value) for name, value in given.items()}, POLICIES)

    def name_policy(self, base: Strategy, recipe: Recipe) -> Policy:
        """The policy before its fields are set; a bare name may mean another rule where there are steps."""
        if self.policy is None or _is_expression(self.policy):
            return _choose_part(self.policy, Policy, base.policy)
        kind = POLICIES.find(self.policy)
        if kind is TopK:
            return self.make_top_k(base, recipe)
        if kind is Threshold and recipe.budgeted and self.steps is not None and isinstance(base.scheduler, Whole):
            return BudgetedThreshold()
        return _choose_part(self.policy, Policy, base.policy)

    def make_top_k(self, base: Strategy, recipe: Recipe) -> TopK:
        """The policy `top-k`: a fixed k, or the recipe's pace if there are steps."""
        if self.k is not None:
            return TopK(k=self.k)
        if self.steps is None and getattr(base.scheduler, "steps", None) is None:
            raise ConfigError("policy top-k: give either --k, tokens per step, or --steps, in total")
        score = base.policy.score if isinstance(base.policy, TopK) else Confidence()
        return TopK(pace=recipe.pace, score=score)

    def make_scheduler(self, base: Strategy, policy: Policy, model: Any, max_new_tokens: int) -> Scheduler:
        moved = (self.policy, self.k, self.scheduler, self.steps, self.block_size, self.sub_block_size)
        if self.spelled and all(option is None for option in moved):
            return base.scheduler
        scheduler: Any = _choose_part(self.scheduler, Scheduler, base.scheduler)
        planned = getattr(scheduler, "steps", None)
        exact = planned is not None and _is_expression(self.scheduler)
        scheduler = self.size_scheduler(scheduler)
        if not getattr(policy, "paced", False):
            if self.steps is not None:
                raise ConfigError(f"--steps does not belong to {_name_part(policy, POLICIES)}, which has no pace")
            return replace(scheduler, steps=planned) if exact else scheduler
        own = {field.name for field in fields(scheduler)}
        if "steps" not in own:
            raise ConfigError(f"{policy} follows a pace, and {scheduler} plans no steps: choose another scheduler")
        if "size" not in own:
            return replace(scheduler, steps=self.steps or planned or max_new_tokens)
        size = _resolve_block_size(scheduler, model)
        if self.steps is not None:
            return replace(scheduler, steps=_divide_steps(self.steps, max_new_tokens, size))
        kept = planned if planned is not None and planned != getattr(base.scheduler, "size", None) else size
        return replace(scheduler, steps=planned if exact else min(kept, size))

    def size_scheduler(self, scheduler: Any) -> Any:
        """The scheduler with the sizes that were given, and without steps, which depend on them."""
        if getattr(scheduler, "steps", None) is not None:
            scheduler = replace(scheduler, steps=None)
        if self.block_size is not None and getattr(scheduler, "sub_block", None) is not None and self.block_size > 0:
            scheduler = replace(scheduler, sub_block=min(scheduler.sub_block, self.block_size))
        given = {"size": ("block-size", self.block_size), "sub_block": ("sub-block-size", self.sub_block_size)}
        return _replace_fields(scheduler, given, SCHEDULERS)

    def make_sampling(self, base: Strategy) -> Sampling:
        given: dict[str, Any] = {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}
        if self.processor:
            given["processors"] = (
                *base.sampling.processors,
                *(_choose_part(text, Processor) for text in self.processor),
            )
        return replace(base.sampling, **{name: value for name, value in given.items() if value is not None})

    def make_stopping(self, base: Strategy) -> Stopping:
        return Stopping(
            base.stopping.ids if self.stop_ids is None else self.stop_ids, self.stop or base.stopping.strings
        )

    @property
    def spelled(self) -> bool:
        """Whether a whole strategy is written out in place of a recipe."""
        return self.recipe is not None and self.recipe.lstrip().startswith("Strategy(")


def _resolve_block_size(scheduler: Any, model: Any) -> int:
    """Columns of a block once the scheduler meets the model."""
    if scheduler.size is not None:
        return int(scheduler.size)
    return model.geometry.size if isinstance(model.geometry, BlockCausal) else DEFAULT_SIZE


def _divide_steps(steps: int, max_new_tokens: int, size: int) -> int:
    """Steps of one block, if `steps` are shared out among the blocks of the whole generation."""
    count = math.ceil(max_new_tokens / size)
    if steps < count or steps % count:
        raise ConfigError(
            f"--steps {steps}: {max_new_tokens} new tokens are {count} blocks of {size}, "
            f"so the total must be a multiple of {count} (for example {count * max(1, round(steps / count))})"
        )
    return steps // count


def _is_expression(text: str | None) -> bool:
    """Whether an option is an expression rather than a name."""
    return text is not None and "(" in text


def _choose_part(text: str | None, kind: Any, base: Any = None) -> Any:
    """The part that an option asks for; `base` if none was given, or if only the name of its class was."""
    if text is None:
        return base
    if _is_expression(text):
        return read_part(text, kind)
    made = KINDS[kind].find(text)
    return base if type(base) is made else make_default_part(made, text)


def _name_part(part: Any, table: Registry[type]) -> str:
    """What the command line calls a part."""
    return table.name_of(type(part)) or type(part).__name__


def _replace_fields(part: Any, given: dict[str, tuple[str, Any]], table: Registry[type]) -> Any:
    """The part with the fields that were given (field: option, value); an option it has no field for is an error."""
    own = {field.name for field in fields(part)}
    values = {field: value for field, (_, value) in given.items() if value is not None}
    for field, (option, _) in given.items():
        if field in values and field not in own:
            fitting = [f"--{o}" for f, (o, _) in given.items() if f in own]
            takes = f"it takes {', '.join(fitting)}" if fitting else "it takes none of these"
            raise ConfigError(f"--{option} does not belong to {_name_part(part, table)}: {takes}")
    return replace(part, **values)
