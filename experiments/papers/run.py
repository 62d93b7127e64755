"""Do the published tables come out again?

Question: on the checkpoints of the papers, does this library reach the accuracy and the forwards that they report?
Method:   a row of a published table is a preset (experiments/papers/*.yaml): checkpoint, task, shots, lengths,
          strategy. It is evaluated by `dllm eval`, which continues where it was interrupted; published and measured
          figures stand side by side. What a source does not say, and we chose, is listed with the row.
Read:     accuracy is in percent, with its standard error; speeds depend on the machine, their ratio to that of a file's
          first row less so. A difference of more than two standard errors is marked.
Run:      python -m experiments.papers.run fast_dllm/both --output papers       (one row; a GPU of 24 GB)
          python -m experiments.papers.run fast_dllm --limit 200                (a file; the first 200 questions)
          python -m experiments.papers.run --list
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from experiments.papers.presets import PaperPreset, read_all_presets

RUN = [sys.executable, "-c", "import sys; from dllm.cli.main import run; sys.argv[0] = 'dllm'; run()"]


def main(
    name: Annotated[str | None, typer.Argument(help="FILE/ROW, or FILE for all of its rows.")] = None,
    output: Annotated[Path, typer.Option(help="Folder; what is there already is not done again.")] = Path("papers"),
    limit: Annotated[int | None, typer.Option(help="Only the first so many questions of a task.")] = None,
    model: Annotated[str | None, typer.Option(help="Another checkpoint, such as a local copy.")] = None,
    extra: Annotated[list[str] | None, typer.Option(help="More words for dllm eval, e.g. --extra=--data=DIR.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Name the rows and their commands, run none.")] = False,
) -> None:
    """Evaluate rows of published tables: a table on stderr, one JSON object a row on stdout."""
    chosen = [row for row in read_all_presets().values() if name in (None, row.name, row.name.partition("/")[0])]
    if list_:
        for row in chosen:
            typer.echo(f"{row.name}: {row}")
        return
    if name is None or not chosen:
        raise typer.BadParameter(f"{name}: no such row or file; --list names them")
    rows: list[Any] = []
    for preset in chosen:
        folder = output if limit is None else output / f"first-{limit}"
        words = preset.command(folder, limit, tuple(extra or ()))
        if model is not None:
            words[words.index("--model") + 1] = model
        (folder / preset.name).parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run([*RUN, *words[1:]], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise typer.Exit(done.returncode)
        rows.append(
            make_row(preset, [json.loads(line) for line in done.stdout.splitlines()], rows[0] if rows else None)
        )
        sys.stdout.write(json.dumps(rows[-1]) + "\n")
        sys.stdout.flush()
    _print_rows(rows)


def make_row(preset: PaperPreset, found: list[dict[str, Any]], first: dict[str, Any] | None) -> dict[str, Any]:
    """Published and measured figures of a row, from what `dllm eval` says of its task, or of the parts of a group."""
    accuracy, error = score_metric(preset.metric, found)
    speeds = [row["tokens_per_second"] for row in found if row.get("tokens_per_second")]
    answers = [row["nfe_per_answer"] for row in found if row.get("nfe_per_answer")]
    measured = {
        "accuracy": accuracy,
        "tokens_per_second": speeds[0] if len(speeds) == 1 else None,
        "nfe": answers[0] if len(answers) == 1 else None,
    }
    before = (first or {}).get("measured", measured)["tokens_per_second"]
    speed = measured["tokens_per_second"]
    measured["speedup"] = speed / before if speed and before else None
    about = {"name": preset.name, "paper": preset.paper, "table": preset.table, "strategy": dict(preset.strategy)}
    return about | {
        "published": dict(preset.published), "measured": measured, "error": error, "assumed": preset.assumed,
        "documents": sum(row["documents"] for row in found),
    }  # fmt: skip


def score_metric(metric: str, found: list[dict[str, Any]]) -> tuple[float, float | None]:
    """A metric in percent and its standard error; the strict of several filters; of a group the mean of its parts."""
    scores: list[tuple[float, float | None, int]] = []
    for row in found:
        names = [name for name in row["metrics"] if name.partition(",")[0] == metric]
        if not names:
            known = ", ".join(name for name in row["metrics"] if "_stderr" not in name)
            raise typer.BadParameter(f"{row['task']} has no {metric}: it has {known}")
        name = next((n for n in names if "strict" in n), names[0])
        error = row["metrics"].get(name.replace(metric, f"{metric}_stderr", 1))
        scores.append((row["metrics"][name], error if isinstance(error, float) else None, row["documents"]))
    total = sum(n for *_, n in scores)
    mean = sum(value * n for value, _, n in scores) / total
    errors = [(error, n) for _, error, n in scores if error is not None]
    spread = (sum((error * n / total) ** 2 for error, n in errors)) ** 0.5 if len(errors) == len(scores) else None
    return 100 * mean, None if spread is None else 100 * spread


def _print_rows(rows: list[dict[str, Any]]) -> None:
    table = Table("row", "figure", "published", "measured", "", header_style="bold")
    for row in rows:
        for figure, value in row["published"].items():
            measured, error = row["measured"][figure], row["error"] if figure == "accuracy" else None
            spread = "" if error is None else f" ± {error:.1f}"
            off = error is not None and measured is not None and abs(measured - value) > 2 * error
            said = "–" if measured is None else f"{measured:.1f}{spread}"
            table.add_row(row["name"], figure.replace("_", " "), f"{value:g}", said, "differs" if off else "")
        table.add_row(
            "", f"[dim]{row['paper']}, {row['table']}; assumed: {', '.join(row['assumed']) or 'nothing'}[/dim]"
        )
    Console(stderr=True).print(table)


if __name__ == "__main__":
    typer.run(main)
