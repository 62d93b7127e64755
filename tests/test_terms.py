"""The table of terms in CONTRIBUTING.md is kept: names that say what they do, and one meaning for each."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ("dllm", "cli")
REPOSITORY = (*LIBRARY, "experiments", "benchmarks", "tests")

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
WORDS = CONTRIBUTING.partition("\n## Words\n")[2].partition("\n## ")[0]

BARE_VERBS = set(
    re.findall(r"`(\w+)`", WORDS.partition("No module function is a bare verb")[2].partition(". Write")[0])
)
"""Verbs that say nothing without an object, as CONTRIBUTING.md lists them."""

ONE_WORD_SHARE = 0.25


class Function(NamedTuple):
    """A module function of the library."""

    path: Path
    node: ast.FunctionDef | ast.AsyncFunctionDef

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def place(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.node.lineno} {self.name}"

    @property
    def named_by_others(self) -> bool:
        """Whether a command, an entry point, a recipe or a protocol of Python or pytest decides the name."""
        recipe = self.path.name == "recipes.py"
        return recipe or self.name in COMMANDS or self.name.startswith(("__", "pytest_"))


def parse(folders: tuple[str, ...]) -> dict[Path, ast.Module]:
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return {path: ast.parse(path.read_text()) for path in paths if "__pycache__" not in path.parts}


def commands(tree: ast.Module) -> set[str]:
    """Functions that become commands: `app.command(…)(name)`, and those that a decorator makes one."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    made = [call for call in calls if isinstance(call.func, ast.Call) and isinstance(call.func.func, ast.Attribute)]
    found = {a.id for call in made if call.func.func.attr == "command" for a in call.args if isinstance(a, ast.Name)}  # type: ignore[attr-defined]
    return found | {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.decorator_list}


TREES = parse(REPOSITORY)
SCRIPTS = set(re.findall(r":(\w+)\"", (ROOT / "pyproject.toml").read_text()))
COMMANDS = commands(TREES[ROOT / "cli" / "main.py"]) | SCRIPTS
INSTALLED = {path: tree for path, tree in TREES.items() if path.relative_to(ROOT).parts[0] in LIBRARY}
FUNCTIONS = [
    Function(path, node)
    for path, tree in INSTALLED.items()
    for node in tree.body
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
]


def names_used(tree: ast.Module) -> Iterator[str]:
    """Names that a file imports, reaches through a module, or gives as text ("module:name", "module.name")."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 200:
            yield from re.findall(r"(?:^|[:.])(\w+)$", node.value)


def exported(tree: ast.Module) -> set[str]:
    """Names in the `__all__` of a file."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return set(ast.literal_eval(node.value))
    return set()


def used_elsewhere() -> dict[Path, set[str]]:
    """For each file of the library, the names that any other file uses, or that it exports."""
    used = {path: set(names_used(tree)) for path, tree in TREES.items()}
    count = Counter(name for names in used.values() for name in names)
    tasks = (ROOT / "dllm").rglob("*.yaml")
    named = {name for path in tasks for name in re.findall(r"!function dllm[\w.]*\.(\w+)", path.read_text())}
    return {
        path: {name for name in count if count[name] > (name in used[path])} | exported(TREES[path]) | named
        for path in INSTALLED
    }


def test_no_public_class_name_stands_for_two_classes():
    names: dict[str, list[str]] = {}
    for path, tree in INSTALLED.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                names.setdefault(node.name, []).append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert {name: places for name, places in names.items() if len(places) > 1} == {}


def test_no_module_function_is_a_bare_verb():
    bare = [f.place for f in FUNCTIONS if f.name.strip("_") in BARE_VERBS and not f.named_by_others]
    assert bare == [], "write the object too: read_journal, check_names"


def test_a_module_function_is_private_or_used_elsewhere():
    elsewhere = used_elsewhere()
    alone = [
        f.place
        for f in FUNCTIONS
        if not f.name.startswith("_") and not f.named_by_others and f.name not in elsewhere[f.path]
    ]
    assert alone == [], "used in its own file only: begin its name with an underscore"


def test_few_module_functions_have_one_word():
    counted = [f for f in FUNCTIONS if not f.named_by_others]
    single = [f.place for f in counted if "_" not in f.name.strip("_")]
    assert len(single) < ONE_WORD_SHARE * len(counted), single


def test_the_table_of_terms_is_read():
    assert {"run", "check", "read", "look", "line", "spread", "tell", "follow", "cut", "judge"} <= BARE_VERBS
    assert len(BARE_VERBS) > 60 and "decode" not in BARE_VERBS


def test_what_contributing_points_to_exists():
    paths = set(re.findall(r"`([\w./]+/[\w./]+)`", CONTRIBUTING))
    assert len(paths) > 20
    assert [path for path in sorted(paths) if path != "../shared" and not (ROOT / path).exists()] == []


def test_the_reading_order_has_ten_files():
    order = CONTRIBUTING.partition("Read these ten files")[2].partition("\n## ")[0]
    assert [int(number) for number in re.findall(r"^(\d+)\. `dllm/", order, re.MULTILINE)] == list(range(1, 11))
