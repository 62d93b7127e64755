"""Put files that came back from a device into the results, and draw the tables of all of them anew.

    python -m benchmarks.device.merge FILE…        # into benchmarks/device/results
    python -m benchmarks.device.merge --into DIR FILE…

A file may be partial: a run that was killed is kept as far as it came. Merging a file again changes nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
TABLES = "tables.md"
OUTCOMES = ("equal", "close call", "differs", "broken", "error")

Row = dict[str, Any]


class MergeError(Exception):
    """A file that cannot be merged, and why."""


def read(path: Path) -> list[Row]:
    """The rows of a file, the facts of the run first; a last line that was cut short is left out.

    Raises:
        MergeError: It is no file of these scripts.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise MergeError(f"{path}: {error.strerror}") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise MergeError(f"{path}: line {number} is no JSON: has the file been edited?") from None
    if not rows or not isinstance(rows[0], dict) or rows[0].get("kind") != "run":
        raise MergeError(f"{path}: does not begin with the facts of a run: give files that the device scripts wrote")
    return rows


def merge(files: Iterable[Path], into: Path) -> Path:
    """Copy runs into a folder, a file each, and return the tables of all runs that are there."""
    runs = [(path, read(path)) for path in files]
    for path, rows in runs:
        if into == RESULTS and (rows[0].get("tiny") or not str(rows[0]["device"]).startswith("cuda")):
            raise MergeError(f"{path}: a rehearsal ({rows[0]['device']}) is no result: give another folder by --into")
    into.mkdir(parents=True, exist_ok=True)
    for _, rows in runs:
        name = f"{rows[0]['script']}-{rows[0]['started'].replace(':', '')}.jsonl"
        (into / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    tables = into / TABLES
    every = [read(path) for path in sorted(into.glob("*.jsonl"))]
    tables.write_text("\n".join(_section(rows) for rows in every))
    return tables


def _section(rows: list[Row]) -> str:
    """One run: its facts, its tables, and what became of what is not in them."""
    about = rows[0]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    more = {
        name: about[name] for name in ("shape", "dtype", "context", "new_tokens", "repeats", "cudnn") if name in about
    }
    facts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in more.items() if value is not None)
    head = f"## {about['script']}, {about['started']}\n\n{about['device']}; {versions}; commit {about['commit'][:12]}"
    head += f"; {facts}.\n" if facts else ".\n"
    rehearsal = "\n**A rehearsal on tiny shapes: its times mean nothing.**\n" if about.get("tiny") else ""
    tables = [_speed(rows), _new_shapes(rows), _waits(rows), _checks(rows), _left(rows)]
    return "\n".join([head + rehearsal, *filter(None, tables)])


def _speed(rows: list[Row]) -> str:
    """Every way of decoding beside the floor and the published loop."""
    timed = [row for row in rows if "tokens_per_second" in row]
    columns = ("", "cuDNN", "tokens/s", "TPF", "window, ms", "floor, ms", "× floor", "a forward, ms", "× published")
    cells = [
        (
            row["what"], "on" if row["cudnn"] else "off", f"{row['tokens_per_second']:.1f}",
            f"{row['tokens_per_forward']:.2f}", _milliseconds(row, "window"), _milliseconds(row, "window_floor"),
            _number(row, "times_the_floor"), _milliseconds(row, "forward"), _number(row, "speedup"),
        )
        for row in timed
    ]  # fmt: skip
    rates = next((row for row in rows if row.get("what") == "rates"), None)
    said = ""
    if rates is not None:
        said = (
            f"Copies {rates['bytes_per_second'] / 1e12:.3f} TB/s, multiplies "
            f"{rates['operations_per_second'] / 1e12:.1f} Tflop/s; reading all weights once "
            f"{1e3 * rates['read_weights_once']:.3f} ms.\n\n"
        )
    return said + _table(columns, cells) if timed or said else ""


def _new_shapes(rows: list[Row]) -> str:
    """Format the costs of prompts of new lengths."""
    by_kind = defaultdict(list)
    for row in rows:
        if row.get("what") == "new shape":
            by_kind[row["cudnn"]].append(row["new_shape"])
    cells = [
        ("on" if on else "off", str(len(costs)), f"{1e3 * sum(costs) / len(costs):.0f}", f"{1e3 * max(costs):.0f}")
        for on, costs in by_kind.items()
    ]
    return _table(("cuDNN", "new prompt lengths", "cost of one, ms, mean", "most"), cells) if cells else ""


def _waits(rows: list[Row]) -> str:
    found = [row for row in rows if row.get("waits_per_step") is not None]
    return "".join(f"Waits for the device per step: {row['waits_per_step']:.2f} ({row['where']}).\n" for row in found)


def _checks(rows: list[Row]) -> str:
    """Correctness by kind: how many cases, and what became of them."""
    kinds: dict[tuple[str, str, bool], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    reached = {}
    for row in rows:
        kind = (str(row.get("what", "")).removesuffix(" reached"), row.get("dtype", ""), row.get("compiled", False))
        if str(row.get("what")).endswith(" reached"):
            reached[kind] = f"{row.get('cells', row.get('groups'))} of {row['of']}"
        elif row.get("what") in ("recordings", "laws"):
            kinds[kind][row["outcome"]] += 1
            for name in ("cases", "different", "tokens", "equal_tokens"):
                kinds[kind][name] += row.get(name, 0)
    cells = []
    for kind, counts in kinds.items():
        share = f"{counts['equal_tokens'] / counts['tokens']:.1%}" if counts["tokens"] else ""
        shown = [str(counts[outcome]) for outcome in OUTCOMES]
        tried = str(sum(counts[outcome] for outcome in OUTCOMES))
        mode = "compiled" if kind[2] else "eager"
        cells.append((kind[0], kind[1], mode, reached.get(kind, f"{tried}, cut off"), *shown, share))
    columns = ("", "precision", "", "groups or cells", *OUTCOMES, "equal tokens")
    return _table(columns, cells) if cells else ""


def _left(rows: list[Row]) -> str:
    """Format what was skipped, cut off or failed, and how the run ended."""
    lines = []
    for row in rows:
        if row.get("kind") == "outcome" and row["outcome"] != "done":
            why = {"skipped": f"needs {row.get('needs')} s", "failed": row.get("error")}.get(row["outcome"])
            lines.append(f"- {row['measurement']}: {row['outcome']}" + (f" ({why})" if why else ""))
    end = rows[-1] if rows[-1].get("kind") == "end" else None
    if end is None:
        lines.append("- the run was killed: what it had not begun by then is missing")
    elif end["left_out"]:
        lines.append(f"- {end['left_out']} rows were left out, since the file had reached its size")
    return "\n".join(lines) + "\n" if lines else ""


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _milliseconds(row: Row, name: str) -> str:
    return f"{1e3 * row[name]:.3f}" if name in row else ""


def _number(row: Row, name: str) -> str:
    return f"{row[name]:.2f}" if name in row else ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Merge the files that are named."""
    made = argparse.ArgumentParser("python -m benchmarks.device.merge")
    made.add_argument("files", nargs="+", type=Path, metavar="FILE", help="what a script wrote, or part of it")
    made.add_argument("--into", type=Path, default=RESULTS, metavar="DIR", help="default: results beside this module")
    options = made.parse_args(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.stderr.write(f"tables: {merge(options.files, options.into)}\n")
    except MergeError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
