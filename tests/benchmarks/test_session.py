"""A session keeps its budget and its size, and one failure stops nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.device.budget import Budget
from benchmarks.device.session import RESERVE, Measurement, Results, run

Row = dict[str, Any]


def endless(budget: Budget) -> Iterator[Row]:
    """Rows as long as nobody interrupts."""
    number = 0
    while True:
        yield {"number": number}
        number += 1
        time.sleep(0.02)


def failing(budget: Budget) -> Iterator[Row]:
    yield {"number": 0}
    raise ValueError("no kernel")


def quick(budget: Budget) -> Iterator[Row]:
    yield {"number": 0}


def session(tmp_path: Path, seconds: float, *measurements: Measurement) -> tuple[list[Row], list[Row]]:
    """Outcomes, and all rows of the file."""
    path = tmp_path / "found.jsonl"
    found = run({"script": "test"}, measurements, Budget(seconds, time.monotonic()), path)
    return found, [json.loads(line) for line in path.read_text().splitlines()]


def test_what_runs_into_the_budget_is_cut_off_and_its_rows_are_kept(tmp_path: Path) -> None:
    found, rows = session(tmp_path, 0.5, Measurement("endless", 0.0, endless), Measurement("late", 1.0, quick))
    assert [row["outcome"] for row in found] == ["cut off", "skipped"]
    assert found[1]["needs"] == 1.0
    assert len([row for row in rows if row["kind"] == "row"]) > 1
    assert [row["kind"] for row in (rows[0], rows[-1])] == ["run", "end"]


def test_a_measurement_keeps_its_share_and_the_next_has_its_own(tmp_path: Path) -> None:
    found, _ = session(tmp_path, 60.0, Measurement("endless", 0.0, endless, 0.005), Measurement("next", 1.0, quick))
    assert [row["outcome"] for row in found] == ["cut off", "done"]


def test_a_failure_is_recorded_with_its_place_and_stops_nothing(tmp_path: Path) -> None:
    found, rows = session(tmp_path, 60.0, Measurement("one", 0.0, failing), Measurement("other", 0.0, quick))
    assert [row["outcome"] for row in found] == ["failed", "done"]
    assert found[0]["error"] == "ValueError: no kernel" and "test_session.py" in found[0]["where"][-1]
    assert [row["measurement"] for row in rows if row["kind"] == "row"] == ["one", "other"]


def test_what_an_earlier_measurement_took_is_the_guess_for_one_like_it(tmp_path: Path) -> None:
    found, _ = session(tmp_path, 5.0, Measurement("one", 0.0, quick), Measurement("other", 1e6, quick, like="one"))
    assert [row["outcome"] for row in found] == ["done", "done"]


def test_results_stay_within_their_size_and_say_what_is_missing(tmp_path: Path) -> None:
    results = Results(tmp_path / "found.jsonl", limit=RESERVE + 500)
    for number in range(100):
        results.write({"number": number})
    results.write({"kind": "end", "left_out": results.left_out}, always=True)
    rows = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert 0 < len(rows) - 1 < 100 and rows[-1]["left_out"] == 101 - len(rows)
    assert (tmp_path / "found.jsonl").stat().st_size <= RESERVE + 500


def test_a_row_is_on_disk_before_the_next_is_measured(tmp_path: Path) -> None:
    seen = []

    def watching(budget: Budget) -> Iterator[Row]:
        for number in range(3):
            seen.append((tmp_path / "found.jsonl").read_text().count('"kind": "row"'))
            yield {"number": number}

    session(tmp_path, 60.0, Measurement("watched", 0.0, watching))
    assert seen == [0, 1, 2]
