"""Replacements of functions of PyTorch, so that it works with a device that is not there."""

from __future__ import annotations

import ctypes
import functools
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _device

from dllm.testing.device.tensor import CPU, CUDA, PretendedDeviceError, PretendedTensor

if TYPE_CHECKING:
    from dllm.testing.device.pretended import PretendedDevice


def _split_words(text: str) -> list[str]:
    return text.split()


PROPERTIES = types.SimpleNamespace(
    name="Pretended H100", total_memory=80 << 30, major=9, minor=0, multi_processor_count=132, L2_cache_size=50 << 20
)
DRAWING = _split_words("rand randn randint randperm multinomial bernoulli normal rand_like randn_like")
DRAWING_IN_PLACE = _split_words("uniform_ normal_ random_ exponential_ bernoulli_ multinomial geometric_")


class _Generator(torch._C.Generator):
    """A generator of either device; that of CUDA draws from the CPU."""

    pretended: bool

    def __new__(cls, device: Any = "cpu") -> Any:
        made: Any = torch._C.Generator.__new__(cls, "cpu")  # type: ignore[call-arg]
        made.pretended = torch.device(device).type == "cuda"
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA if self.pretended else CPU


class _Patches:
    """Attributes that are replaced, and functions that restore them."""

    def __init__(self) -> None:
        self.undo: list[Callable[[], None]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        had, old = name in vars(owner), getattr(owner, name, None)
        setattr(owner, name, value)
        self.undo.append(lambda: setattr(owner, name, old) if had else delattr(owner, name))


def patch_torch(device: PretendedDevice) -> list[Callable[[], None]]:
    """Make torch work with the device.

    Returns:
        Functions that undo it, to be called from the last to the first.
    """
    patches = _Patches()
    _patch_runtime(patches, device)
    _patch_devices(patches)
    _patch_generators(patches)
    _patch_modules(patches)
    _patch_compile(patches, device)
    _patch_threads(patches, device)
    patches.undo += _give_device_guard()
    return patches.undo


def _make_moment_class(device: PretendedDevice) -> type:
    """Make a class in place of CUDA's events and streams: waiting for one waits for all."""

    class Moment:
        def __init__(self, *_: Any, **__: Any) -> None:
            self.device, self.cuda_stream = CUDA, 0

        def record(self, *_: Any) -> None: ...

        wait_stream = wait_event = wait = record_event = record

        def synchronize(self) -> None:
            device.wait("synchronize")

        def query(self) -> bool:
            return False

        def elapsed_time(self, *_: Any) -> float:
            return 0.0

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: Any) -> None: ...

    return Moment


def _patch_runtime(patches: _Patches, device: PretendedDevice) -> None:
    """Replace what asks the runtime, in `torch.cuda` and `torch.accelerator`."""
    moment = _make_moment_class(device)
    answers: dict[str, Any] = {
        "is_available": True,
        "is_initialized": True,
        "is_bf16_supported": True,
        "is_current_stream_capturing": False,
        "device_count": 1,
        "current_device": 0,
        "get_device_name": PROPERTIES.name,
        "get_device_properties": PROPERTIES,
        "get_device_capability": (PROPERTIES.major, PROPERTIES.minor),
        "mem_get_info": (PROPERTIES.total_memory, PROPERTIES.total_memory),
        "memory_stats": {},
        "get_rng_state": torch.zeros(16).byte(),
        "get_rng_state_all": [],
        **dict.fromkeys(("current_stream", "default_stream", "stream"), moment()),
        **dict.fromkeys(_split_words("memory_allocated max_memory_allocated memory_reserved max_memory_reserved"), 0),
        **dict.fromkeys(
            _split_words(
                "_lazy_init init set_device empty_cache ipc_collect reset_peak_memory_stats manual_seed "
                "manual_seed_all seed_all set_rng_state set_rng_state_all"
            )
        ),
    }
    for name, value in answers.items():
        patches.set(torch.cuda, name, _make_constant(value))
    patches.set(torch.cuda, "synchronize", lambda *_: device.wait("torch.cuda.synchronize"))
    patches.set(torch.cuda, "Event", moment)
    patches.set(torch.cuda, "Stream", moment)
    patches.set(torch.accelerator, "is_available", _make_constant(True))
    patches.set(torch.accelerator, "current_accelerator", _make_constant(torch.device("cuda")))
    patches.set(torch.accelerator, "synchronize", lambda *_: device.wait("torch.accelerator.synchronize"))


def _make_constant(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


def _patch_devices(patches: _Patches) -> None:
    """Number a device "cuda" that is named without its number, which C++ would ask of the device guard."""

    def is_cuda(x: Any) -> bool:
        return (
            x == "cuda" if isinstance(x, str) else isinstance(x, torch.device) and x.type == "cuda" and x.index is None
        )

    def numbered(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            fixed = [CUDA if is_cuda(x) else x for x in args]
            return original(*fixed, **{key: CUDA if is_cuda(x) else x for key, x in kwargs.items()})

        return call

    _device._device_constructors()  # remembers the true functions
    patches.set(torch.Tensor, "to", numbered(torch.Tensor.to))
    patches.set(torch, "tensor", numbered(torch.tensor))
    patches.set(torch, "as_tensor", numbered(torch.as_tensor))
    patches.set(_device.DeviceContext, "__init__", numbered(_device.DeviceContext.__init__))
    patches.set(torch.Tensor, "cuda", lambda x, *_, non_blocking=False, **__: x.to(CUDA, non_blocking=non_blocking))


def _patch_generators(patches: _Patches) -> None:
    """Give generators a device, and compare it here, since C++ hands on another Python object than it was given."""
    patches.set(torch, "Generator", _Generator)

    def drawing(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            if (generator := kwargs.get("generator")) is not None:
                x = next((x for x in args if isinstance(x, Tensor)), None)
                target = kwargs.get("device", CPU if x is None else x.device) or CPU
                if generator.device.type != (wanted := torch.device(target).type):
                    raise RuntimeError(
                        f"Expected a '{wanted}' device type for generator but found '{generator.device.type}'"
                    )
            return original(*args, **kwargs)

        return call

    for owner, names in ((torch, DRAWING), (torch.Tensor, DRAWING_IN_PLACE)):
        for name in names:
            patches.set(owner, name, drawing(getattr(owner, name)))


def _patch_modules(patches: _Patches) -> None:
    """Give modules that are moved new parameters, not new data in the old ones."""
    alike = torch._has_compatible_shallow_copy_type

    def compatible(one: Tensor, other: Tensor) -> bool:
        return not isinstance(one, PretendedTensor) and not isinstance(other, PretendedTensor) and alike(one, other)

    patches.set(torch, "_has_compatible_shallow_copy_type", compatible)


def _patch_compile(patches: _Patches, device: PretendedDevice) -> None:
    """Let `torch.compile` give functions back: compiled code would leave the dispatch mode."""

    def compile_(model: Any = None, **options: Any) -> Any:
        device.compiled.append(options)
        return model if model is not None else (lambda function: function)

    patches.set(torch, "compile", compile_)
    patches.set(torch.compiler, "cudagraph_mark_step_begin", _make_constant(None))


def _patch_threads(patches: _Patches, device: PretendedDevice) -> None:
    """Give every thread that begins the dispatch mode."""
    bootstrap = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]

    def begin(thread: threading.Thread) -> None:
        if not device.active:
            bootstrap(thread)
            return
        torch._C._set_only_lift_cpu_tensors(True)  # each thread has its own, see `_give_device_guard`
        with device.mode():
            bootstrap(thread)

    patches.set(threading.Thread, "_bootstrap_inner", begin)


def _give_device_guard() -> list[Callable[[], None]]:
    """Give C++ a guard for CUDA devices that does nothing: the one for "meta", which does nothing either.

    Without one, indexing, `contiguous` and more end in "PyTorch is not linked with support for cuda devices". It would
    say "meta" where it is asked for the current device, so it must never be asked (`_patch_devices`).
    """
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * 16).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    cuda, meta = 1, 14  # c10::DeviceType
    if not guards[meta]:
        raise PretendedDeviceError("this torch has no guard for meta devices where it is looked for")
    guards[cuda] = guards[meta]  # and there it stays: tensors that outlive the device are freed under it
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device="cuda") makes a CPU tensor and moves it
    return [lambda: torch._C._set_only_lift_cpu_tensors(before)]
