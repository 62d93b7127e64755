"""Help and listings: they come at once, name all there is, and what they say can be run."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import dllm as library
from dllm.cli.listing import format_part
from dllm.compose.options import CACHES, POLICIES, SCHEDULERS, SCORES, Options
from dllm.compose.recipes import RECIPES
from dllm.models import FAMILIES


def test_help_does_not_wait_for_torch():
    code = """
import sys
sys.argv = ["dllm", "decode", "--help"]
from dllm.cli.main import run
try:
    run()
finally:
    print("slow" if {"torch", "transformers"} & set(sys.modules) else "snappy")
"""
    assert "snappy" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout


def test_public_names_are_all_there():
    for name in library.__all__:
        assert getattr(library, name).__module__.startswith("dllm.")
    with pytest.raises(AttributeError, match="nonsense"):
        library.nonsense  # noqa: B018
    assert set(library.__all__) <= set(dir(library))


def test_type_checkers_see_the_public_names():
    tree = ast.parse(Path(library.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen: dict[str, set[str]] = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom) and node.module is not None
        seen.setdefault(node.module.removeprefix("dllm."), set()).update(alias.asname or "*" for alias in node.names)
    assert seen == {home: set(names or "*") for home, names in library._PUBLIC.items()}
    assert list(seen) == sorted(library._PUBLIC)


def test_a_module_is_no_reason_to_import_the_public_names():
    code = "import sys; from dllm import registry; from dllm import version; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_help_names_every_option_and_part(dllm):
    text = dllm("decode", "--help").stdout
    for field in fields(Options):
        option = "stop-id" if field.name == "stop_ids" else field.name.replace("_", "-")
        assert f"--{option}" in text
    for table in (POLICIES, SCHEDULERS, CACHES, SCORES):
        for name in table:
            assert name in text, name


def test_version(dllm):
    assert dllm("--version").stdout == f"dllm {library.__version__}\n"


def test_recipes(dllm):
    result = dllm("recipes")
    assert result.exit_code == 0
    for recipe in RECIPES.values():
        strategy = recipe.make()
        assert (
            recipe.name in result.stdout and recipe.citation in result.stdout and format_part(strategy) in result.stdout
        )
        assert eval(format_part(strategy), vars(library)) == strategy


def test_models(dllm):
    result = dllm("models")
    assert result.exit_code == 0
    for family in FAMILIES:
        for said in (family.name, family.title, family.stock, *family.examples):
            assert said in result.stdout
    assert "embedded" in result.stdout and "autoregressive" in result.stdout


def test_info(dllm, checkpoints):
    said = {name: dllm("info", checkpoints[name]).stdout for name in ("sdar", "llada", "qwen2", "talking")}
    assert "block-causal, blocks of 4" in said["sdar"] and "Qwen3ForCausalLM" in said["sdar"]
    assert "bidirectional" in said["llada"] and "63" in said["llada"] and "none: give prompts as" in said["llada"]
    assert "needs none" in said["qwen2"]
    assert "chat template" in said["talking"] and "fast_dllm_v2" in said["talking"]
