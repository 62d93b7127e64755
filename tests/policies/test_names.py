"""Every policy has a name, every published one a recipe, and both say exactly what runs."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest

import dllm
from dllm import KLASS, ConfigError, EntropyBound, Request, SequenceBudget, Strategy, policies
from dllm.compose.options import POLICIES, SCORES, Options
from dllm.compose.recipes import RECIPES, default_recipe
from dllm.testing import laws
from dllm.testing.cells import can_rest
from tests.tiny import STOP, tiny_model

REQUESTS = [Request((3, 7, 1, 22, 9), max_new_tokens=13, seed=1), Request((5, 2, 8), max_new_tokens=6, seed=2)]


def test_every_policy_and_score_has_a_name() -> None:
    parts = [x for x in vars(policies).values() if inspect.isclass(x) and not getattr(x, "_is_protocol", False)]
    rules = {x for x in parts if hasattr(x, "step") and x is not policies.PrefixRule}
    assert rules == set(POLICIES.values())
    scores = {x for x in parts if "__call__" in vars(x) and hasattr(x, "needs") and x not in rules}
    assert scores == set(SCORES.values())


@pytest.mark.parametrize("name", [n for n in POLICIES if n not in ("top-k", "budgeted-threshold")])
def test_a_named_policy_obeys_the_laws(name: str) -> None:
    m = tiny_model("bidirectional-shift")
    strategy = Options(policy=name, block_size=8).strategy(m, 13)
    stream, results = laws.run_batch(m, REQUESTS, strategy)
    laws.rows_finish_in_time(m, REQUESTS, strategy, stream)
    laws.every_step_progresses(stream, can_rest(strategy))
    laws.decided_stays(m, REQUESTS, strategy, stream)
    laws.windows_tile(m, REQUESTS, strategy, stream)
    laws.rows_are_independent(m, REQUESTS, strategy, results)
    assert eval(repr(strategy), vars(dllm)) == strategy


def test_options_reach_their_field() -> None:
    m = tiny_model("bidirectional")
    assert Options(policy="entropy-bound(gamma=0.3)").strategy(m, 8).policy == EntropyBound(0.3)
    assert Options(policy="sequence-budget(delta=0.7)").strategy(m, 8).policy == SequenceBudget(0.7)
    assert Options(policy="klass", tau=0.6).strategy(m, 8).policy == KLASS(0.6)
    with pytest.raises(ConfigError, match=r"--tau does not belong to certified: it takes --score"):
        Options(policy="certified", tau=0.3).strategy(m, 8)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda r: r.name)
def test_a_recipe_is_an_expression_with_a_citation(recipe) -> None:
    ids = {"adablock": {"delimiters": (3,)}, "daedal": {"ends": (30,)}}  # the tiny model has no tokenizer to ask
    strategy = recipe.make(**ids.get(recipe.name, {}))
    assert isinstance(strategy, Strategy) and eval(repr(strategy), vars(dllm)) == strategy
    assert "arXiv:" in recipe.citation or recipe.citation.startswith("Ours")
    if not getattr(strategy.scheduler, "commit", False):
        if hasattr(strategy.scheduler, "delimiters"):  # the tiny model has no tokenizer to look them up
            strategy = replace(strategy, scheduler=replace(strategy.scheduler, delimiters=(3,)))
        _, results = laws.run_batch(replace(tiny_model("bidirectional"), stop_ids=(STOP,)), REQUESTS, strategy)
        assert all(r.output_ids for r in results)


def test_more_recipes_change_no_default() -> None:
    assert [default_recipe(f).name for f in ("llada", "dream", "sdar")] == ["fast_dllm", "fast_dllm", "sdar"]
