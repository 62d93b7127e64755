"""Ids of mask, stop and padding: those of the caller, else those of the checkpoint, else those of the family."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from dllm.errors import CheckpointError, ConfigError
from dllm.models.families.base import Config, Family


class SpecialIds(NamedTuple):
    """Ids of a checkpoint.

    Attributes:
        mask_id: The mask token. None where nothing names one.
        stop_ids: Ids that end a text; may be empty.
        pad_id: Id for columns that do not exist.
    """

    mask_id: int | None
    stop_ids: tuple[int, ...]
    pad_id: int


class IdSource(NamedTuple):
    """The places where ids of a checkpoint are looked up.

    Attributes:
        config: config.json.
        generation: generation_config.json.
        tokenizer: Its tokenizer, or None.
        vocabulary: Size of its vocabulary.
        added: added_tokens.json.
    """

    config: Config
    generation: Config
    tokenizer: Any
    vocabulary: int
    added: Config = MappingProxyType({})

    def fits(self, values: Iterable[Any]) -> tuple[int, ...]:
        """Keep the values that are ids of the vocabulary, each once, in order."""
        ids = [v for v in values if isinstance(v, int) and not isinstance(v, bool) and 0 <= v < self.vocabulary]
        return tuple(dict.fromkeys(ids))

    def named(self, tokens: Iterable[str | None]) -> tuple[int, ...]:
        """Find the ids of those of the tokens that the tokenizer, or added_tokens.json, has."""
        words = dict(self.added) | (self.tokenizer.get_vocab() if self.tokenizer is not None else {})
        return self.fits(words[token] for token in tokens if token in words)

    def listed(self, file: Config, key: str) -> tuple[int, ...]:
        """Read the ids under `key`, which holds one id, a list or nothing."""
        value = file.get(key)
        return self.fits(value if isinstance(value, list) else [value])


def resolve_special_ids(
    family: Family, source: IdSource, mask_id: int | None, stop_ids: Sequence[int] | None
) -> SpecialIds:
    """Resolve every id.

    Args:
        family: The checkpoint's family.
        source: The places to look up ids.
        mask_id: Mask token in place of the checkpoint's, or None.
        stop_ids: Ids that end a text in place of the checkpoint's, or None.

    Raises:
        ConfigError: An explicit id is not in the vocabulary.
    """
    for option, given in (("mask_id / --mask-id", [mask_id]), ("stop_ids / --stop-id", stop_ids or ())):
        for value in given:
            if value is not None and not source.fits([value]):
                raise ConfigError(f"{option} {value}: ids of this checkpoint lie in 0..{source.vocabulary - 1}")
    stops = tuple(dict.fromkeys(stop_ids)) if stop_ids is not None else _resolve_stop_ids(family, source)
    return SpecialIds(
        _resolve_mask_id(family, source) if mask_id is None else mask_id, stops, _resolve_pad_id(family, source, stops)
    )


def require_mask_id(family: Family, name: str, found: SpecialIds) -> int:
    """Return the mask id.

    Raises:
        CheckpointError: Neither the caller nor the checkpoint names one.
    """
    if found.mask_id is None:
        known = family.mask_id is not None
        last = f"and the family's {family.mask_id} lies outside its vocabulary" if known else "nor has the family"
        raise CheckpointError(
            f"{name} ({family.title}) names no mask token: pass mask_id / --mask-id "
            f"(neither its tokenizer, config.json nor generation_config.json has one, {last})"
        )
    return found.mask_id


def _resolve_mask_id(family: Family, source: IdSource) -> int | None:
    """Find the mask id: the family's spelling comes first, since a tokenizer's own mask token may be another."""
    candidates = (
        *source.named([family.mask_token]),
        *source.listed(source.config, "mask_token_id"),
        *source.listed(source.generation, "mask_token_id"),
        *source.named([getattr(source.tokenizer, "mask_token", None)]),
        *source.fits([family.mask_id]),
    )
    return candidates[0] if candidates else None


def _resolve_stop_ids(family: Family, source: IdSource) -> tuple[int, ...]:
    """Find the ids that end a text: those of the first place that names any, and the family's tokens."""
    files = (source.config, source.generation)
    first, second = files if family.stops_in == "config" else files[::-1]
    named = (
        source.listed(first, "eos_token_id")
        or source.listed(second, "eos_token_id")
        or source.named([getattr(source.tokenizer, "eos_token", None)])
        or source.fits([family.stop_id])
    )
    return source.fits([*named, *source.named(family.stop_tokens)])


def _resolve_pad_id(family: Family, source: IdSource, stops: tuple[int, ...]) -> int:
    """Find the padding's id; a stop id, or 0, serves as well, since padding is never looked at."""
    candidates = (
        *source.listed(source.config, "pad_token_id"),
        *source.listed(source.generation, "pad_token_id"),
        *source.named([getattr(source.tokenizer, "pad_token", None)]),
        *source.fits([family.pad_id]),
        *stops,
    )
    return candidates[0] if candidates else 0
