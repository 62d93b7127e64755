"""Shared by all tests: one thread (tiny tensors are ten times faster so), fixed hypothesis examples, tiny models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests.packages import site

__all__ = ["site"]

torch.set_num_threads(1)
settings.register_profile("dllm", derandomize=True, deadline=None, database=None)
settings.load_profile("dllm")

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every-cell", action="store_true", help="the laws over the whole product (about an hour)")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference material, which lies beside the repository in the workshop and nowhere else."""
    if not (SHARED / "goldens").is_dir():
        pytest.skip(f"reference traces are not at {SHARED}: this check needs the workshop's shared folder")
    return SHARED
