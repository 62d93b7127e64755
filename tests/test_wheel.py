"""A wheel holds everything that is installed: every sub-package, `dllm.cli` too, and all data of packages."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUILT_FROM = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "dllm", "cli")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built from a copy of the sources, so that no file of an earlier build gets into it."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in BUILT_FROM:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(target)]
    built = subprocess.run([*command, str(source)], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (found,) = target.glob("dllm-*.whl")
    return zipfile.ZipFile(found)


def sources(folder: str, package: str) -> set[str]:
    """Files of a folder, as the paths that they have when they are installed."""
    files = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {f"{package}/{path.relative_to(ROOT / folder).as_posix()}" for path in files}


def test_a_wheel_holds_every_file_of_the_packages(wheel: zipfile.ZipFile):
    installed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert installed == sources("dllm", "dllm") | sources("cli", "dllm/cli")


def test_every_folder_with_code_is_a_package(wheel: zipfile.ZipFile):
    code = {name.rpartition("/")[0] for name in wheel.namelist() if name.endswith(".py")}
    assert {"dllm/cli", "dllm/engine", "dllm/integrations/server", "dllm/models/families"} <= code
    assert {f"{folder}/__init__.py" for folder in code} <= set(wheel.namelist())


def test_the_metadata_say_what_the_project_says(wheel: zipfile.ZipFile):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (name,) = (name for name in wheel.namelist() if name.endswith("METADATA"))
    said = Parser().parsestr(wheel.read(name).decode())
    assert said["Name"] == "dllm" and said["License-Expression"] == "Apache-2.0"
    assert set(said.get_all("Provides-Extra", [])) == set(project["optional-dependencies"])
    points = wheel.read(name.replace("METADATA", "entry_points.txt")).decode()
    assert "dllm = dllm.cli.main:run" in points


def test_the_citation_names_this_version():
    namespace: dict[str, str] = {}
    exec((ROOT / "dllm" / "version.py").read_text(), namespace)
    assert f"version: {namespace['VERSION']}" in (ROOT / "CITATION.cff").read_text()
