"""Our models as a model of lm-eval: `--model dllm`."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from dllm.errors import ConfigError

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise ConfigError(f"evaluation needs lm-eval ({error}): pip install 'dllm[eval]'") from None

from tqdm import tqdm

from dllm.integrations.harness.generation import GenerationTaskBuilder, make_sequential_plan
from dllm.integrations.harness.likelihood_store import LikelihoodJournal
from dllm.integrations.harness.processes import detect_processes
from dllm.integrations.harness.settings import HarnessSettings
from dllm.jobs import DecodeTask, Event, Journal, RowDone, RowFailed, decode_tasks
from dllm.likelihood import PromptContinuation, estimate_likelihoods
from dllm.metrics import result_to_record
from dllm.models import AutoregressiveModel, load
from dllm.models.transformer import TransformerModel
from dllm.types import BlockCausal

Records = dict[str, list[dict[str, Any]]]
Watch = Callable[[str, int, int], None]
"""Told of progress: what is being done, how much of it is done, and how much there is."""


@register_model("dllm")
class DiffusionLM(TemplateLM):
    """A checkpoint of any family, decoding by any strategy.

    All requests of a call are decoded as one queue: a row that is finished gives its place to the next request, so the
    order in which lm-eval hands them over and the size of its batches change neither answers nor throughput.

    arguments  names of `Settings` and of `dllm.options.Options`, as `--model_args` gives them; a name that is neither
               is an error that lists the right ones

    records     by task: the line of every answer (`dllm.metrics.record`)
    references  likewise of sequential greedy decoding, where the agreement with it is asked for
    seconds     of wall time that this process took for the answers of a task, by what they are and its name
    fresh       how many answers those were; others are from an earlier run
    """

    def __init__(self, max_batch_size: int | None = None, **arguments: Any) -> None:
        if max_batch_size is not None:
            raise ConfigError("max_batch_size: no size is searched for here; give batch_size alone")
        if arguments.get("device") == "cuda:0":
            del arguments["device"]  # lm-eval's command says so where nobody did; it is our default where it exists
        self.start(HarnessSettings.read(arguments))

    @classmethod
    def of(cls, settings: HarnessSettings, watch: Watch | None = None) -> DiffusionLM:
        """From settings that are checked already."""
        made = cls.__new__(cls)
        made.start(settings, watch)
        return made

    def start(self, settings: HarnessSettings, watch: Watch | None = None) -> None:
        super().__init__()
        self.processes = detect_processes(settings.device)
        self.settings, self.watch = settings, watch
        loading = settings.loading | {"device": self.processes.device(settings.device)}
        self.model: Any = load(settings.pretrained, **loading)
        if settings.guidance:
            self.model = settings.job(settings.options, 1).guided(self.model)
        self.tokenizer = self.model.tokenizer
        if self.tokenizer is None:
            raise ConfigError(f"{settings.pretrained}: the tasks are texts, and this checkpoint has no tokenizer")
        self._rank, self._world_size, self._device = self.processes.rank, self.processes.count, self.model.device
        self.folder = None if settings.output is None else Path(settings.output)
        self.records: Records = defaultdict(list)
        self.references: Records = defaultdict(list)
        self.seconds: dict[tuple[str, str], float] = defaultdict(float)
        self.fresh: Counter[tuple[str, str]] = Counter()
        self.truncated = 0

    # --- texts -------------------------------------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        stops = tuple(self.model.stop_ids)
        return stops[0] if stops else int(self.tokenizer.eos_token_id or 0)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that nothing comes before."""
        return self.eot_token_id if self.tokenizer.bos_token_id is None else int(self.tokenizer.bos_token_id)

    @property
    def tokenizer_name(self) -> str:
        return self.settings.pretrained.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids. A text that begins with a special token, as chat templates write them, gets no others."""
        if add_special_tokens is None:
            special = [str(t) for t in self.tokenizer.added_tokens_decoder.values() if t.special]
            add_special_tokens = not any(string.startswith(text) for text in special)
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text of a chat; without a generation prompt its last message is left open for the model to continue."""
        if not getattr(self.tokenizer, "chat_template", None):
            raise ConfigError(f"{self.settings.pretrained} has no chat template: leave --apply-chat-template out")
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    # --- writing -----------------------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The answer to each request. What an earlier run has left in the output folder is not decoded again."""
        writer = GenerationTaskBuilder(self.model, self.settings, self.tok_encode)
        tasks = writer.tasks(requests)
        self.truncated += writer.truncated
        alone = list({task.row.id: task for task in tasks}.values())
        texts = self.written(alone, "answers", self.records, disable_tqdm)
        if self.settings.agreement:
            twins = [task._replace(plan=make_sequential_plan(task.plan)) for task in alone]
            self.written(twins, "reference", self.references, disable_tqdm)
        for request, task in zip(requests, tasks, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, texts[task.row.id])
        return [texts[task.row.id] for task in tasks]

    def written(
        self, tasks: list[DecodeTask], what: str, records: Records, disable_tqdm: bool = False
    ) -> dict[Any, str]:
        """The text of each task, by its name. Tasks are decoded as one queue; each answer is kept when it is final."""
        texts: dict[Any, str] = {}

        def keep(line: dict[str, Any]) -> None:
            texts[line["id"]] = line["text"]
            records[_get_task_name(line["id"])].append(line)

        with ExitStack() as stack:
            journal = self.journal(stack, what)
            todo = tasks if journal is None else journal.resume(tasks)
            for line in () if journal is None else _read_journal_lines(journal.path):
                keep(line)
            show = self.progress(stack, what, len(tasks), len(tasks) - len(todo), disable_tqdm)
            clock = time.perf_counter()
            for done in _iterate_answers(decode_tasks(self.model, todo, self.settings.batch_size)):
                if journal is not None:
                    journal.write(done)
                task, result, provenance = done
                keep(result_to_record(result, task.plan, provenance, task.row.id, task.request.seed))
                now = time.perf_counter()
                self.seconds[what, _get_task_name(task.row.id)] += now - clock
                self.fresh[what, _get_task_name(task.row.id)] += 1
                clock = now
                show()
        return texts

    def journal(self, stack: ExitStack, what: str) -> Journal | None:
        """The file of finished answers, one for each process."""
        if self.folder is None:
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        made = self.settings.made | {"max_new_tokens": self.settings.max_new_tokens, "processes": self.world_size}
        return stack.enter_context(Journal(self.folder / f"{what}.{self.rank}.jsonl", made))

    # --- judging -----------------------------------------------------------------------------------------------------

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether greedy decoding would write it."""
        pairs = [PromptContinuation(tuple(context), tuple(continuation)) for _, context, continuation in requests]
        found = self.judge([self.fitted(pair) for pair in pairs], disable_tqdm)
        answers = [(value, bool(greedy)) for value, greedy in found]
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", request[0], answer)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in windows of the model's context, each given what is before it in there."""
        pairs, owner = [], []
        for i, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0], add_special_tokens=False)
            length = self.room()
            for window in get_rolling_token_windows(tokens, self.prefix_token_id, length - 1, 1):
                context, continuation = make_disjoint_window(window)
                pairs.append(PromptContinuation(tuple(context), tuple(continuation)))
                owner.append(i)
        totals = [0.0] * len(requests)
        for i, (value, _) in zip(owner, self.judge(pairs, disable_tqdm, greedy=False), strict=True):
            totals[i] += value
        return totals

    def judge(
        self, pairs: Sequence[PromptContinuation], disable_tqdm: bool, greedy: bool = True
    ) -> list[tuple[float, bool | None]]:
        """Likelihoods of pairs in order; longest first, so that rows of a batch are alike and memory runs out early."""
        with _adapt_causal_model(self.model) as model:
            return self.judge_by(model, pairs, disable_tqdm, greedy)

    def judge_by(
        self, model: Any, pairs: Sequence[PromptContinuation], disable_tqdm: bool, greedy: bool
    ) -> list[tuple[float, bool | None]]:
        estimator = self.settings.estimator(model)
        greedy = greedy and self.settings.check_greedy
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        memory = LikelihoodJournal(self.folder, [self.settings.made, repr(estimator), greedy], self.rank)
        keys = [memory.key(*pair) for pair in pairs]
        todo = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in memory.known}
        order = sorted(todo, key=lambda key: -len(todo[key].tokens))
        with ExitStack() as stack:
            show = self.progress(stack, "likelihoods", len(set(keys)), len(set(keys)) - len(todo), disable_tqdm)
            asked = [todo[key] for key in order]
            for place, found in estimate_likelihoods(model, asked, estimator, self.settings.batch_size, greedy):
                memory.put(order[place], found)
                show()
        return [(memory.known[key].value, memory.known[key].greedy) for key in keys]

    def fitted(self, pair: PromptContinuation) -> PromptContinuation:
        """A pair that fits the context; a beginning is left out only where that was asked for."""
        over = len(pair.tokens) - self.room()
        if over <= 0:
            return pair
        if not self.settings.truncate or over >= len(pair.prompt):
            raise ConfigError(
                f"a context of {len(pair.prompt)} tokens and a continuation of {len(pair.continuation)} do not fit the "
                f"{self.room()} columns of {self.settings.pretrained}: give fewer shots, or truncate=True to leave out "
                "its beginning"
            )
        self.truncated += 1
        return PromptContinuation(pair.prompt[over:], pair.continuation)

    def room(self) -> int:
        return GenerationTaskBuilder(self.model, self.settings, self.tok_encode).room()

    # --- lm-eval's own affairs ---------------------------------------------------------------------------------------

    def progress(self, stack: ExitStack, what: str, total: int, done: int, hidden: bool) -> Callable[[], Any]:
        """Something to call whenever one more is done."""
        if self.watch is None:
            bar = tqdm(total=total, initial=done, desc=what, disable=hidden or self.rank > 0)
            stack.callback(bar.close)
            return bar.update
        watch, count = self.watch, iter(range(done + 1, total + 1))
        watch(what, done, total)
        return lambda: watch(what, next(count), total)

    def all_gather(self, tensor: Any) -> Any:
        return self.processes.all_gather(tensor)

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        return self.processes.gather_object(obj, dst)

    def barrier(self) -> None:
        self.processes.barrier()

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval's result file says of the model besides its arguments."""
        return {"dllm": self.settings.made | {"options": repr(self.settings.options)}}


@contextmanager
def _adapt_causal_model(model: Any) -> Iterator[Any]:
    """A plain causal model as one that likelihoods can be read from: blocks of one column, predicted from the left."""
    if not isinstance(model, AutoregressiveModel):
        yield model
        return
    config = model.network.config
    before = {"is_causal": config.is_causal} if hasattr(config, "is_causal") else {}
    facts: dict[str, Any] = {"stop_ids": model.stop_ids, "family": model.family, "name": model.name}
    try:
        yield TransformerModel(model.network, BlockCausal(1), 1, **facts)
    finally:
        del config.is_causal  # it has to generate causally afterwards
        vars(config).update(before)


def _iterate_answers(events: Iterable[Event]) -> Iterator[RowDone]:
    """The answers among what happens. Raises the error of one that failed."""
    for event in events:
        if isinstance(event, RowFailed):
            raise event.error
        if isinstance(event, RowDone):
            yield event


def _get_task_name(name: str | int) -> str:
    """The task that an answer's id names."""
    return str(name).split("/")[0]


def _read_journal_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a journal."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
