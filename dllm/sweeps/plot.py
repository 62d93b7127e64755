"""Plots of accuracy against speed: every cell is a point, the Pareto front a line (extra `plot`)."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dllm.errors import ConfigError
from dllm.sweeps.pareto import pareto_front

Row = Mapping[str, Any]
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6bb1", "#8a8a8a")
"""Colours that people of every colour vision can distinguish (Okabe and Ito), on white and on black."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
INK, FAINT = "#010203", "#040506"
"""Placeholders in the SVG that are replaced by the page's colours of text and of lines, light or dark."""
SPEEDS = {"tokens_per_forward": "generated tokens per forward", "tokens_per_second": "generated tokens per second"}
"""Measures of speed, one panel each, with the labels of their axes."""


def _find_part_class(row: Row, name: str) -> str:
    """Find the class of a part of a row's strategy, such as "Threshold"; "Autoregressive" for a plain causal model."""
    found = re.search(rf"\b{name}=(\w+)", row["strategy"])
    return found.group(1) if found else row["strategy"].partition("(")[0]


def _choose_series(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """Choose what the colour and the shape of each row stand for.

    Returns:
        For every row its model, or if all have the same model the class of its policy; and the class of its cache.
    """
    caches = [_find_part_class(row, "cache") for row in rows]
    if len({row["model"] for row in rows}) > 1:
        return [row["model"] for row in rows], caches
    return [_find_part_class(row, "policy") for row in rows], caches


def find_fronts(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the Pareto front of each measure of speed, slowest first."""
    scored = [row for row in rows if row["accuracy"] is not None]
    return {speed: pareto_front(scored, lambda r: r[speed], lambda r: r["accuracy"]) for speed in SPEEDS}  # noqa: B023


def _draw_figure(rows: Sequence[Row], numbers: Sequence[int]) -> Any:
    """Draw a matplotlib figure with a panel for each measure of speed; points of a front carry their numbers.

    Args:
        rows: Rows with known accuracy, at least one.
        numbers: Number of each row in the table below the plot.
    """
    plt = _import_pyplot()
    style = {
        "svg.fonttype": "none", "text.parse_math": False, "font.size": 10, "font.family": "sans-serif",
        "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.edgecolor": FAINT,
    }  # fmt: skip
    with plt.rc_context(style):
        figure, panels = plt.subplots(1, len(SPEEDS), figsize=(11, 4.6), sharey=True, layout="constrained")
        colours, shapes = _choose_series(rows)
        colour_of = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(dict.fromkeys(colours))}
        marker_of = {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(dict.fromkeys(shapes))}
        best = find_fronts(rows)
        for panel, (speed, label) in zip(panels, SPEEDS.items(), strict=True):
            front = best[speed]
            panel.plot([r[speed] for r in front], [r["accuracy"] for r in front], color=FAINT, zorder=1)
            for row, number, colour, shape in zip(rows, numbers, colours, shapes, strict=True):
                spread = [[row["accuracy"] - row["accuracy_low"]], [row["accuracy_high"] - row["accuracy"]]]
                leads = any(row is one for one in front)  # by identity: two cells may have equal rows
                look = {"ms": 9, "mec": INK, "zorder": 3} if leads else {"ms": 6, "alpha": 0.65, "zorder": 2}
                look |= {"marker": marker_of[shape], "color": colour_of[colour], "elinewidth": 0.6}
                panel.errorbar(row[speed], row["accuracy"], yerr=spread, **look)
                if leads:
                    at = (row[speed], row["accuracy"])
                    panel.annotate(str(number), at, (7, 6), textcoords="offset points", weight="bold", zorder=4)
            panel.set_xlabel(label)
            panel.grid(color=FAINT, alpha=0.25)
            panel.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("accuracy (share answered right)")
        handles = _make_legend_handles(plt, colour_of, "o") + (
            _make_legend_handles(plt, marker_of, None) if len(marker_of) > 1 else []
        )
        figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
        for panel in panels:
            panel.patch.set_visible(False)
        figure.patch.set_visible(False)
    return figure


def _make_legend_handles(plt: Any, names: Mapping[str, str], marker: str | None) -> list[Any]:
    """Make the legend's entries: for colours, all of the shape `marker`, or for shapes if `marker` is None."""
    return [
        plt.Line2D([], [], linestyle="", marker=marker or value, color=value if marker else INK, label=name)
        for name, value in names.items()
    ]


def _import_pyplot() -> Any:
    """Import matplotlib's drawing functions, without a window. Raises ConfigError if it is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise ConfigError("matplotlib is not installed: pip install 'dllm[plot]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _render_svg(figure: Any, salt: str) -> str:
    """Render a figure as an SVG element whose text and lines take the page's colours.

    Args:
        figure: The figure; it is closed.
        salt: Text that makes the ids of this figure differ from those of other figures on the page.
    """
    plt = _import_pyplot()
    file = io.StringIO()
    with plt.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none", "text.parse_math": False}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    plt.close(figure)
    element = file.getvalue()
    element = element[element.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    for size in ("width", "height"):  # the page decides how large it is
        element = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r"\1", element, count=1)
    element = element.replace(INK, "var(--ink)").replace(FAINT, "var(--faint)")
    return re.sub(r'\bid="([A-Za-z0-9.]+_\d+)"', rf'id="\1-{salt}"', element)


def render_plots(groups: Iterable[tuple[str, Sequence[Row], Sequence[int]]]) -> dict[str, str]:
    """Render the SVG of each named group of rows with their numbers; groups without any known accuracy have none."""
    plots = {}
    for i, (name, rows, numbers) in enumerate(groups):
        kept = [(row, number) for row, number in zip(rows, numbers, strict=True) if row["accuracy"] is not None]
        if kept:
            plots[name] = _render_svg(_draw_figure([row for row, _ in kept], [number for _, number in kept]), f"g{i}")
    return plots
