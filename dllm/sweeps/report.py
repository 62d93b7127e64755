"""The page that shows a sweep: Pareto fronts and tables in one HTML file that loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from dllm.errors import ConfigError
from dllm.files import write_atomically
from dllm.sweeps.plot import find_fronts, render_plots

Row = Mapping[str, Any]
SETTINGS = ("model", "max_new_tokens", "seed", "batch_size", "device", "dtype")
"""Fields that get a column if they differ between rows, and are said once below the table if they do not."""
FIGURES = {
    "accuracy": "accuracy",
    "tokens_per_forward": "tokens/forward",
    "tokens_per_second": "tokens/s",
    "certified_share": "certified",
    "rows": "rows",
}
"""Fields with numbers, and the heads of their columns."""
STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --faint: #8f8f8f; --note: #5c5c5c; --page: #fdfdfc; --mark: #eef4fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e6e3; --faint: #8d8d8d; --note: #ababab; --page: #16181a; --mark: #22303c; }
}
body { background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto;
       padding: 0 1rem; max-width: 72rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
svg { width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; width: 100%; }
th, td { border-bottom: 1px solid color-mix(in srgb, var(--faint) 45%, transparent); padding: .3rem .6rem; }
th, td { text-align: right; } th { cursor: pointer; vertical-align: bottom; white-space: nowrap; }
th.text, td.text { text-align: left; } tr.front { background: var(--mark); font-weight: 600; }
code { font-size: 12px; overflow-wrap: anywhere; } small, .note { color: var(--note); } details { margin: .4rem 0; }
"""
SCRIPT = """
for (const head of document.querySelectorAll("th")) head.onclick = () => {
  const body = head.closest("table").tBodies[0], place = head.cellIndex;
  const up = head.dataset.up = head.dataset.up == "1" ? "" : "1";
  const key = row => row.cells[place].dataset.value ?? row.cells[place].textContent;
  const order = (a, b) => (key(a) - key(b)) || String(key(a)).localeCompare(key(b));
  body.append(...[...body.rows].sort((a, b) => up ? order(b, a) : order(a, b)));
};
"""
HOW = (
    "Numbered points form the Pareto front: no other cell is both faster and more often right. Bars are 95 % intervals "
    "(Wilson) of the accuracy. A forward is one call of the model for a row; tokens are those after the prompt, up to "
    "and with the end token; seconds are wall time of a cell."
)


def render_sweep_page(rows: Sequence[Row], title: str) -> str:
    """Render the page of a table.

    Args:
        rows: Rows of the table.
        title: Title of the page.

    Raises:
        ConfigError: There are no rows, or matplotlib is not installed.
    """
    if not rows:
        raise ConfigError("the table is empty: no cell is done yet")
    groups = [(name, [r for r in rows if r["prompts"] == name]) for name in dict.fromkeys(r["prompts"] for r in rows)]
    plots = render_plots((name, group, range(1, len(group) + 1)) for name, group in groups)
    # Nothing on the page may load anything, whatever the names in a table contain; they are escaped besides.
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
            f"<h1>{escape(title)}</h1>",
            f'<p class="note">{escape(HOW)}</p>',
            *(_render_section(name, group, plots.get(name, "")) for name, group in groups),
            f"<script>{SCRIPT}</script></body></html>\n",
        )
    )


def _render_section(name: str, rows: Sequence[Row], plot: str) -> str:
    """Render one set of prompts: its plot, its table, and every strategy in full."""
    leading = [row for line in find_fronts(rows).values() for row in line]
    varied = [key for key in SETTINGS if len({str(row.get(key)) for row in rows}) > 1]
    same = [f"{key.replace('_', ' ')} {rows[0].get(key)}" for key in SETTINGS if key not in varied]
    heads = "".join(
        f'<th class="{"text" if text else ""}">{escape(head)}</th>'
        for head, text in (
            ("#", False), *((key.replace("_", " "), True) for key in varied), ("strategy", True),
            *((head, False) for head in FIGURES.values()),
        )
    )  # fmt: skip
    body = "".join(
        _render_table_row(number, row, varied, any(row is one for one in leading))
        for number, row in enumerate(rows, start=1)
    )
    strategies = "".join(
        f"<li><code>{escape(strategy)}</code></li>" for strategy in dict.fromkeys(row["strategy"] for row in rows)
    )
    versions = ", ".join(sorted({f"{k} {v}" for row in rows for k, v in (row.get("versions") or {}).items()}))
    return (
        f"<h2>{escape(name)}</h2>{plot or '<p>No question has a known answer: nothing to draw.</p>'}"
        f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
        f'<p class="note">{escape(" · ".join(same))}<br>{escape(versions)}</p>'
        f"<details><summary>Strategies in full</summary><ul>{strategies}</ul></details>"
    )


def _render_table_row(number: int, row: Row, varied: Sequence[str], leads: bool) -> str:
    """Render a row of the table."""
    cells = [f'<td data-value="{number}">{number}</td>']
    cells += [f'<td class="text">{escape(str(row.get(key)))}</td>' for key in varied]
    cells.append(f'<td class="text">{escape(row["name"])}</td>')
    cells += [f'<td data-value="{_make_sort_key(row, key)}">{_format_figure(row, key)}</td>' for key in FIGURES]
    return f"<tr{' class=front' if leads else ''}>{''.join(cells)}</tr>"


def _make_sort_key(row: Row, key: str) -> float:
    """Return the number by which a column is sorted; cells without a value come below all others."""
    return -1.0 if row[key] is None else float(row[key])


def _format_figure(row: Row, key: str) -> str:
    """Format a number as it is shown."""
    if row[key] is None:
        return "–"
    if key == "accuracy":
        return f"{row[key]:.3f} <small>{row['accuracy_low']:.2f}–{row['accuracy_high']:.2f}</small>"
    if key == "rows":
        return f"{row['rows']}" + (f" <small>({row['failed']} failed)</small>" if row["failed"] else "")
    return f"{row[key]:.1f}" if key == "tokens_per_second" else f"{row[key]:.2f}"


def write_sweep_page(text: str, path: Path) -> None:
    """Write a page, so that a reader finds the whole page or the one before. Raises OSError."""
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
