"""The arrows between the rooms, read from the source, against the one table in docs/architecture.toml."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "dllm"
FLOORS = tomllib.loads((ROOT / "docs" / "architecture.toml").read_text())["floor"]
HEIGHT = {room: height for height, floor in enumerate(FLOORS) for room in floor["rooms"]}
ALLOWED = {room: set(below) for floor in FLOORS for room, below in floor["rooms"].items()}
FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if p != PACKAGE / "__init__.py"]
PARTS = {"policies", "schedulers", "caches", "models", "processors"}


def imported_rooms(path: Path) -> set[str]:
    """Rooms of `dllm` that a file imports, at any depth; those for type checkers alone do not count."""
    tree = ast.parse(path.read_text())
    unseen = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    rooms = set()
    for node in ast.walk(tree):
        if node in unseen:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dllm":
            parts = (node.module or "").split(".")
            rooms |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("dllm.")}
    return rooms


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_imports_what_its_room_may(path: Path) -> None:
    room = room_of(path)
    assert room in ALLOWED, f"{room} is a room without arrows: name it in docs/architecture.toml"
    if ALLOWED[room] != {"*"}:
        extra = imported_rooms(path) - ALLOWED[room] - {room}
        assert not extra, f"{path.relative_to(ROOT)} imports {sorted(extra)}, which {room} may not"


def test_the_table_has_no_circle_and_no_arrow_that_points_up() -> None:
    for room, below in ALLOWED.items():
        for other in below - {"*"}:
            assert other in HEIGHT, f"{room} names {other}, which is no room"
            beside = HEIGHT[other] == HEIGHT[room] and room not in ALLOWED[other]
            assert HEIGHT[other] < HEIGHT[room] or beside, f"{room} may not import {other}, which lies above it"
    assert not any(PARTS & ALLOWED[room] for room in PARTS), "part rooms never meet"
    assert not PARTS & ALLOWED["engine"], "the engine knows no part"


def test_every_arrow_of_the_table_is_used() -> None:
    used: dict[str, set[str]] = {}
    for path in FILES:
        used.setdefault(room_of(path), set()).update(imported_rooms(path))
    assert set(used) == set(ALLOWED)
    idle = {room: sorted(below - used[room]) for room, below in ALLOWED.items() if below - used[room] - {"*"}}
    assert not idle


def test_an_installed_wheel_does_not_claim_the_name_cli() -> None:
    """Files in cli/ import each other relatively, so that editors follow them wherever the folder is mapped to."""
    for path in sorted((ROOT / "cli").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                assert not (node.module or "").startswith("dllm.cli"), f"{path.name}:{node.lineno}: import relatively"


def test_nothing_in_the_library_prints_or_trusts_code() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"print", "eval", "exec"}, f"{path.name}:{node.lineno}"
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant)
                assert node.value.value is False, path
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "pickle" not in {a.name for a in node.names}, path
