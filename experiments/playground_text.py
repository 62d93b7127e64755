"""Training texts of the embedded models: the playground's tasks in a fixed mixture, and talk that they cannot answer.

Everything is generated here and in `dllm.playground`; nothing is downloaded, so no licence applies but this project's.
Batch number i of a seed is a function of both alone, so that a resumed run has the same batches as one without a stop.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

from dllm.playground import Example, Task, task
from dllm.training.tokenizer import build_word_tokenizer
from experiments.playground_talk import POLITE, draw_talk

VOCABULARY = 1024
MIXTURE = {
    "problems": 28, "questions": 12, "talk": 4, "copy": 1, "reverse": 2, "sort": 5, "shuffle": 4, "replace": 4,
    "insert": 3, "remove": 2, "pairs": 4, "latin": 3, "sudoku4": 4, "sudoku6": 7, "sum": 6, "carries": 3, "star": 7,
    "brackets": 2, "agreement": 4,
}  # fmt: skip
"""Relative frequency of each task; `talk` is answered by the polite sentence."""

SPELT = ("talk", "brackets", "latin", "sudoku4", "sudoku6")
"""Tasks whose texts are not used to build the vocabulary."""


class Sample(NamedTuple):
    """One training example.

    Attributes:
        task: Name of its task.
        prompt: Text before the answer, which is not learnt; None: a document without a chat.
        answer: Text that is learnt.
    """

    task: str
    prompt: str | None
    answer: str


class Mixture:
    """Training examples of all tasks, in a stream for each batch number."""

    def __init__(self, seed: int | str = 0) -> None:
        self.seed = seed
        self.tasks: dict[str, Task] = {name: task(name) for name in MIXTURE if name != "talk"}

    def samples(self, batch: int) -> Iterator[Sample]:
        """Iterate without end over the examples of a batch."""
        rng = Random(f"playground-{self.seed}-{batch}")
        names, weights = tuple(MIXTURE), tuple(MIXTURE.values())
        while True:
            yield self._sample(rng, *rng.choices(names, weights))

    def _sample(self, rng: Random, name: str) -> Sample:
        if name == "talk":
            return Sample(name, draw_talk(rng), POLITE)
        found = self.tasks[name]
        example = found.example(rng.getrandbits(64), rng.choice(found.sizes), held_out=False)
        return Sample(name, None if example.infill else example.prompt, example.reference)


def build_tokenizer(samples: int = 30_000) -> Any:
    """Build a tokenizer of the words of the first `samples` examples; it spells all else in bytes."""

    def texts() -> Iterator[str]:
        yield from [POLITE] * 1000  # its words are tokens, though few of them come elsewhere
        stream = Mixture("words").samples(0)
        for _ in range(samples):
            sample = next(stream)
            if sample.task not in SPELT:
                yield sample.prompt or ""
                yield sample.answer

    return build_word_tokenizer(texts(), VOCABULARY)


__all__ = ["MIXTURE", "Example", "Mixture", "Sample", "build_tokenizer"]
