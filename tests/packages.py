"""Packages installed without an installer: modules and the metadata that entry points are read from."""

from __future__ import annotations

import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

from dllm.registry import forget_installed_entries

EXAMPLE = Path(__file__).resolve().parents[1] / "experiments" / "example_plugin"


class Site:
    """A folder on the search path. `install` puts a distribution there; its modules are forgotten after the test."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.modules = folder, set[str]()

    def install(self, name: str, points: dict[str, dict[str, str]], version: str = "0.1", **modules: str) -> None:
        """A distribution with entry points by group, and modules by name."""
        sections = [
            f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in pairs.items()) for group, pairs in points.items()
        ]
        self.metadata(name, version, "\n".join(sections))
        for module, source in modules.items():
            (self.folder / f"{module}.py").write_text(textwrap.dedent(source))
            self.modules.add(module)

    def metadata(self, name: str, version: str, entry_points: str) -> None:
        info = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(entry_points)
        forget_installed_entries()

    def install_example(self) -> None:
        """The example of `experiments/`, with the entry points that its pyproject.toml declares."""
        project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())
        sources = {name: (EXAMPLE / f"{name}.py").read_text() for name in project["tool"]["setuptools"]["py-modules"]}
        about = project["project"]
        self.install(about["name"], about["entry-points"], about["version"], **sources)


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> object:
    """An empty folder at the head of the search path."""
    found = Site(tmp_path_factory.mktemp("site"))
    monkeypatch.syspath_prepend(found.folder)
    yield found
    forget_installed_entries()
    for module in found.modules:
        sys.modules.pop(module, None)
