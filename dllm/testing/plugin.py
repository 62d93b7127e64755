"""pytest plug-in: put parts under every law without writing a test.

    pytest -p dllm.testing.plugin --dllm-laws "relative(share=0.5)"

The option takes an expression, as `dllm decode` does, and may be repeated. It is not registered for every run of
pytest; a package that lists its parts in a test file of its own needs only `dllm.testing.Laws`.
"""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("dllm").addoption(
        "--dllm-laws", action="append", default=[], metavar="PART", help="put this part under every law; repeatable"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add tests of the parts that the option names to those that were collected."""
    if config.getoption("--dllm-laws"):
        module = pytest.Module.from_parent(session, path=Path(__file__).with_name("chosen.py"), nodeid="dllm-laws")
        items += session.genitems(module)
