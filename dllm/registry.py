"""Names of parts: those of this library and those that installed packages bring, in one table for each kind.

A package brings a part by an entry point, which `importlib.metadata` reads without running any code of the package:

    [project.entry-points."dllm.policies"]
    relative = "dllm_relative:Relative"

The part is imported when its name is used, or when all parts are listed, and not before. A package that cannot be
imported is therefore an error of the command that names its part, and of no other command.
"""

from __future__ import annotations

import difflib
import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points
from typing import Any, Generic, NamedTuple, TypeVar

from dllm.errors import ConfigError

T = TypeVar("T")
HERE = "dllm"
"""Origin of the names that this library brings itself."""


class RegistryEntry(NamedTuple):
    """One name of a table.

    Attributes:
        name: The name, as a user types it.
        place: Where its object is, as "module:object".
        origin: Name and version of the distribution that brings it, or `HERE`.
    """

    name: str
    place: str
    origin: str = HERE

    @property
    def attribute(self) -> str:
        """Name of the object in its module."""
        return self.place.rpartition(":")[2].split("[")[0].strip()

    def load(self) -> Any:
        """Import the object.

        Raises:
            ConfigError: The object cannot be imported; the message names the distribution.
        """
        try:
            return EntryPoint(self.name, self.place, "").load()
        except (Exception, SystemExit) as error:
            if self.origin == HERE:
                raise
            reason = f"{type(error).__name__}: {error}".removesuffix(": ")
            raise ConfigError(f"it cannot be imported ({reason}); repair or uninstall {self.origin}") from error


def _accept_unchanged(entry: RegistryEntry, found: Any) -> Any:
    return found


class Registry(Mapping[str, T], Generic[T]):
    """Names of one kind, each loaded when it is used.

    As a mapping it holds this library's names in their order, then those of packages. A lookup raises `ConfigError` for
    a name that two distributions claim, and for one that cannot be imported.

    Attributes:
        kind: Word for a member in messages, such as "policy".
        group: Entry-point group of other packages, such as "dllm.policies".
        own: This library's members: each the object itself, or its place as "module:object".
        adopt: Turns what a package brings into a member; raises `ConfigError` where it is none.
    """

    # Two tables are equal only if they are the same: comparing them as mappings would import every part.
    __eq__, __hash__ = object.__eq__, object.__hash__

    def __init__(
        self,
        kind: str,
        group: str,
        own: Mapping[str, Any],
        adopt: Callable[[RegistryEntry, Any], Any] = _accept_unchanged,
    ) -> None:
        self.kind, self.group, self.adopt = kind, group, adopt
        self.own = dict(own)
        self._own_entries = tuple(
            RegistryEntry(name, member if isinstance(member, str) else f"{group}:{name}")
            for name, member in self.own.items()
        )
        self._loaded: dict[RegistryEntry, T] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(entry.name for entry in self.entries()))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, name: str) -> T:
        found = self._index().by_name.get(normalize_name(name))
        if not found:
            raise KeyError(name)
        return self.load(self.require_one(name, found))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and normalize_name(name) in self._index().by_name

    def entries(self) -> list[RegistryEntry]:
        """List all names, without importing anything."""
        return [*self._own_entries, *_read_installed_entries(self.group)]

    def load(self, entry: RegistryEntry) -> T:
        """Return the member of an entry, importing it at the first call."""
        if entry not in self._loaded:
            own = self.own.get(entry.name) if entry.origin == HERE else None
            try:
                found = entry.load() if own is None or isinstance(own, str) else own
                self._loaded[entry] = found if entry.origin == HERE else self.adopt(entry, found)
            except ConfigError as error:
                raise ConfigError(f"{self.kind} {entry.name!r} of {entry.origin} ({entry.place}): {error}") from error
        return self._loaded[entry]

    def installed_members(self) -> Iterator[T]:
        """Yield the members that packages bring, without those that cannot be loaded."""
        for entry in _read_installed_entries(self.group):
            with suppress(ConfigError):
                yield self[entry.name]

    def find(self, name: str) -> T:
        """Return the member of that name, in any spelling: `local-leap`, `local_leap`, or its class, `LocalLeap`.

        Raises:
            ConfigError: There is no such name; the message lists the names there are.
        """
        index = self._index()
        found = index.by_name.get(normalize_name(name)) or index.by_attribute.get(name)
        if not found:
            raise ConfigError(
                f"unknown {self.kind} {name!r}{suggest_name(name, self)}: choose from {', '.join(self) or 'none'}"
            )
        return self.load(self.require_one(name, found))

    def require_one(self, name: str, found: list[RegistryEntry]) -> RegistryEntry:
        """Return the one entry found.

        Raises:
            ConfigError: Several distributions claim the name; the message lists them.
        """
        if len(found) > 1:
            claims = " and of ".join(f"{entry.origin} ({entry.place})" for entry in found)
            others = ", ".join(dict.fromkeys(entry.origin for entry in found if entry.origin != HERE))
            raise ConfigError(f"{self.kind} {name!r} is a name of {claims}: uninstall {others}, or rename its own")
        return found[0]

    def knows(self, name: str) -> bool:
        """Return whether `find` has at least one entry for that name; nothing is imported."""
        index = self._index()
        return normalize_name(name) in index.by_name or name in index.by_attribute

    def name_of(self, member: Any) -> str | None:
        """Return the first name of a member that has a place; None for objects made elsewhere."""
        for entry in self._index().every_name_by_attribute.get(getattr(member, "__name__", ""), ()):
            # Parts of packages are compared only if they were used before, so that nothing foreign is imported here.
            ours = entry.origin == HERE and isinstance(self.own[entry.name], str)
            if (self.load(entry) if ours else self._loaded.get(entry)) is member:
                return entry.name
        return None

    def _index(self) -> _NameIndex:
        return _index_entries(self._own_entries, _read_installed_entries(self.group))


def normalize_name(name: str) -> str:
    """Spell a name with dashes, as tables do."""
    return name.replace("_", "-")


def suggest_name(name: str, names: Iterable[str]) -> str:
    """Return " (did you mean …?)" where one of the names is nearly what was written, else an empty text."""
    close = difflib.get_close_matches(normalize_name(name).lower(), list(names), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


class _NameIndex(NamedTuple):
    """The entries of a table by what users write.

    Attributes:
        by_name: By name with dashes; several where distributions claim the same name.
        by_attribute: By class, one entry for each place: two names of one class do not make the class ambiguous.
        every_name_by_attribute: By class, all of its names.
    """

    by_name: Mapping[str, list[RegistryEntry]]
    by_attribute: Mapping[str, list[RegistryEntry]]
    every_name_by_attribute: Mapping[str, list[RegistryEntry]]


@functools.cache
def _index_entries(own: tuple[RegistryEntry, ...], installed: tuple[RegistryEntry, ...]) -> _NameIndex:
    by_name, by_attribute = defaultdict(list), defaultdict(list)
    for entry in (*own, *installed):
        by_name[normalize_name(entry.name)].append(entry)
        by_attribute[entry.attribute].append(entry)
    places = {name: list({entry.place: entry for entry in found}.values()) for name, found in by_attribute.items()}
    return _NameIndex(dict(by_name), places, dict(by_attribute))


@functools.cache
def _read_installed_entries(group: str) -> tuple[RegistryEntry, ...]:
    """Read what installed distributions bring to a group, sorted by name; once for the life of the process."""
    found: dict[tuple[str, str], RegistryEntry] = {}
    for point in _select_entry_points(group):
        with suppress(Exception):  # a distribution without a readable name or version cannot be named in a message
            assert point.dist is not None
            entry = RegistryEntry(point.name, point.value, f"{point.dist.name} {point.dist.version}")
            found.setdefault((point.dist.name, point.name), entry)
    return tuple(sorted(found.values()))


def _select_entry_points(group: str) -> Iterable[EntryPoint]:
    try:
        return entry_points(group=group)
    except Exception:  # one file that cannot be parsed makes the call fail for all distributions: read them one by one
        return [point for distribution in distributions() for point in _select_of_distribution(distribution, group)]


def _select_of_distribution(distribution: Distribution, group: str) -> Iterable[EntryPoint]:
    try:
        return distribution.entry_points.select(group=group)
    except Exception:
        return ()


def forget_installed_entries() -> None:
    """Read the entry points anew at their next use, for packages that were installed while this process runs."""
    _read_installed_entries.cache_clear()
