"""All laws of models as tests, for a model of one's own.

    from dllm.testing import ModelLaws

    class TestMine(ModelLaws):
        model = make_model()

Use a model with random weights that is neither flat nor certain, in float32 and small: some hundred forwards are run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch

from dllm.caches import DelayedCache, DualCache, NoCache, PrefixCache, SlidingCache, Speculative
from dllm.errors import ConfigError
from dllm.policies import WINO, Threshold, TopK
from dllm.schedulers import Blocks, Whole
from dllm.strategy import Strategy
from dllm.testing import laws, model_laws
from dllm.testing.model_trial import SIZES, ModelTrial, RowSize
from dllm.testing.suite import COMMITS
from dllm.types import Cache, Model, Scheduler


class ModelLaws:
    """Base of a class of tests that puts `model` under every law of models.

    A model that keeps no keys and values (`Model.store` raises ConfigError) is held to the laws that need none.

    Attributes:
        model: The model.
        sizes: Rows to try, three or more, the longest first.
        sees_prompt: Whether predictions depend on the prompt.
        tolerance: Largest difference of numbers that should be equal.
    """

    model: ClassVar[Model]
    sizes: ClassVar[Sequence[RowSize]] = SIZES
    sees_prompt: ClassVar[bool] = True
    tolerance: ClassVar[float] = 1e-4

    _threads: ClassVar[int] = 1

    @classmethod
    def setup_class(cls) -> None:
        """Tiny tensors are many times faster on one thread."""
        cls._threads = torch.get_num_threads()
        torch.set_num_threads(1)

    @classmethod
    def teardown_class(cls) -> None:
        torch.set_num_threads(cls._threads)

    @classmethod
    def trial(cls) -> ModelTrial:
        """Make what the laws are about.

        Raises:
            ConfigError: There is no model.
        """
        model: Any = getattr(cls, "model", None)
        if not isinstance(model, Model):
            raise ConfigError(f"{cls.__name__}.model={model!r}: give it a dllm.types.Model")
        return ModelTrial(model, cls.sizes, cls.sees_prompt, cls.tolerance)

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Parametrise what decodes by the strategies that the model can follow."""
        if "strategy" in metafunc.fixturenames:
            metafunc.parametrize("strategy", list_model_strategies(self.trial()), ids=repr)

    def test_forward_is_repeatable(self) -> None:
        model_laws.forward_is_repeatable(self.trial())

    def test_head_gives_logits(self) -> None:
        model_laws.head_gives_logits(self.trial())

    def test_rows_do_not_mix(self) -> None:
        model_laws.rows_do_not_mix(self.trial())

    def test_unseen_columns_change_nothing(self) -> None:
        model_laws.unseen_columns_change_nothing(self.trial())

    def test_visible_columns_matter(self) -> None:
        model_laws.visible_columns_matter(self.trial())

    def test_block_can_be_set(self) -> None:
        model_laws.block_can_be_set(self.trial())

    def test_shadow_slots_leave_no_trace(self) -> None:
        model_laws.shadow_slots_leave_no_trace(self.trial())

    def test_store_changes_nothing(self) -> None:
        model_laws.store_changes_nothing(_require_store(self.trial()))

    def test_finished_blocks_are_stored_in_pieces(self) -> None:
        model_laws.finished_blocks_are_stored_in_pieces(_require_store(self.trial()))

    def test_store_keeps_rows(self) -> None:
        model_laws.store_keeps_rows(_require_store(self.trial()))

    def test_subset_runs_alone(self) -> None:
        model_laws.subset_runs_alone(_require_store(self.trial()))

    def test_decoding(self, strategy: Strategy) -> None:
        model_decodes(self.trial(), strategy)


def _require_store(trial: ModelTrial) -> ModelTrial:
    """Skip a law about stores for a model that keeps none."""
    if not trial.keeps_store:
        pytest.skip(f"{type(trial.model).__name__} keeps no keys and values")
    return trial


def model_decodes(trial: ModelTrial, strategy: Strategy) -> None:
    """Decoding finishes, writes each column once and no mask id; rows are independent, and what is fresh is exact.

    A cache that is refreshed at every step decodes as none does, and with attention blocks every `PrefixCache` does.
    """
    model, requests = trial.model, trial.requests()
    stream, results = laws.run_batch(model, requests, strategy)
    laws.rows_finish_in_time(model, requests, strategy, stream, allowance=COMMITS)
    laws.every_step_progresses(stream)
    laws.decided_stays(model, requests, strategy, stream)
    laws.windows_tile(model, requests, strategy, stream)
    laws.rows_are_independent(model, requests, strategy, results)
    laws.fresh_is_exact(model, requests, strategy, stream)
    cache = strategy.cache
    if isinstance(cache, PrefixCache) and (cache.refresh == 1 or model.geometry.block is not None):
        _, plain = laws.run_batch(model, requests, replace(strategy, cache=NoCache()))
        same = [result.output_ids for result in plain] == [result.output_ids for result in results]
        assert same, f"{cache} decodes other tokens than NoCache()"


def list_model_strategies(trial: ModelTrial) -> list[Strategy]:
    """List strategies that ask a model everything: windows, sub-blocks, commits, holes, shadow slots and drafts."""
    block = trial.model.geometry.block
    size = block or 8
    blocks: Scheduler = Blocks(size)
    found = [
        Strategy(Threshold(0.6), blocks, NoCache()),
        Strategy(TopK(k=2), Whole(), NoCache()),
        Strategy(WINO(0.3, 0.3), blocks, NoCache()),
    ]
    if not trial.keeps_store:
        return found
    caches: list[Cache] = [
        PrefixCache(),
        PrefixCache(refresh=1),
        DualCache(refresh=3),
        SlidingCache(before=3, after=1, written=6),
        DelayedCache(refresh=4),
        Speculative(PrefixCache(), drafts=3),
    ]
    found += [Strategy(Threshold(0.6), blocks, cache) for cache in caches]
    found += [Strategy(TopK(k=2), Whole(), DualCache()), Strategy(WINO(0.3, 0.3), blocks, DualCache())]
    if size % 2 == 0:
        found.append(Strategy(TopK(k=2), Blocks(size, sub_block=size // 2), DualCache(while_first=True)))
    if block is not None:
        found.append(Strategy(Threshold(0.6), Blocks(size, commit=True), PrefixCache()))
    return found
