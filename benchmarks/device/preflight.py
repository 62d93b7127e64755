"""The preflight: what a machine lacks is named, with the command that brings it, before anything slow begins.

Only the standard library is imported here, since everything else may be what is missing. Run it alone with
`python -m benchmarks.device.preflight`.
"""

from __future__ import annotations

import importlib
import re
import shutil
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON = (3, 11)
ALSO_NEEDED = {
    "accelerate>=1.1": "dllm.load puts a checkpoint on CUDA with it",
    "pytest>=8.3": "the options of the recordings are those of tests/goldens",
}
"""Requirements beyond the library's own, and what for."""

COMPILERS = ("cc", "gcc", "g++", "clang")


def requirements() -> dict[str, str]:
    """List what the library and these scripts need, as `name>=version`, and for what."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return dict.fromkeys(project["dependencies"], "dllm needs it") | ALSO_NEEDED


def missing_packages(needed: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The requirements that are not met here, and a sentence about each."""
    missing = {}
    for requirement, purpose in needed:
        name, least = re.fullmatch(r"([\w.-]+)>=([\d.]+)", requirement).groups()  # type: ignore[union-attr]
        try:
            found = version(name)
        except PackageNotFoundError:
            missing[requirement] = f"{name} is not installed ({purpose})"
            continue
        if _numbers(found) < _numbers(least):
            missing[requirement] = f"{name} {found} is installed, and {least} or later is needed ({purpose})"
    return missing


def problems(compiles: bool) -> list[str]:
    """Everything that would stop the scripts on this machine, a paragraph each; empty where nothing would.

    Args:
        compiles: Whether forwards are to be compiled, which takes a C compiler.
    """
    found = []
    if sys.version_info < PYTHON:
        found.append(f"Python {sys.version.split()[0]} runs this, and {PYTHON[0]}.{PYTHON[1]} or later is needed")
    missing = missing_packages(requirements().items())
    found += missing.values()
    if missing:
        found.append(_how_to_bring(missing))
    if compiles and not any(map(shutil.which, COMPILERS)):
        found.append(f"no C compiler ({', '.join(COMPILERS)}) is on the PATH: torch.compile needs one; or --no-compile")
    return found


def demand(compiles: bool = True) -> None:
    """Leave the process with exit code 2 and everything that is missing on stderr, if anything is."""
    if found := problems(compiles):
        sys.stderr.write("This machine cannot run the device benchmarks:\n")
        sys.stderr.writelines(f"- {problem}\n" for problem in found)
        raise SystemExit(2)


def demand_device(name: str) -> None:
    """Leave with a message where the library cannot be imported, or the device is not there."""
    try:
        import torch

        for module in ("dllm.bench", "dllm.testing.suite"):
            importlib.import_module(module)
    except ImportError as error:
        sys.stderr.write(f"The library cannot be imported on this machine: {error}\n")
        raise SystemExit(2) from None
    if name.split(":")[0] == "cuda" and not torch.cuda.is_available():
        sys.stderr.write(
            f"--device {name}: torch {torch.__version__} sees no CUDA device here; "
            "rehearse with --tiny --device cpu, or install a build of torch for CUDA\n"
        )
        raise SystemExit(2)


def _numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: (2, 11, 0) of 2.11.0+cu130."""
    return tuple(int(number) for number in re.match(r"[\d.]+", text)[0].strip(".").split("."))  # type: ignore[index]


def _how_to_bring(missing: Iterable[str]) -> str:
    """The commands that bring missing packages, with a registry and without one."""
    quoted = " ".join(f"'{requirement}'" for requirement in missing)
    tag = f"{sys.version_info[0]}.{sys.version_info[1]}"
    platforms = "--platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64"
    return (
        f"with a registry: python3 -m pip install {quoted}\n"
        "  without one, fetch wheels on another machine, carry the folder, and install from it:\n"
        f"  python3 -m pip download --no-deps --only-binary=:all: --python-version {tag} {platforms} -d .whl {quoted}\n"
        "  python3 -m pip install --no-index --no-deps --target /tmp/site .whl/*.whl && export PYTHONPATH=/tmp/site"
    )


if __name__ == "__main__":
    demand(compiles="--no-compile" not in sys.argv)
