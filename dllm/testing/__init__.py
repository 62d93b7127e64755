"""The laws that every part obeys, as tests for parts made here and elsewhere: see `dllm.testing.suite`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dllm.testing.suite import Laws

__all__ = ["Laws"]


def __getattr__(name: str) -> Any:
    if name != "Laws":
        raise AttributeError(f"module 'dllm.testing' has no attribute {name!r}")
    from dllm.testing.suite import Laws

    return Laws
