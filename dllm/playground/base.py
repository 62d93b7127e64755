"""The base class of tasks: prompts from a seed, a verifier, and the limit that dependencies set for any decoder."""

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
"""Most symbols of an answer for which limits without a formula are computed by trying all orders."""


@dataclass(frozen=True)
class Example:
    """One prompt of a task with one right answer.

    Attributes:
        prompt: Text that the model is given.
        reference: A right answer; where several are right, one drawn uniformly from them.
        size: Size that the example was drawn at; each task defines its unit.
        infill: The prompt is a text with holes (`__`, one token each), to be used without a chat template.
        facts: Facts that the verifier needs besides the prompt.
    """

    prompt: str
    reference: str
    size: int
    infill: bool = False
    facts: tuple[str, ...] = ()


class Task(ABC):
    """A source of prompts with a verifier, and with the limit to which its answers can be decoded in parallel.

    A subclass sets the class attributes and writes `draw` and `is_right`; it writes `answers` where they can be listed,
    and `limit` and `best_accuracy` where it has formulas for them.

    Attributes:
        name: Name of the task, which is used as `playground/NAME`.
        title: Instruction to the model, in one sentence.
        structure: Dependencies between the symbols of a right answer, in one sentence.
        sizes: Sizes that the embedded models are trained on.
        default_size: Size that is used where none is given.
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
            size: Size of the example.
            held_out: The example is for evaluation; only tasks that hold out whole wordings and names use this.

        Raises:
            ConfigError: The task cannot have that size.
        """

    @abstractmethod
    def is_right(self, example: Example, text: str) -> bool:
        """Return True if a text answers the example's prompt; every right answer counts, not only the reference."""

    def answers(self, example: Example) -> Iterator[Answer]:
        """Iterate over all right answers, each as its symbols; a symbol is one token of the embedded tokenizer.

        By default the reference is the only one, as one symbol.
        """
        yield (example.reference,)

    def limit(self, example: Example, values: Values = "drawn") -> int | None:
        """Compute the fewest forwards in which a perfect model is right with certainty.

        The model's marginals are exact, and a decoder decides from them alone where to write (see
        `dllm.playground.limits`).

        Args:
            example: The example that is decoded.
            values: Symbol that is written at a chosen position: "drawn" from the marginal, or "greedy", the most
                probable one.

        Returns:
            The number of forwards, or None if it is not known.
        """
        found = self._enumerate_answers(example)
        return fewest_forwards(found, values) if found else None

    def best_accuracy(self, example: Example, forwards: int, values: Values = "drawn") -> float | None:
        """Compute the highest probability of a right answer in a number of forwards of a perfect model.

        Args:
            example: The example that is decoded.
            forwards: Number of forwards, at least 1.
            values: As in `limit`.

        Returns:
            The probability, or None if it is not known.
        """
        limit = self.limit(example, values)
        if limit is not None and forwards >= limit:
            return 1.0
        found = self._enumerate_answers(example)
        return best_accuracy(found, forwards, values) if found else None

    def _enumerate_answers(self, example: Example) -> list[Answer]:
        """List all right answers if they are short enough to try every order of decoding; else return an empty list."""
        first = next(iter(self.answers(example)))
        return list(self.answers(example)) if len(first) <= ENUMERABLE else []

    def examples(
        self, seed: int | str, size: int | None = None, count: int = 1, *, held_out: bool = True
    ) -> tuple[Example, ...]:
        """Draw the first `count` examples of a seed; each depends only on the seed and on its own number.

        Args:
            seed: Any number or name.
            size: Size of the examples; None: `default_size`.
            count: Number of examples.
            held_out: True: prompts that the embedded models were never trained on. False: prompts of the training
                split.

        Raises:
            ConfigError: The task cannot have that size, or has no prompts of that split at that size.
        """
        size = self.default_size if size is None else size
        return tuple(self.example(f"{seed}-{number}", size, held_out) for number in range(count))

    def example(self, seed: int | str, size: int, held_out: bool = True) -> Example:
        """Draw one example; see `examples`."""
        rng = Random(f"{self.name}-{size}-{seed}-{held_out}")
        for _ in range(10_000):  # a small task may have no prompt whose hash puts it into the split
            found = self.draw(rng, size, held_out)
            if is_held_out(found.prompt) == held_out:
                return found
        raise ConfigError(
            f"playground/{self.name}: size {size} has no {'held-out' if held_out else 'training'} prompts"
        )


class OneAnswer(Task):
    """A task whose prompt determines the answer, so that a perfect model gives it in one forward."""

    def is_right(self, example: Example, text: str) -> bool:
        return text.strip() == example.reference

    def limit(self, example: Example, values: Values = "drawn") -> int:
        return 1


def is_held_out(prompt: str) -> bool:
    """Return True if a prompt belongs to the evaluation split, which its SHA-256 decides."""
    return hashlib.sha256(prompt.encode()).digest()[0] % HELD_OUT_EVERY == 0


def check_size(task: Task, size: int, low: int, high: int) -> None:
    """Raise ConfigError for a size outside the range that a task can have."""
    if not low <= size <= high:
        raise ConfigError(f"playground/{task.name}: size {size} must lie in {low}..{high}")
