"""Published decoders, each one expression over the parts, with its citation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from dllm.caches import DelayedCache, DualCache, NoCache, PrefixCache, SlidingCache, Speculative, VicinityCache
from dllm.errors import ConfigError
from dllm.policies import (
    KLASS,
    WINO,
    Capped,
    CertaintyPrior,
    Certified,
    Cosine,
    Curve,
    Dilated,
    EarlyCommit,
    EntropyBound,
    EntropyThreshold,
    EqualSplit,
    Factor,
    FullBlock,
    JointThreshold,
    LocalLeap,
    NegativeEntropy,
    Pace,
    PositionCalibrated,
    RemaskLoop,
    ReMDM,
    RunHierarchy,
    Saber,
    Score,
    Stairs,
    Threshold,
    TimeSchedule,
    TopK,
)
from dllm.policies.remdm import Remasking
from dllm.processors import CreditDecoding
from dllm.registry import Registry, RegistryEntry
from dllm.schedulers import AdaptiveBlocks, Blocks, Pipeline, SlidingBlock, VariableLength, Whole
from dllm.strategy import Sampling, Stopping, Strategy
from dllm.types import Cache, Scheduler


def llada(block: int = 32, steps: int | None = None) -> Strategy:
    """Nie et al. 2025, LLaDA (arXiv:2502.09992): low-confidence remasking in blocks, without a cache.

    End tokens do not stop it, as published.

    Args:
        block: Columns of a block.
        steps: Steps per block; None: one token a step.
    """
    return Strategy(TopK(pace=EqualSplit()), Blocks(block, steps=steps or block), NoCache(), stopping=Stopping(ids=()))


def dream(
    total_steps: int = 512,
    eps: float = 1e-3,
    score: Score = NegativeEntropy(),
    block: int = 32,
    cache: Cache = NoCache(),
) -> Strategy:
    """Ye et al. 2025, Dream (arXiv:2508.15487): a time schedule by negative entropy; in blocks when there is a cache.

    Without a cache all pending columns are worked on at once in `total_steps`, normally as many as new tokens. The
    cached version (Fast-dLLM, arXiv:2505.22618) goes block by block, one step a column, and decides a block's first
    column alone in the forward that enters it. End tokens stop neither version, as published.

    Args:
        total_steps: Steps over the whole answer, without a cache.
        eps: Time at which the schedule ends, just above 0.
        score: Order of preference.
        block: Columns of a block, with a cache.
        cache: What is kept from one step to the next.
    """
    scheduler: Scheduler = Blocks(block, steps=block, first_alone=True)
    if isinstance(cache, NoCache):
        scheduler = Whole(total_steps)
    policy = TopK(pace=TimeSchedule(eps), score=score)
    return Strategy(policy, scheduler, cache, Sampling(tempered=True), Stopping(ids=()))


def fast_dllm(block: int = 32, tau: float = 0.9, f: float | None = None, cache: Cache = DualCache()) -> Strategy:
    """Wu et al. 2025, Fast-dLLM (arXiv:2505.22618): confidence threshold, or factor, over a prefix or dual cache.

    Args:
        block: Columns of a block.
        tau: The threshold.
        f: Use the factor rule with this factor instead of the threshold. `FactorAsPublished` is what the published code
            runs.
        cache: The cache.
    """
    return Strategy(Threshold(tau) if f is None else Factor(f), Blocks(block), cache)


def fast_dllm_v2(
    block: int | None = None, sub_block: int | None = 8, tau: float = 0.9, cache: Cache = PrefixCache()
) -> Strategy:
    """Wu et al. 2025, Fast-dLLM v2 (arXiv:2509.26328): sub-blocks of a block under a strict confidence threshold.

    A finished block is run once more to be stored, and that forward decides the next block's first token greedily.

    Args:
        block: Columns of a block; None: the model's own (32).
        sub_block: Columns of a sub-block.
        tau: The threshold.
        cache: `PrefixCache` is the paper's block-level cache; `DualCache` its sub-block cache, which refreshes a block
            for as long as the sub-block's first column is pending.
    """
    if isinstance(cache, DualCache):
        cache = replace(cache, while_first=True)
    scheduler = Blocks(block, sub_block=sub_block, commit=True)
    return Strategy(Threshold(tau, strict=True), scheduler, cache, Sampling(tempered=True))


def sdar(block: int | None = None, steps: int = 4, tau: float | None = 0.85, cache: Cache = PrefixCache()) -> Strategy:
    """Cheng et al. 2025, SDAR (arXiv:2510.06303): a quota over the full block, and all slots above a threshold if more.

    Args:
        block: Columns of a block; None: the model's own.
        steps: Steps per block.
        tau: The threshold; None: exactly the quota ("static"), and with `LeftToRight()` as score "sequential".
        cache: The cache.
    """
    return Strategy(
        TopK(pace=FullBlock(), tau=tau), Blocks(block, steps=steps, commit=True), cache, Sampling(tempered=True)
    )


def llada2(
    block: int | None = None, steps: int = 32, tau: float | None = 0.95, cache: Cache = PrefixCache()
) -> Strategy:
    """Bie et al. 2025, LLaDA2.0 (arXiv:2512.15745): as SDAR, with as many steps as a block has columns.

    Departures:
        Finished blocks are stored, and read instead of run again, which is exact; end tokens of the checkpoint end a
        row at once and not after their block.
    """
    return Strategy(TopK(pace=FullBlock(), tau=tau), Blocks(block, steps=steps), cache, Sampling(tempered=True))


def eb_sampler(block: int = 32, gamma: float = 0.1, cache: Cache = NoCache()) -> Strategy:
    """Ben-Hamu et al. 2025, EB-Sampler (arXiv:2505.24857): an entropy bound, without a cache."""
    return Strategy(EntropyBound(gamma), Blocks(block), cache)


def dparallel(block: int = 32, h: float = 0.5, cache: Cache = NoCache()) -> Strategy:
    """Chen et al. 2025, dParallel (arXiv:2509.26488), decoding only: an entropy threshold, for its own checkpoints."""
    return Strategy(EntropyThreshold(h), Blocks(block), cache)


def klass(block: int = 64, tau: float = 0.9, kl: float = 0.01, cache: Cache = NoCache()) -> Strategy:
    """Kim et al. 2025, KLASS (arXiv:2511.05664): sure and stable over two steps, without a cache.

    `tau` and `kl` are tuned for each task there; LLaDA on GSM8K: 0.6 and 0.015, on MATH: 0.6 and 0.01.
    """
    return Strategy(KLASS(tau, kl), Blocks(block), cache)


def local_leap(block: int = 32, tau: float = 0.9, relaxed: float = 0.75, cache: Cache = NoCache()) -> Strategy:
    """Kong et al. 2025, LocalLeap (arXiv:2510.07081): a lower threshold near what is sure, without a cache."""
    return Strategy(LocalLeap(tau, relaxed), Blocks(block), cache)


def credit_decoding(
    block: int = 64, tau: float = 0.9, credit: CreditDecoding = CreditDecoding(), cache: Cache = NoCache()
) -> Strategy:
    """Wang et al. 2025, CreditDecoding (arXiv:2510.06133): credit for earlier predictions before a threshold."""
    return Strategy(Threshold(tau), Blocks(block), cache, Sampling(processors=(credit,)))


def dinfer(
    block: int = 64, tau: float = 0.9, low: float = 0.4, cache: Cache = VicinityCache(before=16, after=16, warmup=4)
) -> Strategy:
    """Ma et al. 2025, dInfer (arXiv:2510.08666): its hierarchical decoder, the block's vicinity run in every step.

    Departures:
        A refresh decides once, not twice.
    """
    return Strategy(RunHierarchy(tau, low), Blocks(block), cache)


def dus(block: int = 32, base: int = 2, tau: float = 0.0, cache: Cache = NoCache()) -> Strategy:
    """Luxembourg et al. 2025, DUS (arXiv:2506.19037): rounds of columns far apart, without a cache.

    Args:
        block: Columns of a block.
        base: Factor between the spacings of two rounds; 2 or more.
        tau: Columns less sure than this are put off (its code: 0.3); as published none is.
        cache: The cache.
    """
    return Strategy(Dilated(base, tau), Blocks(block), cache)


def saber(n: int = 2, cache: Cache = NoCache()) -> Strategy:
    """Dong et al. 2025, Saber (arXiv:2510.18165): faster the surer it was, and less sure tokens taken back.

    Departures:
        An end token ends the row once the whole answer is written, where the published code never stops.
    """
    return Strategy(Saber(n), Whole(), cache)


def wino(block: int = 128, tau: float = 0.6, verify: float = 0.9, cache: Cache = NoCache()) -> Strategy:
    """Hong et al. 2025, WINO (arXiv:2507.18578): draft widely, verify by shadow slots, without a cache.

    Departures:
        An end token ends the row once its block is written, where the published code never stops.
    """
    return Strategy(WINO(tau, verify), Blocks(block), cache)


def llada21(
    block: int | None = None, tau: float = 0.7, edit: float = 0.5, post: int = 16, cache: Cache = PrefixCache()
) -> Strategy:
    """Bie et al. 2026, LLaDA2.1 (arXiv:2602.08676): write masks and replace tokens, each above a threshold ("quality").

    Departures:
        Finished blocks are stored, and read instead of run again, which is exact.
    """
    return Strategy(JointThreshold(tau, edit, post), Blocks(block), cache, Sampling(tempered=True))


def llada21_speed(block: int | None = None, cache: Cache = PrefixCache()) -> Strategy:
    """Bie et al. 2026, LLaDA2.1 (arXiv:2602.08676), its "speed" setting: write early, replace whatever looks wrong."""
    return llada21(block, tau=0.5, edit=0.0, cache=cache)


def remdm(total_steps: int = 128, remask: Remasking = Capped(), loop: RemaskLoop | None = None) -> Strategy:
    """Wang et al. 2025, ReMDM (arXiv:2503.00307): a time schedule that masks decided tokens again, top-p 0.9.

    Args:
        total_steps: Steps over the whole answer; more than it has tokens spend more forwards on a better text.
        remask: `Capped(0.008)`, `Rescaled(0.015)` or `ByConfidence()`.
        loop: The paper's "loop" is `RemaskLoop()` with `Capped(0.02)`.

    Departures:
        An end token ends the row, after the last step, where the published code writes a given length.
    """
    return Strategy(ReMDM(total_steps, remask, loop), Whole(), NoCache(), Sampling(1.0, top_p=0.9))


def pc_sampler(block: int = 128, decay: float = 0.25, frequencies: str | None = None) -> Strategy:
    """Huang et al. 2025, PC-Sampler (arXiv:2508.13021): one slot a step, by calibrated confidence and position.

    Args:
        block: Columns of a block.
        decay: Rate at which the score falls with each column.
        frequencies: File of its table of token counts; without one all tokens count as equally frequent.
    """
    return Strategy(TopK(k=1, score=PositionCalibrated(decay, frequencies=frequencies)), Blocks(block), NoCache())


def certainty_prior(block: int = 32, sigma: float = 10.0, cache: Cache = NoCache()) -> Strategy:
    """Jiang et al. 2025, d2Cache (arXiv:2509.23094), decoding only: certainty grows from what is decided."""
    return Strategy(CertaintyPrior(TopK(k=1), sigma), Blocks(block), cache)


def prophet(curve: Curve = Stairs()) -> Strategy:
    """Li et al. 2025, Prophet (arXiv:2508.19982): one slot a step until the logit gap is wide, then the rest."""
    return Strategy(EarlyCommit(TopK(k=1), curve), Whole(), NoCache())


def sched(curve: Curve = Cosine()) -> Strategy:
    """Mohamed et al. 2025, SchED (arXiv:2512.02892): as Prophet, with a gap that falls smoothly, by entropy."""
    return Strategy(EarlyCommit(TopK(k=1, score=NegativeEntropy()), curve), Whole(), NoCache())


def freedave(block: int | None = 32, k: int = 1, drafts: int = 4, cache: Cache = DualCache()) -> Strategy:
    """Wu and Zhang 2025, FreeDave (arXiv:2510.00294): static decoding, lossless from drafts that are run beside it.

    Args:
        block: Columns of a block.
        k: Tokens a step.
        drafts: Most lanes of a row in a forward, with that of its canvas.
        cache: The cache that `Speculative` wraps. `--cache` would replace the wrapper: write `freedave(cache=prefix)`.

    Departures:
        On Dream a block's first column is not decided alone.
    """
    return Strategy(TopK(k=k), Blocks(block), Speculative(cache, drafts, tokens=k))


def dkv_cache(block: int = 32, steps: int | None = None, refresh: int | None = 8) -> Strategy:
    """Ma et al. 2025, dKV-Cache (arXiv:2505.15781): LLaDA's decoder, decided columns reused one step late.

    End tokens do not stop it, as published.

    Args:
        block: Columns of a block.
        steps: Steps per block; None: one token a step.
        refresh: Forwards between two refreshes; 4 and 8 are published.
    """
    return replace(llada(block, steps), cache=DelayedCache(refresh))


def dsb(window: int = 32, tau: float = 0.9, longest: int | None = None, cache: Cache | None = None) -> Strategy:
    """Luo et al. 2026, DSB (arXiv:2602.05992): a sliding block over DSB-cache, by a confidence threshold.

    Args:
        window: Columns of the sliding block.
        tau: The threshold.
        longest: Most columns in view; None: the "greedy" variant; equal to `window`: the "constant" one.
        cache: The cache; None: DSB-cache.
    """
    return Strategy(Threshold(tau), SlidingBlock(window, longest), cache or SlidingCache(written=window))


def adablock(
    block: int = 32,
    tau: float = 0.9,
    delimiter: float = 0.3,
    delimiters: tuple[str | int, ...] = ("\n",),
    cache: Cache = DualCache(),
) -> Strategy:
    """Lu et al. 2025, AdaBlock-dLLM (arXiv:2509.26432): blocks that end at a predicted line break, over a dual cache.

    Args:
        block: Most columns of a block.
        tau: The threshold.
        delimiter: Least confidence of a delimiter; published 0.3 for LLaDA, 0.5 for Dream.
        delimiters: Texts or ids that end a block.
        cache: The cache.
    """
    return Strategy(Threshold(tau), AdaptiveBlocks(block, delimiter, delimiters), cache)


def d2f(
    block: int | None = None, tau: float = 0.9, add: float = 0.1, activate: float = 0.95, cache: Cache = PrefixCache()
) -> Strategy:
    """Wang et al. 2025, D2F (arXiv:2508.09192), decoding only: a pipeline of blocks, for its own checkpoints.

    Args:
        block: Columns of a block; None: the model's own.
        tau: The threshold.
        add: Share of the last active block at which the next one is added; 0.3 for code, with `tau` 0.95.
        activate: Share of a block at which the next one is fully active.
        cache: The cache.
    """
    return Strategy(Threshold(tau, strict=True), Pipeline(block, add, activate), cache, Sampling(tempered=True))


def daedal(
    block: int = 32,
    tau: float = 0.9,
    initial: int = 64,
    growth: int = 8,
    ends: tuple[int, ...] | None = None,
    cache: Cache = NoCache(),
) -> Strategy:
    """Li et al. 2025, DAEDAL (arXiv:2508.00819): rows that begin short and grow, without a cache.

    The most that a row may grow to is the request's `max_new_tokens`, there 2048.

    Args:
        block: Columns of a block.
        tau: The threshold.
        initial: Columns of an answer at first.
        growth: Columns added at a time.
        ends: End-of-text ids; None: those of the checkpoint.
        cache: The cache.
    """
    scheduler = VariableLength(block, initial, growth, ends=ends)
    return Strategy(Threshold(tau, strict=True), scheduler, cache)


def certified(block: int = 32, cache: Cache = NoCache()) -> Strategy:
    """Ours: as many commits as marginals can prove to be the joint arg-max (`theory.certified`), without a cache.

    A stale cache would void the proof. With a block-causal model `PrefixCache` is exact too.
    """
    return Strategy(Certified(), Blocks(block), cache)


@dataclass(frozen=True)
class Recipe:
    """A recipe of the command line.

    Attributes:
        name: Name on the command line.
        make: The expression.
        pace: Pace that `--policy top-k --steps N` follows.
        families: Model families whose published decoder this is; the first recipe of a family is its default.
        budgeted: `--policy threshold --steps N` is a `BudgetedThreshold` over the whole canvas; elsewhere a threshold
            has no steps.
    """

    name: str
    make: Callable[..., Strategy]
    pace: Pace
    families: tuple[str, ...]
    budgeted: bool = False

    @property
    def citation(self) -> str:
        """First line of the docstring: the source, and the decoder in a few words."""
        return (self.make.__doc__ or "").strip().split("\n")[0]


BUILT_IN = {
    r.name: r
    for r in (
        Recipe("fast_dllm", fast_dllm, EqualSplit(), ("llada", "dream")),
        Recipe("fast_dllm_v2", fast_dllm_v2, EqualSplit(), ("fast_dllm_v2",)),
        Recipe("llada", llada, EqualSplit(), ("llada", "llada_moe", "a2d", "a2d_bd3lm", "masked_lm")),
        Recipe("dream", dream, TimeSchedule(), ("dream", "open_dcoder"), budgeted=True),
        Recipe("sdar", sdar, FullBlock(), ("sdar",)),
        Recipe("llada2", llada2, FullBlock(), ("llada2",)),
        Recipe("eb_sampler", eb_sampler, EqualSplit(), ("llada", "dream")),
        Recipe("dparallel", dparallel, EqualSplit(), ("llada", "dream")),
        Recipe("klass", klass, EqualSplit(), ("llada", "dream")),
        Recipe("local_leap", local_leap, EqualSplit(), ("llada", "dream")),
        Recipe("credit_decoding", credit_decoding, EqualSplit(), ("llada", "llada_moe")),
        Recipe("dinfer", dinfer, EqualSplit(), ("llada", "llada_moe")),
        Recipe("dus", dus, EqualSplit(), ("llada", "dream")),
        Recipe("saber", saber, EqualSplit(), ("llada", "dream")),
        Recipe("wino", wino, EqualSplit(), ("llada",)),
        Recipe("llada21", llada21, FullBlock(), ("llada2",)),
        Recipe("llada21_speed", llada21_speed, FullBlock(), ("llada2",)),
        Recipe("remdm", remdm, TimeSchedule(), ("llada", "dream")),
        Recipe("pc_sampler", pc_sampler, EqualSplit(), ("llada", "dream")),
        Recipe("certainty_prior", certainty_prior, EqualSplit(), ("llada", "dream")),
        Recipe("prophet", prophet, EqualSplit(), ("llada", "dream")),
        Recipe("sched", sched, TimeSchedule(), ("dream",)),
        Recipe("freedave", freedave, EqualSplit(), ("llada", "dream")),
        Recipe("dkv_cache", dkv_cache, EqualSplit(), ("llada",)),
        Recipe("dsb", dsb, EqualSplit(), ("llada", "dream")),
        Recipe("adablock", adablock, EqualSplit(), ("llada", "dream")),
        Recipe("d2f", d2f, EqualSplit(), ()),
        Recipe("daedal", daedal, EqualSplit(), ("llada",)),
        Recipe("certified", certified, EqualSplit(), ("llada", "dream")),
    )
}


def _adopt_recipe(entry: RegistryEntry, found: Any) -> Recipe:
    """Make a recipe of what a package brings: a `Recipe`, or a function that returns a strategy."""
    recipe = found if isinstance(found, Recipe) else Recipe(entry.name, found, EqualSplit(), ())
    if not callable(recipe.make):
        raise ConfigError("a recipe is a `dllm.recipes.Recipe` or a function that returns a Strategy")

    @functools.wraps(recipe.make)
    def make(*args: Any, **kwargs: Any) -> Strategy:
        try:
            strategy = recipe.make(*args, **kwargs)
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(f"recipe {entry.name!r} of {entry.origin}: {type(error).__name__}: {error}") from error
        if not isinstance(strategy, Strategy):
            raise ConfigError(f"recipe {entry.name!r} of {entry.origin} makes {strategy!r}, which is no Strategy")
        return strategy

    return replace(recipe, name=entry.name, make=make)


RECIPES: Registry[Recipe] = Registry("recipe", "dllm.recipes", BUILT_IN, _adopt_recipe)
"""Every recipe by name; those of packages come last and change no default of ours."""


def default_recipe(family: str) -> Recipe:
    """Return the default recipe of a family; `fast_dllm` where no recipe names the family."""
    for recipe in BUILT_IN.values():
        if family in recipe.families:
            return recipe
    foreign = RECIPES.installed_members() if family else iter(())
    return next((r for r in foreign if family in r.families), BUILT_IN["fast_dllm"])


def default_strategy(model: Any) -> Strategy:
    """Return the published strategy of a model's family."""
    return default_recipe(getattr(model, "family", "")).make()
