"""Our models as a model of lm-eval: `--model dllm`."""

from __future__ import annotations

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

from dllm.integrations.harness.context_limit import ContextLimit, count_usable_columns
from dllm.integrations.harness.generation import GenerationTaskBuilder, make_sequential_plan
from dllm.integrations.harness.json_lines import read_json_lines
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
"""Receiver of progress: kind of work, amount done, and total amount."""


@register_model("dllm")
class DiffusionLM(TemplateLM):
    """A checkpoint of any family, decoding by any strategy.

    All requests of a call are decoded as one queue: a row that is finished makes way for the next request, so that the
    order in which lm-eval hands them over and the size of its batches change neither answers nor throughput.

    Args:
        max_batch_size: Refused; lm-eval's search for a batch size has no use here.
        arguments: Fields of `HarnessSettings` and of `dllm.compose.options.Options`, as `--model_args` gives them; any
            other name is an error that lists the right ones.

    Attributes:
        records: By task, the line of every answer (`dllm.metrics.result_to_record`).
        references: By task, the lines of sequential greedy decoding, where the agreement with it is wanted.
        seconds: Wall time that this process took for answers, by their kind and task.
        fresh: Number of answers decoded in that time, by kind and task; the others are from an earlier run.
        limit: Room for a prompt and what follows it.
    """

    def __init__(self, max_batch_size: int | None = None, **arguments: Any) -> None:
        if max_batch_size is not None:
            raise ConfigError("max_batch_size: no size is searched for here; give batch_size alone")
        if arguments.get("device") == "cuda:0":
            del arguments["device"]  # lm-eval's own default, and ours wherever there is a GPU
        self._set_up(HarnessSettings.read(arguments))

    @classmethod
    def of(cls, settings: HarnessSettings, watch: Watch | None = None) -> DiffusionLM:
        """Make a model from settings that are checked already."""
        made = cls.__new__(cls)
        made._set_up(settings, watch)
        return made

    def _set_up(self, settings: HarnessSettings, watch: Watch | None = None) -> None:
        """Join the other processes, load the checkpoint and start with empty results."""
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
        self.limit = ContextLimit(count_usable_columns(self.model), settings.pretrained, settings.truncate)

    @property
    def truncated(self) -> int:
        """Number of prompts that have lost their beginning."""
        return self.limit.truncated

    # --- texts -------------------------------------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text."""
        stops = tuple(self.model.stop_ids)
        return stops[0] if stops else int(self.tokenizer.eos_token_id or 0)

    @property
    def prefix_token_id(self) -> int:
        """The id that stands before a text without a context."""
        return self.eot_token_id if self.tokenizer.bos_token_id is None else int(self.tokenizer.bos_token_id)

    @property
    def tokenizer_name(self) -> str:
        """Name under which lm-eval caches prompts that were made with this tokenizer."""
        return self.settings.pretrained.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return token ids; a text that begins with a special token, as chat templates write them, gets no others."""
        if add_special_tokens is None:
            special = [str(t) for t in self.tokenizer.added_tokens_decoder.values() if t.special]
            add_special_tokens = not any(string.startswith(text) for text in special)
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render a chat; without a generation prompt its last message is left open for the model to continue."""
        if not getattr(self.tokenizer, "chat_template", None):  # not all tokenizers of transformers have the attribute
            raise ConfigError(f"{self.settings.pretrained} has no chat template: leave --apply-chat-template out")
        text: str = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    # --- generation --------------------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the answer to each request; answers in the output folder from an earlier run are not decoded again."""
        tasks = GenerationTaskBuilder(self.model, self.settings, self.tok_encode, self.limit).tasks(requests)
        unique = list({task.row.id: task for task in tasks}.values())
        texts = self._decode_tasks(unique, "answers", self.records, disable_tqdm)
        if self.settings.agreement:
            references = [task._replace(plan=make_sequential_plan(task.plan)) for task in unique]
            self._decode_tasks(references, "reference", self.references, disable_tqdm)
        for request, task in zip(requests, tasks, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, texts[task.row.id])
        return [texts[task.row.id] for task in tasks]

    def _decode_tasks(
        self, tasks: list[DecodeTask], what: str, records: Records, disable_tqdm: bool = False
    ) -> dict[Any, str]:
        """Decode tasks as one queue and keep each answer as soon as it is final.

        Args:
            tasks: Tasks with distinct ids.
            what: Kind of answer, which names the journal and the progress.
            records: Lines by task, to which the answers are added.
            disable_tqdm: Show no progress bar.

        Returns:
            The text of each task, by its id.
        """
        texts: dict[Any, str] = {}

        def add_line(line: dict[str, Any]) -> None:
            texts[line["id"]] = line["text"]
            records[_get_task_name(line["id"])].append(line)

        with ExitStack() as stack:
            journal = self._open_journal(stack, what)
            todo = tasks if journal is None else journal.resume(tasks)
            for line in () if journal is None else read_json_lines(journal.path):
                add_line(line)
            advance = self._start_progress(stack, what, len(tasks), len(tasks) - len(todo), disable_tqdm)
            clock = time.perf_counter()
            for done in _iterate_answers(decode_tasks(self.model, todo, self.settings.batch_size)):
                if journal is not None:
                    journal.write(done)
                task, result, provenance = done
                add_line(result_to_record(result, task.plan, provenance, task.row.id, task.request.seed))
                now = time.perf_counter()
                self.seconds[what, _get_task_name(task.row.id)] += now - clock
                self.fresh[what, _get_task_name(task.row.id)] += 1
                clock = now
                advance()
        return texts

    def _open_journal(self, stack: ExitStack, what: str) -> Journal | None:
        """Open the file of finished answers, one for each process; None without an output folder."""
        if self.folder is None:
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        made = self.settings.made_with | {"max_new_tokens": self.settings.max_new_tokens, "processes": self.world_size}
        return stack.enter_context(Journal(self.folder / f"{what}.{self.rank}.jsonl", made))

    # --- likelihoods -------------------------------------------------------------------------------------------------

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation, and True if greedy decoding would write it."""
        pairs = [PromptContinuation(tuple(context), tuple(continuation)) for _, context, continuation in requests]
        found = self._estimate([self._fit(pair) for pair in pairs], disable_tqdm)
        answers = [(value, bool(greedy)) for value, greedy in found]
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", request[0], answer)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of whole texts, in windows of the model's context.

        Each token is predicted from the text before it in its window.
        """
        pairs, owner = [], []
        for i, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0], add_special_tokens=False)
            length = self.limit.columns
            for window in get_rolling_token_windows(tokens, self.prefix_token_id, length - 1, 1):
                context, continuation = make_disjoint_window(window)
                pairs.append(PromptContinuation(tuple(context), tuple(continuation)))
                owner.append(i)
        totals = [0.0] * len(requests)
        for i, (value, _) in zip(owner, self._estimate(pairs, disable_tqdm, greedy=False), strict=True):
            totals[i] += value
        return totals

    def _estimate(
        self, pairs: Sequence[PromptContinuation], disable_tqdm: bool, greedy: bool = True
    ) -> list[tuple[float, bool | None]]:
        """Return likelihoods of pairs in order, of a plain causal model too."""
        with _adapt_causal_model(self.model) as model:
            return self._estimate_with(model, pairs, disable_tqdm, greedy)

    def _estimate_with(
        self, model: Any, pairs: Sequence[PromptContinuation], disable_tqdm: bool, greedy: bool
    ) -> list[tuple[float, bool | None]]:
        """Return likelihoods of pairs in order; only those that no earlier run has left are estimated."""
        estimator = self.settings.estimator(model)
        greedy = greedy and self.settings.check_greedy
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        journal = LikelihoodJournal(self.folder, [self.settings.made_with, repr(estimator), greedy], self.rank)
        keys = [journal.key(*pair) for pair in pairs]
        todo = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in journal.known}
        # Longest first, so that rows of a batch have similar lengths and a lack of memory shows at once.
        order = sorted(todo, key=lambda key: -len(todo[key].tokens))
        with ExitStack() as stack:
            advance = self._start_progress(
                stack, "likelihoods", len(set(keys)), len(set(keys)) - len(todo), disable_tqdm
            )
            missing = [todo[key] for key in order]
            for place, found in estimate_likelihoods(model, missing, estimator, self.settings.batch_size, greedy):
                journal.add(order[place], found)
                advance()
        return [(journal.known[key].value, journal.known[key].greedy) for key in keys]

    def _fit(self, pair: PromptContinuation) -> PromptContinuation:
        """Return a pair that fits the context; a context loses its beginning only where the settings allow it."""
        prompt, continuation = pair
        description = f"a context of {len(prompt)} tokens and a continuation of {len(continuation)}"
        return PromptContinuation(
            self.limit.fit(prompt, len(continuation), description, "give fewer shots"), continuation
        )

    # --- lm-eval's protocol ------------------------------------------------------------------------------------------

    def _start_progress(self, stack: ExitStack, what: str, total: int, done: int, hidden: bool) -> Callable[[], Any]:
        """Show progress, and return a function to call whenever one more item is done."""
        if self.watch is None:
            bar = tqdm(total=total, initial=done, desc=what, disable=hidden or self.rank > 0)
            stack.callback(bar.close)
            update: Callable[[], Any] = bar.update
            return update
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
        """Return the facts about the model that lm-eval's result file holds besides its arguments."""
        return {"dllm": self.settings.made_with | {"options": repr(self.settings.options)}}


@contextmanager
def _adapt_causal_model(model: Any) -> Iterator[Any]:
    """Adapt a plain causal model for estimating likelihoods: blocks of one column, predicted from the left."""
    if not isinstance(model, AutoregressiveModel):
        yield model
        return
    config = model.network.config
    # `TransformerModel` sets `is_causal` on the config of transformers, which may not have had the field at all.
    before = {"is_causal": config.is_causal} if hasattr(config, "is_causal") else {}
    facts: dict[str, Any] = {"stop_ids": model.stop_ids, "family": model.family, "name": model.name}
    try:
        yield TransformerModel(model.network, BlockCausal(1), 1, **facts)
    finally:
        del config.is_causal  # it has to generate causally afterwards
        vars(config).update(before)


def _iterate_answers(events: Iterable[Event]) -> Iterator[RowDone]:
    """Iterate over the answers among the events; raise the error of one that failed."""
    for event in events:
        if isinstance(event, RowFailed):
            raise event.error
        if isinstance(event, RowDone):
            yield event


def _get_task_name(name: str | int) -> str:
    """Return the task that an answer's id names."""
    return str(name).split("/")[0]
