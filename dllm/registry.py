"""Names of parts: those of this library and those that installed packages bring, in one table a kind.

A package brings a part by an entry point, which importlib.metadata reads without running any of its code:

    [project.entry-points."dllm.policies"]
    relative = "dllm_relative:Relative"

It is imported when its name is used, or when all parts are listed, and not before. A package that cannot be imported
is therefore an error of the command that names its part, and of no other.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib.metadata import Distribution, EntryPoint, distributions
from typing import Any, Generic, NamedTuple, TypeVar

from dllm.errors import ConfigError

T = TypeVar("T")
HERE = "dllm"


class RegistryEntry(NamedTuple):
    """One name: where its object is (`module:object`), and the distribution with its version that brings it."""

    name: str
    place: str
    origin: str = HERE

    @property
    def attribute(self) -> str:
        """Name of the object in its module."""
        return self.place.rpartition(":")[2].split("[")[0].strip()

    def load(self) -> Any:
        """The object. Raises ConfigError, naming the distribution, where it cannot be imported."""
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
    """Names of one kind, each loaded when it is asked for.

    kind   what messages call a member: "policy"
    group  entry points of other packages: "dllm.policies"
    own    this library's members: the object itself, or its place as "module:object"
    adopt  turns what a package brings into a member; raises ConfigError where it is none

    As a mapping it holds this library's names in their order, then those of packages. Asking for a name that two
    distributions claim, or for one that cannot be imported, raises ConfigError.
    """

    __eq__, __hash__ = object.__eq__, object.__hash__  # tables are compared by what they are, without loading them

    def __init__(
        self,
        kind: str,
        group: str,
        own: Mapping[str, Any],
        adopt: Callable[[RegistryEntry, Any], Any] = _accept_unchanged,
    ) -> None:
        self.kind, self.group, self.adopt = kind, group, adopt
        self.own = dict(own)
        self.ours = [RegistryEntry(n, x if isinstance(x, str) else f"{group}:{n}") for n, x in self.own.items()]
        self.loaded: dict[RegistryEntry, T] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(entry.name for entry in self.entries()))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, name: str) -> T:
        found = [entry for entry in self.entries() if normalize_name(entry.name) == normalize_name(name)]
        if not found:
            raise KeyError(name)
        return self.load(self.only(name, found))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and any(
            normalize_name(entry.name) == normalize_name(name) for entry in self.entries()
        )

    def entries(self) -> list[RegistryEntry]:
        """All names; nothing is imported."""
        return [*self.ours, *_read_installed_entries(self.group, _list_search_path())]

    def load(self, entry: RegistryEntry) -> T:
        """The member of an entry."""
        if entry not in self.loaded:
            own = self.own.get(entry.name) if entry.origin == HERE else None
            try:
                found = entry.load() if own is None or isinstance(own, str) else own
                self.loaded[entry] = found if entry.origin == HERE else self.adopt(entry, found)
            except ConfigError as error:
                raise ConfigError(f"{self.kind} {entry.name!r} of {entry.origin} ({entry.place}): {error}") from error
        return self.loaded[entry]

    def brought(self) -> Iterator[T]:
        """The members that packages bring, without those that cannot be loaded."""
        for entry in _read_installed_entries(self.group, _list_search_path()):
            with suppress(ConfigError):
                yield self[entry.name]

    def find(self, name: str) -> T:
        """The member of that name, in any spelling: `local-leap`, `local_leap`, or its class, `LocalLeap`.

        Raises ConfigError, listing the names there are, where there is none.
        """
        if name in self:
            return self[name]
        same = {entry.place: entry for entry in self.entries() if entry.attribute == name}
        if same:
            return self.load(self.only(name, list(same.values())))
        raise ConfigError(
            f"unknown {self.kind} {name!r}{suggest_name(name, self)}: choose from {', '.join(self) or 'none'}"
        )

    def only(self, name: str, found: list[RegistryEntry]) -> RegistryEntry:
        """The one entry found. Raises ConfigError, naming all who claim it, where there are more."""
        if len(found) > 1:
            claims = " and of ".join(f"{entry.origin} ({entry.place})" for entry in found)
            others = ", ".join(dict.fromkeys(entry.origin for entry in found if entry.origin != HERE))
            raise ConfigError(f"{self.kind} {name!r} is a name of {claims}: uninstall {others}, or rename its own")
        return found[0]

    def knows(self, name: str) -> bool:
        """Whether `find` would find that name, once or more often."""
        return name in self or any(entry.attribute == name for entry in self.entries())

    def name_of(self, member: Any) -> str | None:
        """The first name of a member that has a place; None for objects made elsewhere."""
        for entry in self.entries():
            if entry.attribute == getattr(member, "__name__", None):
                ours = entry.origin == HERE and isinstance(self.own[entry.name], str)
                if (self.load(entry) if ours else self.loaded.get(entry)) is member:
                    return entry.name
        return None


def normalize_name(name: str) -> str:
    return name.replace("_", "-")


def suggest_name(name: str, names: Any) -> str:
    """A suggestion, where one of the names is nearly what was written."""
    close = difflib.get_close_matches(normalize_name(name).lower(), list(names), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _list_search_path() -> tuple[tuple[str, int], ...]:
    """Folders in which distributions may be, with the time of their last change."""
    return tuple((p, os.stat(p).st_mtime_ns) for p in dict.fromkeys(sys.path) if os.path.isdir(p))


@functools.cache
def _read_installed_entries(group: str, path: tuple[tuple[str, int], ...]) -> tuple[RegistryEntry, ...]:
    """What the distributions on a search path bring to a group, by name; read anew when a folder has changed."""
    found, seen = [], set()
    for distribution in distributions(path=[folder for folder, _ in path]):
        name = _read_name_and_version(distribution)
        if name is None or name[0].lower() in seen:
            continue
        seen.add(name[0].lower())
        try:
            points = [p for p in distribution.entry_points if p.group == group]
        except Exception:  # a file that its own installer would refuse: whose part it is cannot be said
            continue
        found += [RegistryEntry(p.name, p.value, " ".join(name)) for p in points]
    return tuple(sorted(found))


def _read_name_and_version(distribution: Distribution) -> tuple[str, str] | None:
    """Name and version of a distribution that brings parts; None for all others, also for broken metadata."""
    try:
        if not re.search(r"^\[dllm\.", distribution.read_text("entry_points.txt") or "", re.MULTILINE):
            return None
        return re.sub(r"[-_.]+", "-", distribution.metadata["Name"]), distribution.version
    except Exception:
        return None
