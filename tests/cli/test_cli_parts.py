"""Expressions and packages on the command line, with the example of `experiments/example_plugin`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from dllm.cli.parts import summarize_docstring
from dllm.compose.names import TABLES
from tests.cli.conftest import read
from tests.packages import Site

BROKEN = {
    "dllm.policies": {"broken": "nowhere:X"},
    "dllm.recipes": {"broken": "nowhere:x"},
    "dllm.families": {"odd": "no:X"},
}


def test_parts_lists_all_there_is(dllm):
    result = dllm("parts")
    assert result.exit_code == 0 and result.stderr == ""
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    for table in TABLES.values():
        for name in table:
            assert name in lines, name
            assert summarize_docstring(table[name])[:40].rstrip() in result.stdout, name
    for said in (
        "tau=0.9, kl=0.01, history=2, score=Confidence()",
        "Commit every confident pending slot",
        "dllm",
    ):
        assert said in lines["klass"]


def test_parts_tells_all_about_one(dllm):
    result = dllm("parts", "local-leap")
    assert result.exit_code == 0
    for said in ("local-leap(tau=0.9", "policy, dllm.policies:LocalLeap", "arXiv:2510.07081", "radius"):
        assert said in result.stdout
    assert dllm("parts", "LocalLeap").stdout == dllm("parts", "local_leap").stdout == result.stdout
    both = dllm("parts", "sliding").stdout
    assert "scheduler, " in both and "cache, " in both, "a name of two kinds"
    wrong = dllm("parts", "local-lepa")
    assert wrong.exit_code == 2 and "did you mean 'local-leap'?" in wrong.stderr and wrong.stdout == ""


def decode(dllm, checkpoints, source, *options):
    return dllm("decode", "--model", checkpoints["llada"], "--max-new-tokens", 16, "--input", source, *options)


def test_a_result_can_be_asked_for_again(dllm, checkpoints, jsonl, tmp_path):
    source = jsonl({"prompt_ids": [5, 6]}, {"prompt_ids": [9]})
    options = (
        "--policy",
        "klass(kl=0.5, history=1, tau=0.1)",
        "--scheduler",
        "blocks(4)",
        "--cache",
        "dual(refresh=2)",
    )
    first = decode(dllm, checkpoints, source, *options, "--output", tmp_path / "a.jsonl")
    assert first.exit_code == 0, first.stderr
    rows = read(tmp_path / "a.jsonl", "seconds")
    assert "KLASS(tau=0.1, kl=0.5, history=1, score=Confidence())" in rows[0]["strategy"]
    again = decode(dllm, checkpoints, source, "--strategy", rows[0]["strategy"], "--output", tmp_path / "b.jsonl")
    assert again.exit_code == 0, again.stderr
    assert read(tmp_path / "b.jsonl", "seconds") == rows


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        (["--policy", "klass(khl=1)"], ["klass has no field 'khl' (did you mean 'kl'?)", "history=2"]),
        (["--policy", "klas"], ["unknown policy 'klas' (did you mean 'klass'?)"]),
        (["--cache", "klass()"], ["klass is a policy", "a cache (none, prefix, dual"]),
        (["--score", "margin(1)"], ["too many values for margin"]),
        (["--recipe", "klass(taw=1)"], ["klass has no field 'taw'", "block=64"]),
        (["--strategy", "Strategy(klass)"], ["Strategy needs scheduler, cache"]),
        (["--strategy", "Strategy(klass"], ["no expression"]),
        (["--strategy", "Strategy(klass,whole,none)", "--recipe", "llada"], ["--recipe and --strategy: give one"]),
        (["--processor", "nope"], ["unknown processor 'nope'"]),
    ],
    ids=str,
)
def test_misuse(dllm, checkpoints, jsonl, options, fragments):
    result = decode(dllm, checkpoints, jsonl({"prompt_ids": [5]}), *options)
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    for fragment in fragments:
        assert fragment in result.stderr


def test_the_example_package(dllm, checkpoints, jsonl, site: Site):
    source = jsonl({"prompt_ids": [5, 6]})
    before = decode(dllm, checkpoints, source, "--policy", "relative")
    assert before.exit_code == 2 and "unknown policy 'relative'" in before.stderr
    site.install_example()
    for options, said in (
        (("--policy", "relative"), "policy=Relative(share=0.8, score=Margin())"),
        (("--policy", "relative(share=0.1)", "--score", "peak"), "policy=Relative(share=0.1, score=Peak())"),
        (("--policy", "early-commit(relative)"), "policy=EarlyCommit(policy=Relative(share=0.8"),
        (("--recipe", "relative(block=4)"), "scheduler=Blocks(size=4"),
    ):
        result = decode(dllm, checkpoints, source, *options)
        assert result.exit_code == 0, result.stderr
        row = json.loads(result.stdout)
        assert said in row["strategy"] and len(row["output_ids"]) == 16
        again = decode(dllm, checkpoints, source, "--strategy", row["strategy"])
        assert json.loads(again.stdout)["strategy"] == row["strategy"]
    line = next(line for line in dllm("parts").stdout.splitlines() if line.startswith("relative"))
    assert "share=0.8, score=Margin()" in line and "at least `share`" in line and "dllm-relative 0.1" in line
    assert "from dllm-relative 0.1" in dllm("parts", "relative").stdout
    recipes = dllm("recipes").stdout
    assert "An example, published nowhere" in recipes and "Strategy(Relative(), Blocks(32), DualCache())" in recipes
    wrong = decode(dllm, checkpoints, source, "--policy", "relative(shar=1)")
    assert wrong.exit_code == 2 and "relative has no field 'shar' (did you mean 'share'?)" in wrong.stderr


def test_a_broken_package_breaks_nothing_else(dllm, checkpoints, jsonl, site: Site):
    site.install("dllm-broken", BROKEN)
    site.install_example()
    source = jsonl({"prompt_ids": [5, 6]})
    for command in (("recipes",), ("parts",), ("models",), ("decode", "--help"), ("info", checkpoints["sdar"])):
        result = dllm(*command)
        assert result.exit_code == 0, command
    for listing in ("recipes", "parts", "models"):
        said = " ".join(dllm(listing).stdout.split())
        assert "of dllm-broken 0.1 (no" in said and "repair or uninstall dllm-broken 0.1" in said
    assert "Relative" in dllm("recipes").stdout, "what comes behind it is listed all the same"
    assert decode(dllm, checkpoints, source).exit_code == 0
    assert decode(dllm, checkpoints, source, "--policy", "relative", "--recipe", "klass").exit_code == 0
    for option in ("--policy", "--recipe"):
        result = decode(dllm, checkpoints, source, option, "broken")
        assert result.exit_code == 2 and result.stderr.count("\n") == 1
        assert "of dllm-broken 0.1 (nowhere:" in result.stderr
    assert dllm("parts", "broken").exit_code == 2


def test_help_names_parts_of_packages_without_importing_them(site: Site):
    site.install(
        "dllm-broken", {"dllm.policies": {"elsewhere": "elsewhere:X"}}, elsewhere="raise SystemExit('imported')"
    )
    code = "import sys; sys.argv = ['dllm', 'decode', '--help']; from dllm.cli.main import run; run()"
    environment = os.environ | {"PYTHONPATH": str(site.folder), "COLUMNS": "200"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.returncode == 0 and "elsewhere" in result.stdout
