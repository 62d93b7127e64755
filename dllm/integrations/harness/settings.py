"""Settings of a model in the harness: names and values converted and checked; nothing is ignored."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from dllm.compose.misplaced_fields import explain_misplaced_field
from dllm.compose.options import Options
from dllm.errors import ConfigError
from dllm.jobs import Job, check_seed
from dllm.likelihood import Bound, Estimator, Sequential, default_estimator
from dllm.registry import suggest_name

LOADING = ("dtype", "device", "device_map", "adapter", "mask_id", "revision", "family", "quantize", "compile", "pack")
ESTIMATORS = ("bound", "sequential")


@dataclass(frozen=True)
class HarnessSettings:
    """A checkpoint, and how to decode and score with it.

    Attributes:
        pretrained: Folder, Hub id or "embedded".
        options: Options of decoding, as of `dllm decode`.
        dtype: Dtype of the weights, as of `dllm.load`, like the fields up to `pack`.
        device: Device to load on.
        device_map: Distribution of the layers over devices.
        adapter: Adapter to load onto the checkpoint.
        mask_id: Id of the mask, where the checkpoint does not name it.
        revision: Revision on the Hub.
        family: Family, where it is not recognised.
        quantize: Way to quantise the weights.
        compile: Compile the forward.
        pack: Pack linear layers for a CPU; None: where that helps.
        guidance: Scale of classifier-free guidance; 0: none.
        batch_size: Rows run together; no result depends on it.
        max_new_tokens: Most tokens of an answer, in place of the task's number; None: the task's number, or 256.
        seed: The sample of document i draws from seed + i.
        likelihood: "sequential" or "bound" (`dllm.likelihood`); None: sequential where attention is block-causal, else
            bound.
        samples: Monte-Carlo samples of the bound.
        check_greedy: Also find out whether greedy decoding would write a continuation, which some tasks score.
        agreement: Decode every answer once more by sequential greedy decoding, and report how many are the same.
        truncate: Leave out the beginning of a prompt that does not fit; False makes that an error.
        output: Folder that keeps finished answers, so that an interrupted evaluation can continue.

    Raises:
        ConfigError: For a value out of its range, or options that cannot work.
    """

    pretrained: str = "embedded"
    options: Options = Options()
    dtype: str | None = None
    device: str | None = None
    device_map: str | None = None
    adapter: str | None = None
    mask_id: int | None = None
    revision: str | None = None
    family: str | None = None
    quantize: str | None = None
    compile: bool = False
    pack: bool | None = None
    guidance: float = 0.0
    batch_size: int = 8
    max_new_tokens: int | None = None
    seed: int = 0
    likelihood: str | None = None
    samples: int = 128
    check_greedy: bool = True
    agreement: bool = False
    truncate: bool = False
    output: str | None = None

    def __post_init__(self) -> None:
        check_seed(self.seed)
        self.job(self.options, self.max_new_tokens or 1)
        Bound(self.samples)
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens={self.max_new_tokens}: must be at least 1")
        if self.likelihood is not None and self.likelihood not in ESTIMATORS:
            raise ConfigError(f"likelihood={self.likelihood!r}: choose from {', '.join(ESTIMATORS)}")

    @classmethod
    def read(cls, arguments: Mapping[str, Any]) -> HarnessSettings:
        """Read settings from flat names, as `--model_args` gives them.

        Raises:
            ConfigError: For an unknown name, or a value that does not fit.
        """
        own = {field.name for field in fields(cls)} - {"options"}
        theirs = {field.name for field in fields(Options)}
        given: dict[str, Any] = dict(arguments)
        if "strategy" in given:
            if "recipe" in given:
                raise ConfigError("recipe and strategy: give one of them; each sets every part")
            given["recipe"] = given.pop("strategy")
        if wrong := next((name for name in given if name not in own | theirs), None):
            if (message := explain_misplaced_field(wrong, given[wrong], given)) is not None:
                raise ConfigError(message)
            names = sorted({*own, *theirs, "strategy"})
            raise ConfigError(
                f"unknown model argument {wrong!r}{suggest_name(wrong, names)}: choose from {', '.join(names)}"
            )
        hints = get_type_hints(cls) | get_type_hints(Options)
        values = {name: _convert_argument(name, value, hints[name]) for name, value in given.items()}
        options = Options(**{name: value for name, value in values.items() if name in theirs})
        return cls(options=options, **{name: value for name, value in values.items() if name in own})

    @property
    def loading(self) -> dict[str, Any]:
        """Arguments of `dllm.load`."""
        return {name: getattr(self, name) for name in LOADING} | {"stop_ids": self.options.stop_ids or None}

    @property
    def made_with(self) -> dict[str, Any]:
        """Everything besides their strategy that the answers in a file depend on."""
        names = ("adapter", "dtype", "mask_id", "revision", "family", "quantize", "guidance", "seed")
        return {"model": _resolve_checkpoint_name(self.pretrained)} | {name: getattr(self, name) for name in names}

    def job(self, options: Options, max_new_tokens: int) -> Job:
        """Return the job that decodes answers of a length."""
        return Job(options, max_new_tokens, self.seed, False, self.batch_size, self.guidance)

    def estimator(self, model: Any) -> Estimator:
        """Return the estimator of likelihoods for a model."""
        if self.likelihood is None:
            return default_estimator(model, self.samples, self.seed)
        return Sequential() if self.likelihood == "sequential" else Bound(self.samples, self.seed)


def _resolve_checkpoint_name(name: str) -> str:
    """Return a name of the checkpoint that does not depend on the working folder."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def _convert_argument(name: str, value: Any, kind: Any) -> Any:
    """Convert a value to the type of its name; raise ConfigError if it has another one."""
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    if value is None and type(None) in kinds:
        return None
    for wanted in kinds:
        if get_origin(wanted) is tuple:
            entries = value if isinstance(value, list | tuple) else (value,)
            return tuple(_convert_argument(name, entry, get_args(wanted)[0]) for entry in entries)
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if wanted is int and isinstance(value, str) and value.isdigit():
            return int(value)
        if wanted is str and isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        if wanted is not type(None) and isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)):
            return value
    expected = " or ".join(getattr(k, "__name__", str(k)) for k in kinds if k is not type(None))
    raise ConfigError(f"{name}={value!r}: must be {expected}")
