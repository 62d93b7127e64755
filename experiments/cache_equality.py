"""Is a cache "a purely efficiency-enhancing feature", or does it change the answers?

Question: at equal policy and equal windows, what share of answers is token for token the same with a cache as without?
Method:   greedy decoding of held-out word problems by several policies: in whole blocks with and without the prefix
          cache, in sub-blocks of 8 with and without it and the two sub-block caches, and, with the model made to attend
          everywhere (as LLaDA does; it was not trained so), in blocks of 8 with and without the prefix and dual cache.
Read:     a bar at 1: the cache changes nothing. A bar below 1 with equal accuracy: other answers, as good. "certified"
          is the share of parallel tokens that are provably what greedy joint decoding would write given what the model
          showed; what rests on stale keys and values cannot be certified.
Run:      python -m experiments.cache_equality --count 100 --output experiments/results/cache_equality.jsonl
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from rich.progress import track

from dllm import Blocks, DualCache, Factor, NoCache, PrefixCache, Strategy, Threshold, TopK
from dllm.types import BlockCausal, Cache, Policy
from experiments import common
from experiments.cache_block_size import attend_everywhere
from experiments.common import CountOption, ModelOption, OutputOption, Row, ThreadsOption

POLICIES: dict[str, Policy] = {
    "one a step": TopK(k=1),
    "two a step": TopK(k=2),
    "threshold 0.9": Threshold(0.9),
    "threshold 0.6": Threshold(0.6),
    "factor 1": Factor(1.0),
}
BLOCK, SUB_BLOCK, SMALL = Blocks(commit=True), Blocks(sub_block=8, commit=True), Blocks(8)
CAUSAL: dict[str, tuple[Blocks, Cache]] = {
    "blocks, prefix": (BLOCK, PrefixCache()),
    "sub-blocks, prefix": (SUB_BLOCK, PrefixCache()),
    "sub-blocks, dual, refreshed while\nthe first column is open (v2)": (SUB_BLOCK, DualCache(while_first=True)),
    "sub-blocks, dual": (SUB_BLOCK, DualCache()),
}
EVERYWHERE: dict[str, tuple[Blocks, Cache]] = {
    "attending everywhere, prefix": (SMALL, PrefixCache()),
    "attending everywhere, dual": (SMALL, DualCache()),
}


def _compare_caches(
    model: Any, policy: Policy, ways: dict[str, tuple[Blocks, Cache]], count: int, new: int
) -> list[Row]:
    """Each way beside no cache in the same windows."""
    asked = common.draw_problems(count)
    plain: dict[Blocks, tuple[Row, list[Any]]] = {}
    found = []
    for blocks, cache in ways.values():
        if blocks not in plain:
            plain[blocks] = common.measure_with_results(model, asked, Strategy(policy, blocks, NoCache()), new=new)
        base, expected = plain[blocks]
        row, results = common.measure_with_results(model, asked, Strategy(policy, blocks, cache), new=new)
        same = sum(a.output_ids == b.output_ids for a, b in zip(results, expected, strict=True)) / count
        found.append(
            {
                **row,
                "same": same,
                "without": base["accuracy"],
                "work": row["queries"] / row["tokens"] * base["tokens"] / base["queries"],
            }
        )
    return found


def _plot_differences(rows: list[Row], count: int, output: Path) -> None:
    pyplot = common.import_pyplot()
    figure, panels = pyplot.subplots(1, 3, figsize=(14, 5), sharey=True, layout="constrained")
    ways = list(dict.fromkeys(row["way"] for row in rows))
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    width = 0.8 / len(policies)
    for i, policy in enumerate(policies):
        here = {row["way"]: row for row in rows if row["policy"] == policy}
        places = [-place - (i - len(policies) / 2) * width for place in range(len(ways))]
        change = [here[w]["accuracy"] - here[w]["without"] for w in ways]
        for panel, values in zip(
            panels, ([here[w]["same"] for w in ways], change, [here[w]["work"] for w in ways]), strict=True
        ):
            panel.barh(places, values, width, label=policy)
    panels[0].set(xlabel="share of answers equal to those without a cache", xlim=(0, 1.02))
    panels[1].set(xlabel="change of the share of problems solved")
    panels[2].set(xlabel="query tokens per generated token,\nwith over without")
    panels[0].set_yticks([-place for place in range(len(ways))], ways)
    panels[1].axvline(0, color="0.4", linewidth=1)
    panels[2].axvline(1, color="0.4", linewidth=1)
    limit = max(0.1, *(abs(row["accuracy"] - row["without"]) for row in rows)) * 1.1
    panels[1].set_xlim(-limit, limit)
    for panel in panels:
        panel.grid(axis="y", visible=False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(policies))
    figure.suptitle(f"What a cache changes at equal policy and windows, {count} word problems")
    common.save_figure(figure, output)


def main(
    model: ModelOption = "embedded",
    count: CountOption = 100,
    threads: ThreadsOption = 1,
    output: OutputOption = Path("cache_equality.jsonl"),
) -> None:
    """Decode held-out problems by several policies, with and without caches, and compare the answers."""
    loaded: Any = common.load_model(model, threads)
    journal, console = common.MeasurementJournal(output, common.describe_setup(loaded, threads)), common.make_console()
    groups = [(loaded, CAUSAL, common.NEW)] if isinstance(loaded.geometry, BlockCausal) else []
    groups.append((attend_everywhere(loaded), EVERYWHERE, 32))
    turns = [(policy, *group) for group in groups for policy in POLICIES]
    rows = []
    for policy, network, ways, new in track(turns, console=console, description="decoding"):
        keys = [{"way": way, "policy": policy, "count": count, "new": new} for way in ways]
        rows += journal.rows(keys, _compare_caches, network, POLICIES[policy], ways, count, new)
    common.print_table(
        console,
        ("cache", "policy", "same", "exact", "without a cache", "certified", "× query tokens"),
        [
            [
                r["way"].replace("\n", " "), r["policy"], r["same"], r["accuracy"], r["without"],
                r["certified_share"], r["work"],
            ]
            for r in rows
        ],
        f"{count} word problems, against no cache at equal policy and windows",
    )  # fmt: skip
    _plot_differences(rows, count, output)


if __name__ == "__main__":
    typer.run(main)
