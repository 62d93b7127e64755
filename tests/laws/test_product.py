"""Every law of `dllm.testing` over policies x schedulers x caches x geometries, and reprs in the words of `dllm`."""

from __future__ import annotations

import pytest

import dllm
from dllm import CreditDecoding
from dllm.testing import Laws
from dllm.testing.cells import Cell
from tests.parts import CACHES, CELLS, EDITING, POLICIES, SCHEDULERS, THIRD


class TestProduct(Laws):
    """A third of the cells, which holds every strategy once and every pair of parts in each geometry; `--every-cell`
    takes them all."""

    def chosen(self, config: pytest.Config) -> list[Cell]:
        return CELLS if config.getoption("--every-cell") else THIRD


class TestCredit(Laws):
    """A processor that remembers, with a policy of each habit, all schedulers and caches; a quarter of them, but for
    `--every-cell`."""

    parts = (CreditDecoding(),)

    def chosen(self, config: pytest.Config) -> list[Cell]:
        found = super().chosen(config)
        return found if config.getoption("--every-cell") else found[::4]


@pytest.mark.parametrize("part", [*POLICIES, *EDITING, *SCHEDULERS, *CACHES], ids=str)
def test_a_repr_is_an_expression_over_public_names(part: object) -> None:
    assert eval(repr(part), vars(dllm)) == part
