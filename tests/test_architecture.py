"""The arrows between the rooms: who may import whom, read from the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "dllm"

ROOMS = ("policies", "schedulers", "caches", "models", "processors")
NOUNS = {"types", "errors", "theory", "version", "remembered"}
LOOP = NOUNS | {"requests", "sampling", "stopping", "strategy"}
PARTS = LOOP | set(ROOMS) | {"sampler", "prompts", "metrics", "results", "recipes", "options"}

ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "version": set(),
    "remembered": set(),
    "registry": {"errors"},
    "parts": {"errors", "registry"},
    "types": {"errors"},
    "theory": {"types", "errors"},
    **{room: NOUNS | {room} for room in ROOMS},
    "models": NOUNS | {"models", "registry"},
    "schedulers": NOUNS | {"schedulers", "lengths"},
    "sampling": NOUNS,
    "stopping": NOUNS | {"requests"},
    "requests": NOUNS,
    "strategy": LOOP,
    "judging": LOOP,
    "ledger": LOOP | {"judging"},
    "lengths": NOUNS,
    "feeds": NOUNS | {"requests"},
    "seats": LOOP | {"feeds", "ledger", "lengths"},
    "bench": LOOP | {"models", "sampler", "bench"},
    "sampler": LOOP | {"feeds", "judging", "ledger", "lengths", "seats"},
    "metrics": {"version"},
    "likelihood": LOOP,
    "prompts": LOOP,
    "results": LOOP | {"sampler", "prompts", "metrics", "recipes", "baseline"},
    "baseline": LOOP | {"results"},
    "streaming": LOOP | {"sampler", "prompts", "results", "recipes", "baseline", "streaming"},
    "tracing": LOOP | {"sampler", "prompts", "results", "recipes", "policies", "tracing"},
    "trace": {"tracing"},
    "history": LOOP | {"caches", "models"},
    "recipes": LOOP | set(ROOMS) | {"registry"},
    "expressions": LOOP | {"parts", "registry", "policies"},
    "options": PARTS | {"expressions", "parts", "registry"},
    "sweeps": {"errors", "registry", "options", "metrics", "jobs", "sweeps"},
    "training": NOUNS | {"models", "training"},
    "playground": {"errors", "registry", "types", "playground"},
}


def imported(path: Path) -> set[str]:
    """Rooms of `dllm` that a file imports, at any depth."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dllm":
            parts = (node.module or "").split(".")
            names |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("dllm.")}
    return names


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if p != PACKAGE / "__init__.py" and "cli" not in p.parts]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arrows(path: Path) -> None:
    if room(path) not in ALLOWED:
        assert room(path) in {"jobs", "testing", "integrations", "trace"}, f"{room(path)} is a room without arrows"
        return
    assert imported(path) <= ALLOWED[room(path)], f"{path.name} imports {imported(path) - ALLOWED[room(path)]}"


def test_the_loop_knows_no_part() -> None:
    assert not imported(PACKAGE / "sampler.py") & set(ROOMS)


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
