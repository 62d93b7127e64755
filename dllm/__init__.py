"""dllm: composable decoding strategies for masked and block diffusion language models.

The names below are imported together when the first of them is used, so that `dllm --help` need not wait for torch.
"""

# ruff: noqa: F403

from typing import TYPE_CHECKING, Any

from dllm.version import VERSION

if TYPE_CHECKING:  # what a type checker sees of `_PUBLIC`
    from dllm.api import decode as decode
    from dllm.api import steps as steps
    from dllm.api import stream as stream
    from dllm.api import stream_to as stream_to
    from dllm.caches import *
    from dllm.engine.results import Collector as Collector
    from dllm.engine.results import Result as Result
    from dllm.errors import CheckpointError as CheckpointError
    from dllm.errors import ConfigError as ConfigError
    from dllm.errors import DllmError as DllmError
    from dllm.errors import NumericsError as NumericsError
    from dllm.errors import RequestError as RequestError
    from dllm.models import Guided as Guided
    from dllm.models import load as load
    from dllm.policies import *
    from dllm.processors import *
    from dllm.prompts import Infill as Infill
    from dllm.requests import Request as Request
    from dllm.schedulers import *
    from dllm.strategy import Sampling as Sampling
    from dllm.strategy import Stopping as Stopping
    from dllm.strategy import Strategy as Strategy
    from dllm.streaming import *

__version__ = VERSION

_PUBLIC: dict[str, tuple[str, ...]] = {
    "api": ("decode", "steps", "stream", "stream_to"),
    "caches": (),
    "engine.results": ("Collector", "Result"),
    "errors": ("CheckpointError", "ConfigError", "DllmError", "NumericsError", "RequestError"),
    "models": ("Guided", "load"),
    "policies": (),
    "processors": (),
    "prompts": ("Infill",),
    "requests": ("Request",),
    "schedulers": (),
    "strategy": ("Sampling", "Stopping", "Strategy"),
    "streaming": (),
}
"""Public names by the module they live in; (): all that the module lists in its own `__all__`, so that a new part is
public here once it is public there."""


def _import_public_names() -> dict[str, Any]:
    from importlib import import_module

    found: dict[str, Any] = {}
    for home, names in _PUBLIC.items():
        module = import_module(f"dllm.{home}")
        found |= {name: getattr(module, name) for name in names or module.__all__}
    return found


def __getattr__(name: str) -> Any:
    from importlib.util import find_spec

    # `from dllm import theory` asks here first, maybe while the public names are being imported: a module is found by
    # the import system once this fails. Private names are asked for by tools, and are no reason to import torch.
    if name != "__all__" and (name.startswith("_") or find_spec(f"dllm.{name}") is not None):
        raise AttributeError(f"module 'dllm' has no attribute {name!r}")
    found = _import_public_names()
    globals().update(found, __all__=sorted(found))
    if name not in globals():
        raise AttributeError(f"module 'dllm' has no attribute {name!r}")
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
