"""For tests of parts made here and elsewhere.

`dllm.testing.suite` has the laws that every part obeys; `dllm.testing.device` pretends a CUDA device, and tells what
would fail, wait or be copied on a real one.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dllm.testing.suite import Laws

__all__ = ["Laws"]


def __getattr__(name: str) -> Any:
    if name != "Laws":
        raise AttributeError(f"module 'dllm.testing' has no attribute {name!r}")
    from dllm.testing.suite import Laws

    return Laws
