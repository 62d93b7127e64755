"""Writes the sets of questions that `dllm sweep` knows by name: held-out word problems of the embedded model.

Question: none; this makes data of `experiments/embedded_text.py`, so that a sweep needs no file and no download.
Method:   the held-out stream of two seeds, each prompt once; what the first set has is not in the second.
Run:      python -m experiments.sweep_questions
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice

from dllm.sweeps.questions import DATA
from experiments.embedded_text import Example, generate_examples

SETS = {"word-problems": ("report", 300), "word-problems-calibration": ("calibration", 200)}


def make_lines(name: str) -> list[str]:
    """The lines of a set."""
    seen: set[str] = set()
    for other, (seed, count) in SETS.items():
        found = list(islice(_draw_unseen_problems(seed, seen), count))
        if other == name:
            return [json.dumps({"prompt": e.prompt, "answer": e.answer}) + "\n" for e in found]
    raise KeyError(name)


def _draw_unseen_problems(seed: str, seen: set[str]) -> Iterator[Example]:
    """Held-out word problems that were not seen yet."""
    for example in generate_examples(seed, held=True, kinds=("word",)):
        if example.prompt not in seen:
            seen.add(example.prompt)
            yield example


if __name__ == "__main__":
    DATA.mkdir(exist_ok=True)
    for name in SETS:
        (DATA / f"{name}.jsonl").write_text("".join(make_lines(name)))
