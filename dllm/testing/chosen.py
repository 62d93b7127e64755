"""Tests of the parts that `--dllm-laws` names."""

from __future__ import annotations

from typing import Any

from dllm.testing.cells import Cell, make_cells
from dllm.testing.suite import Laws


class TestParts(Laws):
    """Laws of the parts that the command line of pytest names."""

    def chosen(self, config: Any) -> list[Cell]:
        return [cell for part in config.getoption("--dllm-laws") for cell in make_cells(part)]
