"""Which ids mean mask, stop and padding: what the caller says, then what the checkpoint says, then the family."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from dllm.errors import CheckpointError, ConfigError
from dllm.models.families.base import Config, Family


class SpecialIds(NamedTuple):
    """Ids of a checkpoint. `mask_id` is None where nothing names one; `stop_ids` may be empty."""

    mask_id: int | None
    stop_ids: tuple[int, ...]
    pad_id: int


class IdSource(NamedTuple):
    """Where ids are looked up: json files of a checkpoint, its tokenizer (or None) and its vocabulary size."""

    config: Config
    generation: Config
    tokenizer: Any
    vocabulary: int
    added: Config = MappingProxyType({})

    def fits(self, values: Iterable[Any]) -> tuple[int, ...]:
        """The values that are ids of the vocabulary, each once, in order."""
        ids = [v for v in values if isinstance(v, int) and not isinstance(v, bool) and 0 <= v < self.vocabulary]
        return tuple(dict.fromkeys(ids))

    def spelt(self, tokens: Iterable[str | None]) -> tuple[int, ...]:
        """Ids of the tokens that the tokenizer, or added_tokens.json, has."""
        words = dict(self.added) | (self.tokenizer.get_vocab() if self.tokenizer is not None else {})
        return self.fits(words[token] for token in tokens if token in words)

    def listed(self, file: Config, key: str) -> tuple[int, ...]:
        """Ids under `key`, which holds one id, a list or nothing."""
        value = file.get(key)
        return self.fits(value if isinstance(value, list) else [value])


def resolve_special_ids(
    family: Family, source: IdSource, mask_id: int | None, stop_ids: Sequence[int] | None
) -> SpecialIds:
    """Resolve every id. Raises ConfigError where an explicit id is not in the vocabulary."""
    for option, given in (("mask_id / --mask-id", [mask_id]), ("stop_ids / --stop-id", stop_ids or ())):
        for value in given:
            if value is not None and not source.fits([value]):
                raise ConfigError(f"{option} {value}: ids of this checkpoint lie in 0..{source.vocabulary - 1}")
    stops = tuple(dict.fromkeys(stop_ids)) if stop_ids is not None else _resolve_stop_ids(family, source)
    return SpecialIds(
        _resolve_mask_id(family, source) if mask_id is None else mask_id, stops, _resolve_pad_id(family, source, stops)
    )


def require_mask_id(family: Family, name: str, found: SpecialIds) -> int:
    """The mask id. Raises CheckpointError where neither the caller nor the checkpoint names one."""
    if found.mask_id is None:
        known = family.mask_id is not None
        last = f"and the family's {family.mask_id} lies outside its vocabulary" if known else "nor has the family"
        raise CheckpointError(
            f"{name} ({family.title}) names no mask token: pass mask_id / --mask-id "
            f"(neither its tokenizer, config.json nor generation_config.json has one, {last})"
        )
    return found.mask_id


def _resolve_mask_id(family: Family, source: IdSource) -> int | None:
    candidates = (
        *source.spelt([family.mask_token]),
        *source.listed(source.config, "mask_token_id"),
        *source.listed(source.generation, "mask_token_id"),
        *source.spelt([getattr(source.tokenizer, "mask_token", None)]),
        *source.fits([family.mask_id]),
    )
    return candidates[0] if candidates else None


def _resolve_stop_ids(family: Family, source: IdSource) -> tuple[int, ...]:
    files = (source.config, source.generation)
    first, second = files if family.stops_in == "config" else files[::-1]
    named = (
        source.listed(first, "eos_token_id")
        or source.listed(second, "eos_token_id")
        or source.spelt([getattr(source.tokenizer, "eos_token", None)])
        or source.fits([family.stop_id])
    )
    return source.fits([*named, *source.spelt(family.stop_tokens)])


def _resolve_pad_id(family: Family, source: IdSource, stops: tuple[int, ...]) -> int:
    candidates = (
        *source.listed(source.config, "pad_token_id"),
        *source.listed(source.generation, "pad_token_id"),
        *source.spelt([getattr(source.tokenizer, "pad_token", None)]),
        *source.fits([family.pad_id]),
        *stops,
    )
    return candidates[0] if candidates else 0
