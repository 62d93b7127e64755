"""How often a step of each strategy lets the host wait for the device: the strategies, and the table of what they cost.

python -m tests.step_costs            # the table, in Markdown, as counted on the pretended device
python -m tests.step_costs Saber      # one row, and the lines that cause its waits and copies
"""

from __future__ import annotations

import sys
from collections import Counter
from statistics import median
from typing import Any, NamedTuple

import torch
from transformers import RepetitionPenaltyLogitsProcessor

from dllm import (
    WINO,
    AdaptiveBlocks,
    Blocks,
    CertaintyPrior,
    CreditDecoding,
    DelayedCache,
    DualCache,
    Factor,
    JointThreshold,
    JsonSchema,
    Pipeline,
    PrefixCache,
    Random,
    Regex,
    ReMDM,
    Request,
    Saber,
    Sampling,
    SlidingBlock,
    SlidingCache,
    Speculative,
    Stopping,
    Strategy,
    Threshold,
    TimeSchedule,
    TopK,
    VariableLength,
    VicinityCache,
)
from dllm.testing.device import StepCost, step_costs
from tests.processors.words import speaking
from tests.tiny import STOP

LLADA, V2, SDAR = "bidirectional", "block-causal-shift", "block-causal"
NEW = 24


class Case(NamedTuple):
    """A strategy and what its steps may cost.

    Attributes:
        geometry: Of the model.
        strategy: What is run.
        stalls: Most stalls of any step after the first.
        batch_size: Rows at a time; None: all.
        holes: The requests have columns between given ones to be written.
    """

    geometry: str
    strategy: Strategy
    stalls: int = 1
    batch_size: int | None = None
    holes: bool = False


def _blocks(policy: Any, cache: Any = DualCache(), how: Sampling = Sampling(), **options: Any) -> Strategy:
    return Strategy(policy, Blocks(8, **options), cache, how)


_DRAWN = Sampling(temperature=1.0, top_p=0.9)
_SURE = Threshold(0.3)
_SCHEMA = '{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}'

CASES: dict[str, Case] = {
    "Factor + Blocks + DualCache": Case(LLADA, _blocks(Factor(1.0))),
    "Threshold + sub-blocks, commit + PrefixCache, shifted": Case(
        V2, _blocks(_SURE, PrefixCache(), sub_block=4, commit=True)
    ),
    "Threshold + Blocks + PrefixCache, shifted": Case(V2, _blocks(_SURE, PrefixCache())),
    "Threshold + Blocks + PrefixCache": Case(SDAR, _blocks(_SURE, PrefixCache())),
    "sampling": Case(LLADA, _blocks(_SURE, how=_DRAWN)),
    "sampling + TopK(score=Random())": Case(LLADA, _blocks(TopK(k=2, score=Random()), how=_DRAWN)),
    "holes": Case(LLADA, _blocks(_SURE), holes=True),
    "TimeSchedule (Dream)": Case(LLADA, _blocks(TopK(pace=TimeSchedule()), steps=6)),
    "CertaintyPrior": Case(LLADA, _blocks(CertaintyPrior(TopK(k=2)))),
    "CreditDecoding": Case(LLADA, _blocks(_SURE, how=Sampling(processors=(CreditDecoding(),)))),
    "Saber": Case(LLADA, _blocks(Saber())),
    "WINO": Case(LLADA, _blocks(WINO(0.3, 0.3))),
    "ReMDM": Case(LLADA, _blocks(ReMDM(6), how=_DRAWN)),
    "JointThreshold": Case(LLADA, _blocks(JointThreshold(0.5, 0.3, post=1))),
    "Speculative(DualCache, 4)": Case(LLADA, _blocks(TopK(k=2), Speculative(DualCache(), drafts=4)), stalls=2),
    "AdaptiveBlocks": Case(LLADA, Strategy(_SURE, AdaptiveBlocks(8, tau=0.1, delimiters=(3, 7)), DualCache())),
    "VariableLength": Case(
        LLADA, Strategy(_SURE, VariableLength(8, initial=8, growth=4, ends=(STOP,)), DualCache()), stalls=2
    ),
    "Vicinity": Case(LLADA, _blocks(_SURE, VicinityCache(before=3, after=2))),
    "Delayed": Case(LLADA, _blocks(_SURE, DelayedCache(refresh=4))),
    "SlidingCache": Case(LLADA, _blocks(_SURE, SlidingCache(before=3, after=1))),
    "SlidingBlock": Case(LLADA, Strategy(_SURE, SlidingBlock(8), DualCache())),
    "Pipeline": Case(LLADA, Strategy(_SURE, Pipeline(8), PrefixCache())),
    "Regex": Case(LLADA, _blocks(TopK(k=2), how=Sampling(processors=(Regex("[ab01]*"),))), stalls=3),
    "JsonSchema": Case(
        LLADA,
        _blocks(TopK(k=2), how=Sampling(processors=(JsonSchema(_SCHEMA),))),
        stalls=3,
    ),
    "warper of transformers": Case(
        LLADA, _blocks(_SURE, how=Sampling(processors=(RepetitionPenaltyLogitsProcessor(1.2),)))
    ),
    "stop strings": Case(
        LLADA, Strategy(_SURE, Blocks(8), DualCache(), stopping=Stopping(strings=("bcbc",))), stalls=2
    ),
    "a queue (rows are refilled)": Case(LLADA, _blocks(_SURE), stalls=2, batch_size=2),
}  # fmt: skip


def requests(case: Case, b: int) -> list[Request]:
    """As many requests with prompts of different lengths."""
    made = []
    for i in range(b):
        prompt = tuple((3 * i + 5 * j) % 20 for j in range(6 + i % 4))
        made.append(Request(prompt, NEW, stop_ids=(STOP,), seed=i, holes=(2, 3) if case.holes else ()))
    return made


def run(case: Case, b: int) -> list[StepCost]:
    """What the steps of a strategy cost; in the first the rows are laid out too."""
    return step_costs(speaking(case.geometry), requests(case, b), case.strategy, batch_size=case.batch_size)


def _span(counts: list[int]) -> str:
    middle, most = median(counts), max(counts)
    return f"{middle:g}" if middle == most else f"{middle:g} (most {most})"


def _row(name: str, case: Case) -> str:
    cells = []
    for b in (8, 1):
        costs = run(case, b)[1:]
        counts = {
            name: [getattr(cost, name) if name == "kernels" else getattr(cost, name).total() for cost in costs]
            for name in ("waits", "stalls", "blocking", "copies", "kernels")
        }
        cells += [_span(some) for some in counts.values()]
    return f"| {name} | {' | '.join(cells)} |"


def _print_lines(case: Case) -> None:
    for kind in ("stalls", "blocking", "copies"):
        found = sum((getattr(cost, kind) for cost in run(case, 8)[1:]), Counter())
        for line, number in found.most_common():
            print(f"{kind:9} {number:4}  {line}")


def _print_table(names: list[str]) -> None:
    torch.set_num_threads(1)
    head = ["waits", "stalls", "blocking copies", "other copies", "kernels"]
    print("Medians over the steps, at batch 8 and at batch 1.\n")
    print("| strategy | " + " | ".join(f"{x}, 8" for x in head) + " | " + " | ".join(f"{x}, 1" for x in head) + " |")
    print("|---" * 11 + "|")
    for name in names:
        print(_row(name, CASES[name]), flush=True)


if __name__ == "__main__":
    _print_table(sys.argv[1:] or list(CASES))
    for one in sys.argv[1:]:
        _print_lines(CASES[one])
