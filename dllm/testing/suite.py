"""All laws as tests, for parts made here and elsewhere.

    from dllm.testing import Laws

    class TestRelative(Laws):
        parts = (Relative(), "relative(share=0.5)")

A part is an object, or an expression as the command line takes it, which also tests that the part is registered. Each
is tried with parts of every other kind over all geometries of attention, on tiny random models: see
`dllm.testing.cells`. Give a part fields with which it does something on a model that is seldom confident.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import is_dataclass, replace
from typing import Any, ClassVar

import torch

from dllm.caches import DualCache, NoCache, PrefixCache
from dllm.compose.expressions import read_part
from dllm.errors import ConfigError
from dllm.strategy import Sampling, Strategy
from dllm.testing import laws
from dllm.testing.cells import REQUESTS, Cell, can_rest, find_part_kind, iterate_parts, make_cells, resolve_part
from dllm.testing.tiny import tiny_model
from dllm.types import has_field

SAMPLINGS = (Sampling(1.0), Sampling(0.7, top_k=5, tempered=True), Sampling(1.3, top_p=0.8))
COMMITS, RESTS = 4, 4 * 4
"""Forwards of a row beyond one a column: commits of its blocks; steps in which a pace rests."""


class Laws:
    """Base of a class of tests that puts parts under every law.

    Attributes:
        parts: Parts, as objects or expressions, each tried in every cell.
        cells: Whole cells to try besides.
    """

    parts: ClassVar[Sequence[Any]] = ()
    cells: ClassVar[Sequence[Cell]] = ()

    _threads: ClassVar[int] = 1

    @classmethod
    def setup_class(cls) -> None:
        """Tiny tensors are many times faster on one thread."""
        cls._threads = torch.get_num_threads()
        torch.set_num_threads(1)

    @classmethod
    def teardown_class(cls) -> None:
        torch.set_num_threads(cls._threads)

    def chosen(self, config: Any) -> list[Cell]:
        """List the cells to test, under a configuration of pytest."""
        return [*self.cells, *(cell for part in self.parts for cell in make_cells(part))]

    def refreshed(self) -> list[Any]:
        """List caches that refresh at every step: those under test, or else ours."""
        own = [part for part in map(resolve_part, self.parts) if find_part_kind(part) == "cache"]
        ours = [] if own else [PrefixCache(), DualCache()]
        return [replace(cache, refresh=1) for cache in (*own, *ours) if has_field(cache, "refresh")]

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Parametrise each test by the subset of cells after which its argument is named."""
        subset = next((name for name in SUBSETS if name in metafunc.fixturenames), None)
        if subset is None:
            return
        found = self.chosen(metafunc.config)
        if not found:
            raise ConfigError(f"{type(self).__name__} tests nothing: give it parts = (…,)")
        metafunc.parametrize(subset, SUBSETS[subset](found), ids=_format_cell)

    def test_laws(self, cell: Cell) -> None:
        geometry, strategy = cell
        m, loose = tiny_model(geometry), can_rest(strategy)
        stream, results = laws.run_batch(m, REQUESTS, strategy)
        laws.rows_finish_in_time(m, REQUESTS, strategy, stream, allowance=RESTS if loose else COMMITS)
        laws.every_step_progresses(stream, loose)
        laws.decided_stays(m, REQUESTS, strategy, stream)
        laws.windows_tile(m, REQUESTS, strategy, stream)
        laws.rows_are_independent(m, REQUESTS, strategy, results)
        known = {type(part).__name__: type(part) for part in iterate_parts(strategy) if is_dataclass(part)}
        assert read_part(repr(strategy), Strategy, known) == strategy, "its repr is not its record"

    def test_what_is_fresh_is_exact(self, fresh_cell: Cell) -> None:
        geometry, strategy = fresh_cell
        stream, _ = laws.run_batch(tiny_model(geometry), REQUESTS, strategy)
        laws.fresh_is_exact(tiny_model(geometry), REQUESTS, strategy, stream)

    def test_a_cache_refreshed_at_every_step_is_no_cache(self, uncached_cell: Cell) -> None:
        geometry, strategy = uncached_cell
        _, want = laws.run_batch(tiny_model(geometry), REQUESTS, strategy)
        for cache in self.refreshed():
            _, got = laws.run_batch(tiny_model(geometry), REQUESTS, replace(strategy, cache=cache))
            assert [r.output_ids for r in got] == [r.output_ids for r in want]
            assert [r.when for r in got] == [r.when for r in want] or getattr(strategy.scheduler, "commit", False)

    def test_block_causal_prefix_cache_is_exact(self, exact_cell: Cell) -> None:
        geometry, strategy = exact_cell
        _, want = laws.run_batch(tiny_model(geometry), REQUESTS, strategy)
        _, got = laws.run_batch(tiny_model(geometry), REQUESTS, replace(strategy, cache=PrefixCache()))
        assert [r.output_ids for r in got] == [r.output_ids for r in want]

    def test_sampled_rows_depend_on_their_seed_alone(self, sampled_cell: Cell) -> None:
        geometry, strategy = sampled_cell
        _, results = laws.run_batch(tiny_model(geometry), REQUESTS, strategy)
        laws.rows_are_independent(tiny_model(geometry), REQUESTS, strategy, results)
        reseeded = (
            laws.run_batch(tiny_model(geometry), [replace(r, seed=seed) for r in REQUESTS], strategy)[1]
            for seed in range(100, 120)
        )
        drawn = [r.output_ids for r in results]
        assert any([r.output_ids for r in other] != drawn for other in reseeded), "twenty other seeds draw the same"


def _keep_distinct_policies(found: list[Cell]) -> list[Cell]:
    """Keep the cells of the first policy and of the first that rests: predictions do not depend on the policy.

    Cells with processors are dropped, since their state changes predictions; their results are compared instead.
    """
    found = [cell for cell in found if not cell[1].sampling.processors]
    policies = [strategy.policy for _, strategy in found]
    kept = [*policies[:1], *[p for p in policies if can_rest(p)][:1]]
    return [cell for cell in found if cell[1].policy in kept]


def _vary_sampling(found: list[Cell]) -> list[Cell]:
    """Take every 29th cell, with each way of sampling."""
    return [
        (geometry, replace(s, sampling=replace(how, processors=s.sampling.processors)))
        for geometry, s in found[::29]
        for how in SAMPLINGS
    ]


def _drop_caches(found: list[Cell]) -> list[Cell]:
    """Replace the caches of cells by none."""
    return list(dict.fromkeys((geometry, replace(s, cache=NoCache())) for geometry, s in found))


def _keep_exact_cells(found: list[Cell]) -> list[Cell]:
    """Keep block-causal cells without a cache."""
    return [cell for cell in found if cell[0].startswith("block-causal") and isinstance(cell[1].cache, NoCache)]


SUBSETS: dict[str, Callable[[list[Cell]], list[Cell]]] = {
    "cell": list,
    "fresh_cell": _keep_distinct_policies,
    "uncached_cell": _drop_caches,
    "exact_cell": _keep_exact_cells,
    "sampled_cell": _vary_sampling,
}


def _format_cell(cell: Cell) -> str:
    geometry, s = cell
    drawn = "" if s.sampling == Sampling() else f"-{s.sampling}"
    return f"{geometry}-{s.policy}-{s.scheduler}-{s.cache}{drawn}"
