"""Recorded runs of the published systems, replayed on a device.

A folder of recordings holds `FAMILY_cases.json` files and `checkpoints/` in the families' original formats: the
workshop's `shared/goldens` where it was carried, or the small folder beside this file, which `fixture.py` makes.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import dllm
from benchmarks.device.budget import Budget
from benchmarks.device.preflight import ROOT
from benchmarks.device.session import Row
from dllm import Request, Result
from tests.goldens import test_dream, test_fast_dllm_v2, test_llada, test_sdar
from tests.goldens.replay import Case, grouped, until

FIXTURE = Path(__file__).parent / "fixture"
PLACES = (ROOT / "shared" / "goldens", ROOT.parent / "shared" / "goldens", FIXTURE)
"""Where recordings are looked for: a folder that was carried, the workshop's, our own."""

FAMILIES: dict[str, ModuleType] = {
    "llada": test_llada, "dream": test_dream, "fast_dllm_v2": test_fast_dllm_v2, "sdar": test_sdar,
}  # fmt: skip
"""The tests that say which options a recorded case means, and which cases have equal ones."""

Group = tuple[str, list[Case]]
"""A family, and cases that one batch decodes."""


def found() -> Path:
    """The first folder of recordings that is there."""
    return next(place for place in PLACES if place.is_dir())


def groups(folder: Path, seed: int = 0) -> list[Group]:
    """All groups of cases, families in turn, in a seeded order within each: any beginning is a sample."""
    order = random.Random(seed)
    decks = []
    for family, module in FAMILIES.items():
        path = folder / f"{family}_cases.json"
        deck = grouped(json.loads(path.read_text())["cases"], module.settings) if path.is_file() else []
        order.shuffle(deck)
        decks.append([(family, group) for group in deck])
    return [group for round in zip_longest(*decks) for group in round if group is not None]


def requests(family: str, case: Case) -> list[Request]:
    """The rows that a case asks for."""
    if family in ("llada", "dream"):
        prompts = case["prompt"] if family == "llada" else case["prompt"][:1]
        return [Request(tuple(prompt), case["gen_length"]) for prompt in prompts]
    stop = () if case["stop_token"] is None else (case["stop_token"],)
    length = case["gen_length"] if family == "sdar" else len(case["output"]) - len(case["prompt"])
    return [Request(tuple(case["prompt"]), length, stop_ids=stop)]


def expected(family: str, case: Case) -> list[list[int]]:
    """The recorded tokens of each row, behind its prompt."""
    if family in ("llada", "dream"):
        return [out[len(prompt) :] for prompt, out in zip(case["prompt"], case["output"], strict=True)]
    if family == "fast_dllm_v2":
        return [case["completion"]]
    n = len(case["prompt"])
    return [until(case["output"][n : n + case["gen_length"]], case["stop_token"])]


def same_forwards(family: str, case: Case, results: list[Result]) -> bool:
    """Tell whether results took the recorded number of forwards, as the tests of the family count them."""
    if family == "llada":
        return bool(test_llada.lockstep_nfe(results, case["block_length"]) == case["nfe"])
    if family != "sdar":
        return bool(results[0].nfe == case["nfe"])
    want = expected(family, case)[0]
    return results[0].nfe == (test_sdar.forwards(case, len(want)) if results[0].stopped else case["nfe"] - 1)


@dataclass
class Replay:
    """Recordings in one precision, eager or compiled.

    Attributes:
        folder: Where the recordings are.
        device: Where they are decoded.
        dtype: Precision; in float32 every token and forward must be as recorded, in bfloat16 it is only counted.
        compiled: Whether forwards go through `torch.compile`.
        most: Groups at most.
        cases: Cases of a group at most.
    """

    folder: Path
    device: torch.device
    dtype: torch.dtype
    compiled: bool
    most: int | None = None
    cases: int | None = None
    models: dict[str, Any] = field(default_factory=dict)

    def rows(self, budget: Budget) -> Iterator[Row]:
        """A row a group, as many as fit into the budget, and how many were not reached."""
        chosen = groups(self.folder)[: self.most]
        if self.compiled:
            torch._dynamo.reset()  # one that was cut off in the middle leaves its graphs behind
        done = 0
        for done, (family, group) in enumerate(chosen, start=1):  # noqa: B007
            begun = time.monotonic()
            row = self.replay(family, group[: self.cases])
            settings = FAMILIES[family].settings(group[0])
            yield {"what": "recordings", **self.about(), "family": family, "settings": repr(settings)[:200], **row,
                   "seconds": round(time.monotonic() - begun, 2)}  # fmt: skip
            if budget.left < 0:
                break
        yield {"what": "recordings reached", **self.about(), "groups": done, "of": len(chosen)}

    def about(self) -> Row:
        return {"dtype": str(self.dtype).removeprefix("torch."), "compiled": self.compiled}

    def model(self, case: Case) -> Any:
        name = case["checkpoint"]
        if name not in self.models:
            self.models[name] = dllm.load(
                self.folder / "checkpoints" / name, mask_id=case["mask_id"], dtype=self.about()["dtype"],
                device=self.device, compile=self.compiled,
            )  # fmt: skip
        return self.models[name]

    def replay(self, family: str, group: list[Case]) -> Row:
        """Decode the cases of a group as one batch, and compare them with the recording."""
        model = self.model(group[0])
        new = 1 if family == "fast_dllm_v2" else group[0]["gen_length"]
        strategy = FAMILIES[family].options(group[0]).strategy(model, new)
        try:
            results = iter(dllm.decode(model, [r for case in group for r in requests(family, case)], strategy))
        except Exception as error:
            return {"outcome": "error", "cases": len(group), "error": f"{type(error).__name__}: {error}"[:300]}
        wrong, tokens, equal = [], 0, 0
        for case in group:
            wanted = expected(family, case)
            got = [next(results) for _ in wanted]
            pairs = [(g.output_ids, w) for g, w in zip(got, wanted, strict=True)]
            tokens += sum(len(w) for _, w in pairs)
            equal += sum(a == b for g, w in pairs for a, b in zip(g, w, strict=False))
            if any(list(g) != w for g, w in pairs) or not same_forwards(family, case, got):
                wrong.append(case["id"])
        return {
            "outcome": "differs" if wrong else "equal", "cases": len(group), "different": len(wrong), "ids": wrong[:5],
            "tokens": tokens, "equal_tokens": equal,
        }  # fmt: skip
