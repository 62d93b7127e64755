"""Every preset of a published table parses, its strategy builds, its command exists, its figures have a source."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from dllm.errors import ConfigError
from dllm.jobs import ModelOutline
from dllm.types import Bidirectional, BlockCausal
from experiments.papers.presets import PaperPreset, read_all_presets, read_presets
from experiments.papers.run import make_row, score_metric

GEOMETRY = {"llada": Bidirectional(), "dream": Bidirectional(), "fast_dllm_v2": BlockCausal(32)}
PRESETS = read_all_presets()
SOURCES = ("semantics.md", "strategies.md")


@pytest.mark.parametrize("row", PRESETS.values(), ids=PRESETS)
def test_a_preset_builds_and_is_a_command(row: PaperPreset) -> None:
    from dllm.cli.main import app

    strategy = row.options.strategy(ModelOutline(row.family, GEOMETRY[row.family]), row.max_new_tokens)
    assert strategy.policy is not None
    command = typer.main.get_command(app).commands["eval"]  # type: ignore[attr-defined]
    given = command.make_context("eval", row.command(Path("out"), 5)[2:]).params
    assert given["tasks"] == [row.task] and given["model"] == row.model and given["num_fewshot"] == row.num_fewshot
    assert all(given[name] == value for name, value in row.strategy.items())


def test_published_figures_stand_in_a_source(shared: Path) -> None:
    files = [*(shared / "seeds").glob("*.txt"), *(shared / "design" / name for name in SOURCES)]
    known = "\n".join(path.read_text(errors="replace") for path in files)
    for row in PRESETS.values():
        for value in row.published.values():
            assert str(value) in known, f"{row.name}: {value}"


def test_a_misspelt_preset_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("rows: [{name: a, modle: b}]")
    with pytest.raises(ConfigError, match=r"modle.*did you mean 'model'"):
        read_presets(path)
    path.write_text("rows: [{name: a, model: b}]")
    with pytest.raises(ConfigError, match="lacks paper, table, family, task"):
        read_presets(path)


def test_published_and_measured_side_by_side() -> None:
    row = PRESETS["fast_dllm/both"]
    strict, loose = "exact_match,strict-match", "exact_match,flexible-extract"
    metrics = {
        loose: 0.9,
        strict: 0.78,
        "exact_match_stderr,strict-match": 0.01,
        "exact_match_stderr,flexible-extract": 0.1,
    }
    found = {"task": "gsm8k", "metrics": metrics, "documents": 100, "tokens_per_second": 50.0, "nfe_per_answer": 40.0}
    first = make_row(PRESETS["fast_dllm/base"], [found | {"tokens_per_second": 10.0}], None)
    made = make_row(row, [found], first)
    assert made["measured"] == {"accuracy": 78.0, "tokens_per_second": 50.0, "nfe": 40.0, "speedup": 5.0}
    assert made["error"] == 1.0 and made["published"] == {"accuracy": 78.5, "speedup": 8.1}
    group = [{"task": "a", "metrics": {"acc,none": v}, "documents": n} for v, n in ((1.0, 1), (0.0, 3))]
    assert score_metric("acc", group) == (25.0, None)
    with pytest.raises(typer.BadParameter, match="has no f1"):
        score_metric("f1", group)
