"""Requests of the harness as tasks of a job, with the settings that a task of the harness may bring."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dllm.caches import NoCache
from dllm.compose.options import Options
from dllm.errors import ConfigError, RequestError
from dllm.integrations.harness.context_limit import ContextLimit
from dllm.integrations.harness.settings import HarnessSettings
from dllm.jobs import Autoregressive, DecodeTask, Job, PromptRow
from dllm.policies import TopK
from dllm.strategy import Sampling, Strategy

DEFAULT_LENGTH = 256
"""New tokens where neither the user nor the task sets their number, as in lm-eval."""
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens")
SAMPLING = ("temperature", "top_p", "top_k")
KNOWN = ("until", *LENGTHS, "do_sample", *SAMPLING)
SEED_STRIDE = 2**40
"""Distance between the seeds of a document's repeated samples."""


@dataclass(frozen=True)
class GenerationArguments:
    """Settings of one answer that its task brings.

    Attributes:
        until: Texts that end it.
        max_new_tokens: Most tokens.
        sampling: Pairs of name and value for temperature, top_p and top_k; empty where the task is greedy.
    """

    until: tuple[str, ...]
    max_new_tokens: int
    sampling: tuple[tuple[str, Any], ...]

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> GenerationArguments:
        """Read a task's `generation_kwargs`.

        Raises:
            ConfigError: For an argument that has no meaning here.
        """
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
            int(lengths[0]) if lengths else DEFAULT_LENGTH,
            sampling if given.get("do_sample") else (),
        )

    def options(self, options: Options) -> Options:
        """Merge the task's settings into the user's options; where both set a sampling option the user's counts."""
        free = {n: v for n, v in self.sampling if getattr(options, n) is None}
        stop = (*options.stop, *(text for text in self.until if text not in options.stop))
        return replace(options, stop=stop, **free)


def make_sequential_plan(plan: Strategy | Autoregressive) -> Strategy | Autoregressive:
    """Make the reference of a plan: the most confident token of each step, without a cache, in the same blocks."""
    if isinstance(plan, Autoregressive):
        return plan
    scheduler: Any = plan.scheduler
    # Steps are planned for policies with a pace, and the reference has none. Schedulers of other packages may plan
    # steps too.
    if scheduler.steps is not None:
        scheduler = replace(scheduler, steps=None)
    return Strategy(TopK(k=1), scheduler, NoCache(), Sampling(processors=plan.sampling.processors), plan.stopping)


class GenerationTaskBuilder:
    """Turns requests of the harness into tasks.

    Args:
        model: Model that will decode.
        settings: Settings of the evaluation.
        encode: Function that returns the token ids of a prompt.
        limit: Room for a prompt and its answer.
    """

    def __init__(
        self, model: Any, settings: HarnessSettings, encode: Callable[[str], Sequence[int]], limit: ContextLimit
    ) -> None:
        self.model, self.settings, self.encode, self.limit = model, settings, encode, limit
        self.jobs: dict[GenerationArguments, Job] = {}

    def job(self, arguments: GenerationArguments) -> Job:
        """Return the job for answers of a kind."""
        if arguments not in self.jobs:
            length = self.settings.max_new_tokens or arguments.max_new_tokens
            self.jobs[arguments] = self.settings.job(arguments.options(self.settings.options), length)
        return self.jobs[arguments]

    def tasks(self, requests: Sequence[Any]) -> list[DecodeTask]:
        """Make one task for each request, in order, before any forward.

        A request that comes again, to fill up a batch, becomes the same task.

        Raises:
            RequestError: For a prompt that does not fit.
            ConfigError: For settings that cannot work.
        """
        seen: Counter[str] = Counter()
        return [self._make_task(place, request, seen) for place, request in enumerate(requests)]

    def _make_task(self, place: int, request: Any, seen: Counter[str]) -> DecodeTask:
        text, given = request.args
        document = request.doc_id if request.doc_id is not None else place
        name = f"{request.task_name or 'request'}/{document}"
        # With several processes lm-eval repeats a request until all of them have equally many; a repetition beyond
        # those that the task wants is the first sample again.
        repeat = seen[name] % (request.repeats or 1)
        seen[name] += 1
        arguments = GenerationArguments.read(given)
        job = self.job(arguments)
        ids, new = self.encode(text), job.max_new_tokens
        description = f"{name}: a prompt of {len(ids)} tokens and {new} new ones"
        row = PromptRow(
            line=place + 1,
            place=document,
            id=name if (request.repeats or 1) == 1 else f"{name}/{repeat}",
            prompt=self.limit.fit(ids, new, description, "give fewer shots or new tokens"),
            max_new_tokens=new,
            seed=self.settings.seed + document + SEED_STRIDE * repeat,
        )
        try:
            return job.task(self.model, row)
        except RequestError as error:
            raise RequestError(f"{name}: {error}") from None
