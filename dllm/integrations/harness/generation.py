"""What the harness asks to be written: its requests as tasks of a job, and the settings that a task of it may bring."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dllm.caches import NoCache
from dllm.compose.options import Options
from dllm.errors import ConfigError, RequestError
from dllm.integrations.harness.settings import HarnessSettings
from dllm.jobs import Autoregressive, DecodeTask, Job, PromptRow
from dllm.policies import TopK
from dllm.strategy import Sampling, Strategy

LENGTH = 256
"""New tokens where neither the user nor the task says how many, as lm-eval has it."""
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens")
SAMPLING = ("temperature", "top_p", "top_k")
KNOWN = ("until", *LENGTHS, "do_sample", *SAMPLING)
APART = 2**40
"""Seeds of a document's repeated samples lie so far apart."""


@dataclass(frozen=True)
class GenerationArguments:
    """How one answer is to be written.

    until           texts that end it
    max_new_tokens  most tokens
    sampling        the task's temperature, top_p and top_k; nothing where the task is greedy
    """

    until: tuple[str, ...]
    max_new_tokens: int
    sampling: tuple[tuple[str, Any], ...]

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> GenerationArguments:
        """From a task's `generation_kwargs`. Raises ConfigError for one that has no meaning here."""
        if given.get("num_beams", 1) != 1 or (bad := [n for n in given if n not in (*KNOWN, "num_beams")]):
            name = "num_beams" if given.get("num_beams", 1) != 1 else bad[0]
            raise ConfigError(
                f"generation_kwargs {name}={given[name]!r} has no meaning for a diffusion model: "
                f"it takes {', '.join(KNOWN)}"
            )
        until = given.get("until") or ()
        texts = (until,) if isinstance(until, str) else tuple(until)
        lengths = [given[name] for name in LENGTHS if given.get(name) is not None]
        sampling = tuple((name, given[name]) for name in SAMPLING if given.get(name) is not None)
        sampling = (("temperature", 1.0), *sampling) if "temperature" not in given else sampling
        return cls(
            tuple(text for text in texts if text),
            int(lengths[0]) if lengths else LENGTH,
            sampling if given.get("do_sample") else (),
        )

    def options(self, options: Options) -> Options:
        """The user's options with what the task wants; where both set a sampling option the user's counts."""
        free = {n: v for n, v in self.sampling if getattr(options, n) is None}
        stop = (*options.stop, *(text for text in self.until if text not in options.stop))
        return replace(options, stop=stop, **free)


def make_sequential_plan(plan: Strategy | Autoregressive) -> Strategy | Autoregressive:
    """The reference of a plan: one token a step, the most confident, without a cache, in the same blocks."""
    if isinstance(plan, Autoregressive):
        return plan
    scheduler: Any = plan.scheduler
    if getattr(scheduler, "steps", None) is not None:
        scheduler = replace(scheduler, steps=None)
    return Strategy(TopK(k=1), scheduler, NoCache(), Sampling(processors=plan.sampling.processors), plan.stopping)


class GenerationTaskBuilder:
    """Turns requests of the harness into tasks.

    encode  token ids of a prompt
    """

    def __init__(self, model: Any, settings: HarnessSettings, encode: Callable[[str], Sequence[int]]) -> None:
        self.model, self.settings, self.encode = model, settings, encode
        self.jobs: dict[GenerationArguments, Job] = {}
        self.truncated = 0

    def job(self, wish: GenerationArguments) -> Job:
        """How answers of a kind are decoded."""
        if wish not in self.jobs:
            length = self.settings.max_new_tokens or wish.max_new_tokens
            self.jobs[wish] = self.settings.job(wish.options(self.settings.options), length)
        return self.jobs[wish]

    def tasks(self, requests: Sequence[Any]) -> list[DecodeTask]:
        """One task for each request, in order. A request that comes again, to fill up a batch, is the same task.

        Raises RequestError for a prompt that does not fit, ConfigError for settings that cannot work; before any
        forward.
        """
        seen: Counter[str] = Counter()
        return [self.task(place, request, seen) for place, request in enumerate(requests)]

    def task(self, place: int, request: Any, seen: Counter[str]) -> DecodeTask:
        text, given = request.args
        document = request.doc_id if request.doc_id is not None else place
        name = f"{request.task_name or 'request'}/{document}"
        repeat = seen[name] % (request.repeats or 1)
        seen[name] += 1
        wish = GenerationArguments.read(given)
        job = self.job(wish)
        row = PromptRow(
            line=place + 1,
            place=document,
            id=name if (request.repeats or 1) == 1 else f"{name}/{repeat}",
            prompt=self.fitted(name, self.encode(text), job.max_new_tokens),
            max_new_tokens=job.max_new_tokens,
            seed=self.settings.seed + document + APART * repeat,
        )
        try:
            return job.task(self.model, row)
        except RequestError as error:
            raise RequestError(f"{name}: {error}") from None

    def fitted(self, name: str, ids: Sequence[int], new: int) -> tuple[int, ...]:
        """The prompt, or its end if it is to be truncated."""
        room = self.room() - new
        if len(ids) <= room:
            return tuple(ids)
        if not self.settings.truncate or room < 1:
            raise RequestError(
                f"{name}: a prompt of {len(ids)} tokens and {new} new ones do not fit the {self.room()} columns of "
                f"{self.settings.pretrained}: give fewer shots or new tokens, or truncate=True to cut off its beginning"
            )
        self.truncated += 1
        return tuple(ids[len(ids) - room :])

    def room(self) -> int:
        """Columns of the longest canvas, in whole blocks."""
        size = getattr(getattr(self.model, "geometry", None), "size", 1)
        return math.floor(self.model.max_columns / size) * size
