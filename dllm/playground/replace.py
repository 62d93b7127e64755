"""Replace any one word of a list: every place most probably keeps its word, yet one of them must change."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from random import Random

from dllm.playground.base import Example, Task, check_size
from dllm.playground.limits import Answer, Values
from dllm.playground.words import WORDS, draw_words, read_words


class Replace(Task):
    """A list of `size` words, to be written again with any one of them replaced by a given word.

    A rule that commits the most confident words writes every old word again, since each place keeps its word with
    probability 1 - 1/size, and the result is wrong.
    """

    name = "replace"
    title = "Write a list of words again, with any one of them replaced by a given word."
    structure = "Exactly one place changes: a place may keep its word only if another one does not."
    sizes = tuple(range(2, 11))
    default_size = 6

    def draw(self, rng: Random, size: int, held_out: bool) -> Example:
        check_size(self, size, 1, len(WORDS) - 1)
        new, *words = draw_words(rng, size + 1)
        place = rng.randrange(size)
        answer = [*words[:place], new, *words[place + 1 :]]
        return Example(f"Replace one by {new}: {' '.join(words)}", " ".join(answer), size)

    def is_right(self, example: Example, text: str) -> bool:
        return tuple(text.split()) in self.answers(example)

    def answers(self, example: Example) -> Iterator[Answer]:
        new, words = example.prompt.partition(":")[0].split()[-1], read_words(example.prompt)
        for place in range(len(words)):
            yield (*words[:place], new, *words[place + 1 :])

    def limit(self, example: Example, values: Values = "drawn") -> int:
        return example.size if values == "drawn" else min(example.size, 2)

    def best_accuracy(self, example: Example, forwards: int, values: Values = "drawn") -> float:
        if values == "drawn":
            return _best(example.size, forwards)
        # From three words on, every place keeps its word while another one may still change. Only a place that is
        # written last and alone gets the new word; two words are a tie, which chance decides rightly half the time.
        return 1.0 if forwards >= self.limit(example, values) else 0.5 if example.size == 2 else 0.0


@cache
def _best(places: int, forwards: int) -> float:
    """Compute the best accuracy where one of `places` must still change; of a group drawn at once at most one may."""
    if not forwards:
        return 0.0
    chance, best = 1 / places, 0.0
    for group in [places] if forwards == 1 else range(1, places + 1):
        one = group * chance * (1 - chance) ** (group - 1)  # then all other places are determined
        none = (1 - chance) ** group if group < places else 0.0
        settled = 1.0 if forwards > 1 or group == places else 0.0
        best = max(best, one * settled + none * _best(places - group, forwards - 1) if group < places else one)
    return best
