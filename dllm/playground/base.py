"""What a task is: prompts from a seed, a verifier, and the limit that its dependencies set for any decoder."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from dllm.errors import ConfigError
from dllm.playground.limits import Answer, Values, best_accuracy, fewest_forwards

HELD_OUT_EVERY = 16
"""One prompt in this many is never trained on; a hash of the prompt decides."""

ENUMERABLE = 8
"""Most symbols of an answer for which limits without a formula are computed by going through all orders."""


@dataclass(frozen=True)
class Example:
    """One prompt of a task with one right answer.

    Attributes:
        prompt: What the model is given.
        reference: A right answer; where several are right, one drawn uniformly from them.
        size: The size it was drawn at; what it counts is the task's to say.
        infill: The prompt is a text with holes (`__`, one token each) that is taken without a chat template.
        facts: What the verifier needs to know besides the prompt.
    """

    prompt: str
    reference: str
    size: int
    infill: bool = False
    facts: tuple[str, ...] = ()


class Task(ABC):
    """A source of prompts with a verifier, and what is known of how far its answers can be decoded in parallel.

    A subclass sets the class attributes and writes `draw` and `is_right`; it writes `answers` where they can be listed,
    and `limit` and `best_accuracy` where it has formulas for them.

    Attributes:
        name: How it is asked for: `playground/NAME`.
        title: What the model has to do, in one sentence.
        structure: How the symbols of a right answer depend on each other, in one sentence.
        sizes: Sizes that the embedded models are trained on.
        default_size: The size where none is asked for.
        tokens: Most tokens of an answer at the largest of `sizes`, the end token included, with the embedded tokenizer.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    structure: ClassVar[str]
    sizes: ClassVar[tuple[int, ...]]
    default_size: ClassVar[int]
    tokens: ClassVar[int] = 32

    @abstractmethod
    def draw(self, rng: Random, size: int, held_out: bool) -> Example:
        """Draw one example.

        Args:
            rng: The only source of randomness.
            size: One of those the task can have.
            held_out: Whether the example is for evaluation; only tasks with wordings and names of their own heed it.
        """

    @abstractmethod
    def is_right(self, example: Example, text: str) -> bool:
        """Tell whether a model's text answers the prompt; every right answer counts, not only the reference."""

    def answers(self, example: Example) -> Iterator[Answer]:
        """All right answers, each as its symbols; every symbol is one token of the embedded tokenizer.

        By default the reference is the only one, as one symbol.
        """
        yield (example.reference,)

    def limit(self, example: Example, values: Values = "drawn") -> int | None:
        """The fewest forwards in which a perfect model is right with certainty; None where it is not known.

        The model's marginals are exact, and a decoder decides from them alone where to write (see
        `dllm.playground.limits`).

        Args:
            example: The example that is decoded.
            values: What is written there: a symbol "drawn" from the marginal, or, "greedy", the most probable one.
        """
        found = self._enumerate_answers(example)
        return fewest_forwards(found, values) if found else None

    def best_accuracy(self, example: Example, forwards: int, values: Values = "drawn") -> float | None:
        """The highest probability of a right answer with that many forwards of a perfect model; None: not known."""
        limit = self.limit(example, values)
        if limit is not None and forwards >= limit:
            return 1.0
        found = self._enumerate_answers(example)
        return best_accuracy(found, forwards, values) if found else None

    def _enumerate_answers(self, example: Example) -> list[Answer]:
        """All right answers where they are short enough to go through every order; else none."""
        first = next(iter(self.answers(example)))
        return list(self.answers(example)) if len(first) <= ENUMERABLE else []

    def examples(
        self, seed: int | str, size: int | None = None, count: int = 1, *, held_out: bool = True
    ) -> tuple[Example, ...]:
        """The first `count` examples of a seed; each depends on the seed and its own number alone.

        Args:
            seed: Any number or name.
            size: What is counted differs by task; None: `default_size`.
            count: How many.
            held_out: True: prompts that the embedded models were never trained on. False: those they may have met.
        """
        size = self.default_size if size is None else size
        return tuple(self.example(f"{seed}-{number}", size, held_out) for number in range(count))

    def example(self, seed: int | str, size: int, held_out: bool = True) -> Example:
        """The example of one seed. Raises ConfigError for a size that the task cannot have."""
        rng = Random(f"{self.name}-{size}-{seed}-{held_out}")
        for _ in range(10_000):
            found = self.draw(rng, size, held_out)
            if is_held_out(found.prompt) == held_out:
                return found
        raise ConfigError(
            f"playground/{self.name}: size {size} has no {'held-out' if held_out else 'training'} prompts"
        )


class OneAnswer(Task):
    """A task whose prompt leaves nothing open: one answer is right, so a perfect model gives it in one forward."""

    def is_right(self, example: Example, text: str) -> bool:
        return text.strip() == example.reference

    def limit(self, example: Example, values: Values = "drawn") -> int:
        return 1


def is_held_out(prompt: str) -> bool:
    """Tell whether a prompt belongs to the evaluation split, decided by its SHA-256."""
    return hashlib.sha256(prompt.encode()).digest()[0] % HELD_OUT_EVERY == 0


def check_size(task: Task, size: int, low: int, high: int) -> None:
    """Raises ConfigError for a size outside what a task can have."""
    if not low <= size <= high:
        raise ConfigError(f"playground/{task.name}: size {size} must lie in {low}..{high}")
