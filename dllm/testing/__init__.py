"""Tests of parts and models, for those made here and elsewhere.

`Laws` holds every law of parts, `ModelLaws` every law of models. `dllm.testing.device` pretends a CUDA device, and says
what would fail, wait or be copied on a real one.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dllm.testing.model_suite import ModelLaws
    from dllm.testing.suite import Laws

__all__ = ["Laws", "ModelLaws"]


def __getattr__(name: str) -> Any:
    # Imported when they are used: `dllm.testing.plugin` must not wait for torch in every run of pytest.
    if name == "Laws":
        from dllm.testing.suite import Laws

        return Laws
    if name == "ModelLaws":
        from dllm.testing.model_suite import ModelLaws

        return ModelLaws
    raise AttributeError(f"module 'dllm.testing' has no attribute {name!r}")
