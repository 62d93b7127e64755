"""A trace holds all that happened: its canvas is that of the loop, certificates can be recomputed, damage is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import dllm
from dllm import tracing
from tests.streaming.test_deltas import REQUESTS, STRATEGIES, tiny_with_tokenizer

ids = [f"{type(s.policy).__name__}-{type(s.scheduler).__name__}" for s in STRATEGIES]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=ids)
def test_replayed_and_checked(strategy: dllm.Strategy, tmp_path: Path) -> None:
    tiny = tiny_with_tokenizer("bidirectional", "byte-level")
    results = tracing.record_trace(tmp_path / "run.jsonl", tiny, REQUESTS, strategy, batch_size=3)
    found = tracing.read_trace(tmp_path / "run.jsonl")
    (run,) = found.runs
    assert run.strategy == repr(strategy) and len(run.results) == len(REQUESTS)
    verdict = tracing.check_trace(found)
    assert verdict.faults == () and verdict.results == len(REQUESTS)
    for kept in run.results:
        result = results[kept["request"]]
        assert tuple(kept["output_ids"]) == result.output_ids and kept["text"] == result.text
    assert list(tmp_path.iterdir()) == [tmp_path / "run.jsonl"]


def test_certificates_are_those_of_the_results(tmp_path: Path) -> None:
    tiny = tiny_with_tokenizer("block-causal", None)
    sure = dllm.Strategy(dllm.Certified(), dllm.Blocks(8), dllm.PrefixCache())
    results = tracing.record_trace(tmp_path / "run.jsonl", tiny, REQUESTS[:3], sure)
    found = tracing.read_trace(tmp_path / "run.jsonl")
    assert tracing.check_trace(found).faults == ()
    assert [r["certified"] for r in sorted(found.runs[0].results, key=lambda r: r["request"])] == [
        r.certified for r in results
    ]


def test_candidates_are_kept_and_change_nothing(tmp_path: Path) -> None:
    tiny = tiny_with_tokenizer("bidirectional", None)
    plain = dllm.decode(tiny, REQUESTS[:2], STRATEGIES[0])
    results = tracing.record_trace(tmp_path / "run.jsonl", tiny, REQUESTS[:2], STRATEGIES[0], top=3)
    assert [r.output_ids for r in results] == [r.output_ids for r in plain]
    for step in tracing.read_trace(tmp_path / "run.jsonl").runs[0].steps:
        for row in step["rows"]:
            assert [len(column) for column in row["top"]] == [3] * len(row["columns"])
            for column, p1 in zip(row["top"], row["p1"], strict=True):
                assert column[0][1] == pytest.approx(p1, rel=1e-3)
                assert tiny.mask_id not in [token for token, _ in column]
    assert repr(tracing.request_probabilities(STRATEGIES[0])) == repr(STRATEGIES[0])


@pytest.fixture
def lines(tmp_path: Path) -> list[Any]:
    """The lines of a trace."""
    certain = dllm.Strategy(dllm.TopK(k=3), dllm.Blocks(8), dllm.NoCache())
    tracing.record_trace(tmp_path / "good.jsonl", tiny_with_tokenizer("bidirectional", None), REQUESTS[:2], certain)
    return [json.loads(line) for line in (tmp_path / "good.jsonl").read_text().splitlines()]


def write_lines(folder: Path, lines: list[Any]) -> Path:
    file = folder / "bad.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.mark.parametrize(
    ("field", "value"), [("certified", True), ("p1", None), ("tokens", None), ("nfe", 99), ("parallel", False)]
)
def test_a_wrong_field_is_found(field: str, value: Any, lines: list[Any], tmp_path: Path) -> None:
    (row,) = [row for line in lines if "rows" in line for row in line["rows"] if row["request"] == 1][-1:]
    if field == "p1":
        row["p1"], row["p2"] = [1.0] * len(row["p1"]), [0.0] * len(row["p1"])
    elif field == "tokens":
        row["tokens"] = [(token + 1) % 30 for token in row["tokens"]]
    else:
        row[field] = value
    assert tracing.check_trace(tracing.read_trace(write_lines(tmp_path, lines))).faults


def test_damage_is_reported(lines: list[Any], tmp_path: Path) -> None:
    def read_error(changed: list[Any]) -> str:
        with pytest.raises(tracing.TraceError) as error:
            tracing.read_trace(write_lines(tmp_path, changed))
        return str(error.value)

    header, *rest = lines
    assert "format 99" in read_error([{**header, "dllm_trace": 99}, *rest]) and "update" in read_error(
        [{"dllm_trace": 99}]
    )
    assert "no trace of dllm" in read_error(rest) and "no trace" in read_error([])
    assert "cut short" in read_error(lines[:-1]) and "cut short" in read_error([header])
    assert "behind the end" in read_error([*lines, lines[-1]])
    step = next(i for i, line in enumerate(lines) if "rows" in line)
    row = lines[step]["rows"][0]
    bad = f"bad.jsonl:{step + 1}"
    for change in ({"columns": [1]}, {"commit": [9999]}, {"request": 7}, {"p1": "x"}):
        changed = [*lines]
        changed[step] = {**lines[step], "rows": [{**row, **change}]}
        assert bad in read_error(changed), change
    (tmp_path / "bad.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(tracing.TraceError, match="not JSON"):
        tracing.read_trace(tmp_path / "bad.jsonl")


def test_nothing_is_overwritten_or_left_behind(tmp_path: Path) -> None:
    tiny, path = tiny_with_tokenizer("bidirectional", None), tmp_path / "run.jsonl"
    with pytest.raises(dllm.RequestError):
        tracing.record_trace(path, tiny, [dllm.Request((99,), 4)], STRATEGIES[0])
    assert not list(tmp_path.iterdir())
    path.write_text("mine")
    with pytest.raises(dllm.ConfigError, match="exists already"):
        tracing.record_trace(path, tiny, REQUESTS[:1], STRATEGIES[0])
    assert path.read_text() == "mine" and list(tmp_path.iterdir()) == [path]


def test_the_page_holds_the_trace_and_nothing_that_runs(lines: list[Any], tmp_path: Path) -> None:
    lines[1]["run"]["strategy"] = "</script><script>alert(1)</script><!--"
    lines[1]["pieces"] = {"3": "<img src=x onerror=alert(1)>"}
    found = tracing.read_trace(write_lines(tmp_path, lines))
    page = tracing.render_trace_page(found)
    assert page.count("<script") == 2 and "<img" not in page and "alert(1)</script>" not in page
    assert "http://" not in page.replace("http-equiv", "") and "https://" not in page and "default-src 'none'" in page
    inside = page.split('id="data">')[1].split("</script>")[0]
    assert json.loads(inside)["runs"][0]["steps"] == found.runs[0].steps


def test_a_file_that_appears_while_a_trace_is_recorded_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    recorder = tracing.Recorder(path, tiny_with_tokenizer("bidirectional", None))
    with pytest.raises(dllm.ConfigError, match="exists already"), recorder:
        path.write_text("mine")
    assert path.read_text() == "mine" and list(tmp_path.iterdir()) == [path]


def test_all_that_is_known_of_a_column_moves_with_it() -> None:
    request = {"prompt": [7, 8], "holes": [], "max_new_tokens": 3}
    canvas = tracing.ReplayedCanvas.blank(request, 5)
    row = {"nfe": 4, "columns": [2, 3], "tokens": [5, 6], "commit": [2, 3], "parallel": True, "certified": True}
    canvas.apply(row | {"moved": [0, 1, -1, 3, 2]})
    assert canvas.tokens == [7, 8, None, 6, 5] and canvas.given == [True, True, False, False, False]
    assert canvas.when == [0, 0, 0, 4, 4] and canvas.new == {3, 4}
    assert canvas.parallel == canvas.certified == [False, False, False, True, True]
