"""Files that came back from a device become results and tables; partial ones too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.device import merge
from benchmarks.device.merge import TABLES, main

ABOUT = {
    "kind": "run", "script": "window_step", "started": "2026-12-01T10:00:00Z", "commit": "0" * 40, "budget": 300,
    "device": "cuda:0 (NVIDIA H200)", "versions": {"torch": "2.11.0"}, "tiny": False, "shape": "llada-8b",
}  # fmt: skip
OURS = {
    "kind": "row", "what": "ours", "cudnn": False, "tokens_per_second": 250.0, "tokens_per_forward": 3.5,
    "window": 0.012, "window_floor": 0.004, "times_the_floor": 3.0, "forward": 0.014, "speedup": 1.5,
}  # fmt: skip
CHECKED = [
    {"what": "recordings", "outcome": "equal", "cases": 2, "different": 0, "tokens": 64, "equal_tokens": 64},
    {"what": "recordings", "outcome": "differs", "cases": 2, "different": 1, "tokens": 64, "equal_tokens": 32},
    {"what": "laws", "outcome": "close call"},
    {"what": "recordings reached", "groups": 2, "of": 9},
]
END = {"kind": "end", "seconds": 200.0, "left_out": 0}


def written(path: Path, *rows: dict[str, Any], end: str = "") -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + end)
    return path


def test_runs_become_files_and_tables(tmp_path: Path) -> None:
    checks = [{"kind": "row", "dtype": "float32", "compiled": False, **row} for row in CHECKED]
    other = {**ABOUT, "script": "correctness"}
    files = [written(tmp_path / "one", ABOUT, OURS, END), written(tmp_path / "two", other, *checks, END)]
    into = tmp_path / "results"
    for _ in range(2):  # merging again changes nothing
        main(["--into", str(into), *map(str, files)])
        assert sorted(path.name for path in into.iterdir()) == [
            "correctness-2026-12-01T100000Z.jsonl", TABLES, "window_step-2026-12-01T100000Z.jsonl",
        ]  # fmt: skip
    tables = (into / TABLES).read_text()
    assert "| ours | off | 250.0 | 3.50 | 12.000 | 4.000 | 3.00 | 14.000 | 1.50 |" in tables
    assert "| recordings | float32 | eager | 2 of 9 | 1 | 0 | 1 | 0 | 0 | 75.0% |" in tables
    assert "| laws | float32 | eager | 1, cut off | 0 | 1 | 0 | 0 | 0 |  |" in tables
    assert "killed" not in tables and "rehearsal" not in tables


def test_a_run_that_was_killed_is_kept_as_far_as_it_came(tmp_path: Path) -> None:
    skipped = {"kind": "outcome", "measurement": "ours, compiled", "outcome": "skipped", "needs": 100, "left": 9}
    file = written(tmp_path / "one", ABOUT, OURS, skipped, end='{"kind": "row", "what"')
    main(["--into", str(tmp_path / "results"), str(file)])
    tables = (tmp_path / "results" / TABLES).read_text()
    assert "| ours | off |" in tables and "ours, compiled: skipped (needs 100 s)" in tables and "killed" in tables


@pytest.mark.parametrize("about", [{"tiny": True}, {"device": "cpu (x86_64)"}])
def test_a_rehearsal_is_no_result(about: dict[str, Any], tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(merge, "RESULTS", tmp_path / "results")
    file = written(tmp_path / "one", {**ABOUT, **about}, END)
    with pytest.raises(SystemExit):
        main(["--into", str(tmp_path / "results"), str(file)])
    assert "is no result: give another folder by --into" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "does not begin with"), ("[1]\n", "does not begin with"), ('{"kind": "row"}\n', "does not begin with"),
     ("{}}\n{}\n", "line 1 is no JSON"), (None, "No such file")],
)  # fmt: skip
def test_other_files_are_refused(text: str | None, said: str, tmp_path: Path, capsys) -> None:
    if text is not None:
        (tmp_path / "one").write_text(text)
    with pytest.raises(SystemExit):
        main(["--into", str(tmp_path / "results"), str(tmp_path / "one")])
    assert said in capsys.readouterr().err
