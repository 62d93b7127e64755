"""Families: facts, a config translation and a tensor-name map onto one stock class of `transformers`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dllm.errors import CheckpointError
from dllm.types import Geometry

Config = Mapping[str, Any]
"""A checkpoint's config.json as it is on disk."""


@dataclass(frozen=True)
class Family:
    """Checkpoints of one format, and the stock class that computes the same function.

    Attributes:
        name: Name in options and messages.
        title: Name that people use.
        model_types: Values of `model_type` in config.json that belong to it.
        architectures: Values of `architectures` in config.json that belong to it.
        stock: Class of `transformers` that runs it.
        settings: Class of `transformers` that holds its translated config.
        needs_left: 1 if the output at column i - 1 predicts column i (token shift), else 0.
        mask_token: Spelling of the mask in its tokenizer, where that is the family's own.
        mask_id: Mask id of the published checkpoints; used only where the checkpoint names none and it fits.
        stop_tokens: Tokens that end a turn beside the end id, where the tokenizer has them.
        stop_id: End id of the published checkpoints, used like `mask_id`.
        pad_id: Padding id of the published checkpoints, used like `mask_id`.
        stops_in: The file that names the end ids, "config" or "generation_config"; else the other is read.
        chat_template: Template that its chat models were trained on, for checkpoints that bring none.
        chat_token: A token that the template needs; without it in the vocabulary the template is not set.
        tokenizer: Stock tokenizer class to try where the checkpoint asks for code of its own.
        names: Modules or single tensors whose names differ, (on disk, in the stock class), `{i}` standing for the
            layer; () where all agree.
        splits: Linear layers on disk whose outputs are those of several, one after the other, (module on disk, modules
            of the stock class).
        unused: Modules that may be on disk and that decoding does not need.
        head: Modules from the last hidden state to the logits, in order, for a stock class without a cache (an
            encoder); () for a decoder.
        first_position: Position id of the first column.
        native: Whether its `model_types` are those of `transformers`, so that only `architectures` identifies its
            checkpoints.
        on_request: Values of `model_type` that it also runs where it is asked for by name, since config.json does not
            identify its checkpoints.
        mark: A token in added_tokens.json by which such a checkpoint is recognised all the same.
        examples: Published checkpoints.
        reference: Publication that it comes from.
    """

    name: str
    title: str
    model_types: tuple[str, ...]
    architectures: tuple[str, ...]
    stock: str
    settings: str
    needs_left: int
    mask_token: str | None = None
    mask_id: int | None = None
    stop_tokens: tuple[str, ...] = ()
    stop_id: int | None = None
    pad_id: int | None = None
    stops_in: str = "config"
    chat_template: str | None = None
    chat_token: str | None = None
    tokenizer: str | None = None
    names: tuple[tuple[str, str], ...] = ()
    splits: tuple[tuple[str, tuple[str, ...]], ...] = ()
    unused: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    first_position: int = 0
    native: bool = False
    on_request: tuple[str, ...] = ()
    mark: str | None = None
    examples: tuple[str, ...] = ()
    reference: str = ""

    def translate(self, config: Config) -> dict[str, Any]:
        """Make the keywords for the stock config class.

        Raises:
            CheckpointError: The stock class cannot compute this variant.
        """
        raise NotImplementedError

    def geometry(self, config: Config) -> Geometry:
        """Choose how columns attend."""
        raise NotImplementedError

    def settle(self, config: Config) -> Family:
        """Make the family of one checkpoint, where its facts depend on config.json (a family of several classes)."""
        return self

    def key_mapping(self) -> dict[str, str]:
        """Turn `names` into the regular expressions that `from_pretrained` and PEFT take."""
        return {_module_pattern(disk): stock.replace("{i}", r"\1") for disk, stock in self.names}

    def stock_name(self, tensor: str) -> str:
        """Translate the name of a tensor on disk to the stock class; one that is split keeps its own."""
        return _rename_tensor(tensor, self.names)

    def disk_name(self, tensor: str) -> str:
        """Translate the name of a tensor of the stock class to that on disk."""
        parts = ((part, disk) for disk, stock in self.splits for part in stock)
        return _rename_tensor(tensor, (*((stock, disk) for disk, stock in self.names), *parts))

    def needs(self, tensor: str) -> bool:
        """Tell whether decoding needs a tensor on disk."""
        return not any(re.search(_module_pattern(module), tensor) for module in self.unused)


def _module_pattern(name: str) -> str:
    """Make a regular expression for everything under a name, `{i}` standing for the layer."""
    return "^" + re.escape(name).replace(r"\{i\}", r"(\d+)") + r"(?=\.|$)"


def _rename_tensor(tensor: str, names: Iterable[tuple[str, str]]) -> str:
    """Rename a tensor by the first of the pairs (old, new) that it belongs to."""
    for old, new in names:
        renamed, found = re.subn(_module_pattern(old), new.replace("{i}", r"\1"), tensor)
        if found:
            return renamed
    return tensor


def read_positive_int(config: Config, key: str, default: int | None = None) -> int:
    """Read a positive whole number of config.json; `default` where the key is absent or null.

    Raises:
        CheckpointError: It is something else, or it is missing and there is no default.
    """
    value = config.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        shown = "missing" if value is None else repr(value)
        raise CheckpointError(f"config.json: {key} is {shown}; it must be a positive whole number")
    return value


def require_values(title: str, config: Config, expected: Mapping[str, Any]) -> None:
    """Check that every key that is present has the expected value; null counts as absent.

    Raises:
        CheckpointError: One has another value, so that this is a variant that the stock class does not compute.
    """
    for key, value in expected.items():
        found = config.get(key)
        if found is not None and found != value:
            raise CheckpointError(
                f"config.json: {key} is {found!r}; this variant of {title} is not supported, only {key} = {value!r} is"
            )


def read_rope_parameters(config: Config) -> dict[str, Any]:
    """Read the rotary parameters as `transformers` 5 names them, from its own field or from the two older ones."""
    if config.get("rope_parameters"):
        return dict(config["rope_parameters"])
    scaling = dict(config.get("rope_scaling") or {})
    kind = scaling.pop("type", "default")
    return {"rope_type": kind, "rope_theta": float(config.get("rope_theta", 10000.0)), **scaling}
