"""lm-eval and our models: the names it knows, what it asks for, and that answers are those of `dllm.decode`."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval", reason="needs the extra `eval`")

import dllm
from dllm.compose.options import Options
from dllm.errors import ConfigError, RequestError
from dllm.integrations.harness import data, scoring
from dllm.integrations.harness.evaluation import run_evaluation
from dllm.integrations.harness.generation import GenerationArguments
from dllm.integrations.harness.model import DiffusionLM
from dllm.integrations.harness.settings import HarnessSettings
from dllm.integrations.harness.task_plan import TASKS, EvaluationPlan, load_tasks
from dllm.likelihood import Bound, PromptContinuation, Sequential, estimate_likelihoods
from dllm.models import packing
from dllm.models.checkpoint import EMBEDDED
from tests.models.conftest import write

QUESTIONS = [row["prompt"] for row in data.read_data_file(str(data.DATA), "word-problems.jsonl")]
GREEDY = {"until": [], "max_gen_toks": 48, "do_sample": False}


def asked(*args: Any, number: int = 0, task: str = "t", repeats: int = 1) -> SimpleNamespace:
    """A request as lm-eval makes them."""
    return SimpleNamespace(args=args, task_name=task, doc_id=number, repeats=repeats)


def questions(lm: DiffusionLM, count: int, given: dict[str, Any] | None = None) -> list[SimpleNamespace]:
    chats = ([{"role": "user", "content": text}] for text in QUESTIONS[:count])
    return [asked(lm.apply_chat_template(chat), given or GREEDY, number=i) for i, chat in enumerate(chats)]


@pytest.fixture(scope="module")
def embedded() -> DiffusionLM:
    return DiffusionLM(policy="factor", f=1.0, cache="dual", batch_size=4)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tiny random checkpoints with the embedded model's words."""
    top, found = tmp_path_factory.mktemp("checkpoints"), {}
    ids = {"vocab_size": 478, "eos_token_id": 0, "pad_token_id": 1, "mask_token_id": 2}
    for kind, more in (("llada", {"embedding_size": 478}), ("fast_dllm_v2", {}), ("llama", {"mask_token_id": None})):
        from tests.models import conftest

        size = conftest.VOCAB
        try:
            conftest.VOCAB = 478
            folder = write(top / kind, kind, **(ids | more))
        finally:
            conftest.VOCAB = size
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(EMBEDDED / name, folder / name)
        found[kind] = str(folder)
    return found


# --- names and values ------------------------------------------------------------------------------------------------


def test_model_arguments_go_where_the_options_of_decode_go() -> None:
    found = HarnessSettings.read(
        {"pretrained": "x", "policy": "top-k", "k": 2, "tau": 1, "stop_ids": 3, "batch_size": "16"}
    )
    assert found == HarnessSettings("x", Options(policy="top-k", k=2, tau=1.0, stop_ids=(3,)), batch_size=16)
    assert HarnessSettings.read({"strategy": "Strategy(…)"}).options.recipe == "Strategy(…)"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"gamma": 0.1}, 'gamma is no option but a field of entropy-bound: write --policy "entropy-bound(gamma=0.1)"'),
        ({"polcy": "factor"}, "unknown model argument 'polcy' (did you mean 'policy'?): choose from adapter"),
        ({"tau": "high"}, "tau='high': must be float"),
        ({"k": True}, "k=True: must be int"),
        ({"batch_size": "auto"}, "batch_size='auto': must be int"),
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"likelihood": "exact"}, "likelihood='exact': choose from bound, sequential"),
        ({"recipe": "llada", "strategy": "Strategy(…)"}, "recipe and strategy: give one of them"),
        ({"max_batch_size": 8}, "give batch_size alone"),
    ],
)
def test_what_does_not_belong_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        DiffusionLM(**given)
    assert said in str(error.value)


def test_a_task_may_ask_for_sampling_and_the_user_has_the_last_word() -> None:
    wish = GenerationArguments.read(
        {"until": "\n", "max_gen_toks": 9, "do_sample": True, "temperature": 0.2, "top_p": 0.95}
    )
    assert wish.max_new_tokens == 9
    assert wish.options(Options(stop=("x",))) == Options(stop=("x", "\n"), temperature=0.2, top_p=0.95)
    assert wish.options(Options(temperature=0.0)).temperature == 0.0
    greedy = GenerationArguments.read({"until": None, "temperature": 0.7, "do_sample": False, "num_beams": 1})
    assert greedy.options(Options()) == Options()
    assert greedy.max_new_tokens == 256
    assert GenerationArguments.read({"do_sample": True}).options(Options()).temperature == 1.0
    for bad in ({"num_beams": 4}, {"repetition_penalty": 1.2}):
        with pytest.raises(ConfigError, match="has no meaning for a diffusion model: it takes until"):
            GenerationArguments.read(bad)


# --- writing ---------------------------------------------------------------------------------------------------------


def test_answers_are_those_of_decode(embedded: DiffusionLM) -> None:
    strategy = Options(policy="factor", f=1.0, cache="dual").strategy(embedded.model, 48)
    expected = dllm.decode(embedded.model, QUESTIONS[:6], strategy, max_new_tokens=48)
    assert embedded.generate_until(questions(embedded, 6), disable_tqdm=True) == [r.text for r in expected]


def test_order_and_batches_change_nothing(embedded: DiffusionLM) -> None:
    requests = questions(embedded, 6)
    expected = embedded.generate_until(requests, disable_tqdm=True)
    backwards = embedded.generate_until(requests[::-1], disable_tqdm=True)
    assert backwards == expected[::-1]
    one = DiffusionLM(policy="factor", f=1.0, cache="dual", batch_size=1)
    assert one.generate_until(requests, disable_tqdm=True) == expected


def test_all_requests_of_a_call_are_one_queue(embedded: DiffusionLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that falls free is taken at once: fewer forwards than by batches, however lm-eval orders them."""
    calls = []
    forward = type(embedded.model).forward
    monkeypatch.setattr(type(embedded.model), "forward", lambda *a: calls.append(1) or forward(*a))
    monkeypatch.setattr(embedded.model, "forward_overhead_columns", 2**31)
    requests = questions(embedded, 12)
    counts = []
    for order in (requests, sorted(requests, key=lambda r: len(r.args[0]))):
        calls.clear()
        embedded.generate_until(order, disable_tqdm=True)
        counts.append(len(calls))
    calls.clear()
    for start in range(0, 12, 4):
        embedded.generate_until(requests[start : start + 4], disable_tqdm=True)
    assert max(counts) < len(calls)
    assert max(counts) <= 1.2 * min(counts)


def test_stop_strings_lengths_and_seeds(embedded: DiffusionLM) -> None:
    whole = embedded.generate_until(questions(embedded, 3), disable_tqdm=True)
    cut = embedded.generate_until(questions(embedded, 3, GREEDY | {"until": ["####"]}), disable_tqdm=True)
    assert cut == [text.split("####")[0] for text in whole]
    short = embedded.generate_until(questions(embedded, 3, GREEDY | {"max_gen_toks": 4}), disable_tqdm=True)
    assert all(len(s) < len(w) for s, w in zip(short, whole, strict=True))
    drawn = {"until": [], "max_gen_toks": 16, "do_sample": True, "temperature": 6.0}
    twice = [asked(questions(embedded, 1)[0].args[0], drawn, repeats=2)] * 2
    first, second = embedded.generate_until(twice, disable_tqdm=True)
    assert first != second, "samples of one document differ"
    assert embedded.generate_until(twice, disable_tqdm=True) == [first, second]
    assert embedded.generate_until([*twice, *twice], disable_tqdm=True) == [first, second] * 2


def test_weights_are_packed_where_that_helps_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[object] = []
    monkeypatch.setattr(packing, "pack_linear_layers", lambda network: packed.append(network) or network)
    DiffusionLM(policy="factor", pack=False)
    assert packed == []
    DiffusionLM(policy="factor")
    assert len(packed) == 1


def test_a_prompt_that_does_not_fit(embedded: DiffusionLM) -> None:
    long = asked("apples " * 3000, GREEDY)
    with pytest.raises(RequestError, match=r"t/0: a prompt of .* truncate=True"):
        embedded.generate_until([long], disable_tqdm=True)
    cutting = DiffusionLM(policy="factor", truncate=True, max_new_tokens=4)
    assert len(cutting.generate_until([long], disable_tqdm=True)) == 1
    assert cutting.truncated == 1


def test_a_chat_gets_no_second_beginning(embedded: DiffusionLM) -> None:
    chat = [{"role": "user", "content": "Hi"}]
    text = embedded.apply_chat_template(chat)
    ids = embedded.tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    assert embedded.tok_encode(text) == list(ids)
    begun = [*chat, {"role": "assistant", "content": "So"}]
    assert embedded.apply_chat_template(begun, add_generation_prompt=False).endswith("So")
    assert embedded.chat_template(True) == embedded.tokenizer.chat_template


# --- judging ---------------------------------------------------------------------------------------------------------

TEXTS = [("Mia has 3", " apples."), ("", "Tom has"), ("Ben", " buys 4 pens and 2"), ("Mia has 3 ", "apples.")]


@pytest.mark.parametrize(("kind", "estimator"), [("llada", Bound(12, 5)), ("fast_dllm_v2", Sequential())])
def test_likelihoods_are_those_of_the_estimators(folders: dict[str, str], kind: str, estimator: Any) -> None:
    lm = DiffusionLM(pretrained=folders[kind], samples=12, seed=5, batch_size=5)
    found = lm.loglikelihood([asked(*texts) for texts in TEXTS], disable_tqdm=True)
    for (context, continuation), (value, greedy) in zip(TEXTS, found, strict=True):
        whole = lm.tok_encode(context + continuation)
        split = len(lm.tok_encode(context.rstrip()))
        pair = (
            PromptContinuation(tuple(whole[:split]), tuple(whole[split:]))
            if context
            else PromptContinuation((0,), tuple(whole))
        )
        ((_, expected),) = estimate_likelihoods(lm.model, [pair], estimator)
        assert value == pytest.approx(expected.value, abs=1e-4)
        assert greedy == expected.greedy
    (rolling,) = lm.loglikelihood_rolling([asked("Tom has")], disable_tqdm=True)
    assert rolling == pytest.approx(found[1][0], abs=1e-4)


def test_a_plain_causal_model_is_judged_exactly_and_still_writes(folders: dict[str, str]) -> None:
    lm = DiffusionLM(pretrained=folders["llama"], batch_size=2)
    before = lm.generate_until([asked("Mia has", GREEDY)], disable_tqdm=True)
    ((value, _),) = lm.loglikelihood([asked("Mia has 3", " apples.")], disable_tqdm=True)
    ids = lm.tok_encode("Mia has 3 apples.")
    split = len(lm.tok_encode("Mia has 3"))
    with torch.inference_mode():
        scores = lm.model.network(torch.tensor([ids])).logits[0].log_softmax(-1)
    assert value == pytest.approx(sum(float(scores[i - 1, ids[i]]) for i in range(split, len(ids))), abs=1e-3)
    assert lm.generate_until([asked("Mia has", GREEDY)], disable_tqdm=True) == before


def test_what_is_known_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = DiffusionLM(output=str(tmp_path), batch_size=2)
    requests = [asked(*texts) for texts in TEXTS]
    answers = first.generate_until(questions(first, 3), disable_tqdm=True)
    values = first.loglikelihood(requests, disable_tqdm=True)
    with (tmp_path / "likelihoods.0.jsonl").open("a") as file:
        file.write('{"key": "cut sho')
    again = DiffusionLM(output=str(tmp_path), batch_size=2)
    with monkeypatch.context() as patch:
        patch.setattr(type(again.model), "forward", lambda *_: pytest.fail("decoded again"))
        assert again.generate_until(questions(again, 3), disable_tqdm=True) == answers
        assert again.loglikelihood(requests, disable_tqdm=True) == values
        assert again.loglikelihood(requests[:1], disable_tqdm=True) == values[:1]
    assert "cut sho" not in (tmp_path / "likelihoods.0.jsonl").read_text()
    other = DiffusionLM(output=str(tmp_path), policy="factor")
    with pytest.raises(ConfigError, match="belongs to another job"):
        other.generate_until(questions(other, 3), disable_tqdm=True)


def test_processes_share_the_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two ranks answers every other document as one process would."""
    plan = EvaluationPlan(("word_problems",), limit=5, apply_chat_template=True)
    whole = run_evaluation(plan, HarnessSettings(max_new_tokens=48))
    assert whole is not None
    answers: dict[int, str] = {}
    from dllm.integrations.harness import model, processes

    for rank in (0, 1):
        one = processes.SingleProcess()
        one.rank, one.count = rank, 2
        one.all_gather = lambda _: torch.tensor([3, 2])  # type: ignore[method-assign]
        one.gather_object = lambda value, dst=0, rank=rank: [value] if rank == dst else None  # type: ignore[method-assign]
        monkeypatch.setattr(model, "detect_processes", lambda _, one=one: one)
        found = run_evaluation(plan, HarnessSettings(max_new_tokens=48, output=str(tmp_path)))
        assert (found is None) == (rank == 1)
        for line in (tmp_path / f"answers.{rank}.jsonl").read_text().splitlines():
            answers[int(json.loads(line)["id"].split("/")[1])] = json.loads(line)["text"]
    assert [answers[i] for i in range(5)] == [s["text"] for s in whole.samples["word_problems"]]


# --- tasks -----------------------------------------------------------------------------------------------------------


THEIRS = ("gsm8k/gsm8k", "ifeval/ifeval", "humaneval/humaneval", "humaneval/humaneval_instruct", "mbpp/mbpp",
          "mbpp/mbpp_instruct")  # fmt: skip


@pytest.mark.parametrize("name", THEIRS)
def test_our_configurations_ask_what_those_of_lm_eval_ask(name: str) -> None:
    import lm_eval.tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    theirs = load_yaml(Path(lm_eval.tasks.__file__).parent / f"{name}.yaml", resolve_func=False)
    (path,) = TASKS.rglob(f"{Path(name).name}.yaml")
    ours = load_yaml(path, resolve_func=False)
    for field in ("doc_to_text", "doc_to_target", "gen_prefix", "target_delimiter", "num_fewshot", "unsafe_code"):
        assert ours.get(field) == theirs.get(field), field
    neutral = {"temperature": 0.0}
    assert ours["generation_kwargs"] | neutral == theirs["generation_kwargs"] | neutral
    assert ours["metadata"]["version"] == theirs["metadata"]["version"]
    if name == "gsm8k/gsm8k":
        assert ours["filter_list"] == theirs["filter_list"]
        assert ours["metric_list"] == theirs["metric_list"]


def test_a_task_that_there_is_not_and_a_file_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dllm.integrations.harness.task_plan.TaskManager.__init__", quick(monkeypatch))
    with pytest.raises(ConfigError, match=r"no such task \(did you mean 'word_problems'"):
        load_tasks(EvaluationPlan(("word_problem",)))
    with pytest.raises(ConfigError, match=r"has no gsm8k_train.jsonl"):
        load_tasks(EvaluationPlan(("gsm8k",), data=str(tmp_path)))
    (tmp_path / "ifeval_input_data.jsonl").write_text('{"key": 1}\n{"key"\n')
    with pytest.raises(ConfigError, match=r"ifeval_input_data.jsonl:2: not JSON"):
        load_tasks(EvaluationPlan(("ifeval",), data=str(tmp_path)))
    for bad in ({"tasks": ()}, {"tasks": ("a",), "limit": 0}, {"tasks": ("a",), "num_fewshot": -1}):
        with pytest.raises(ConfigError):
            EvaluationPlan(**bad)


def quick(monkeypatch: pytest.MonkeyPatch) -> Any:
    """TaskManager without the reading of lm-eval's own thousands of files."""
    from lm_eval.tasks import TaskManager

    known = TaskManager.__init__

    def init(self: Any, *, include_defaults: bool = True, **options: Any) -> None:
        known(self, include_defaults=False, **options)

    return init


def test_pass_at_1_is_the_share_of_samples() -> None:
    assert scoring.score_passed_samples({}, [["passed", "timed out"]]) == {"pass@1": 0.5}
    assert scoring.score_passed_samples({}, ["passed"]) == {"pass@1": 1.0}


def test_the_answer_is_the_number_behind_the_first_marks() -> None:
    for text, value in (("#### 12", 1.0), ("#### 123", 0.0), ("a\n####12 #### 3", 1.0), ("12", 0.0)):
        assert scoring.score_stated_answer({"answer": "12"}, [text]) == {"exact_match": value}


def test_estimates_do_not_depend_on_the_rest_of_the_task(folders: dict[str, str]) -> None:
    lm = DiffusionLM(pretrained=folders["llada"], samples=4, batch_size=3, check_greedy=False)
    together = lm.loglikelihood([asked(*texts) for texts in TEXTS], disable_tqdm=True)
    alone = [lm.loglikelihood([asked(*texts)], disable_tqdm=True)[0] for texts in TEXTS]
    for (a, greedy), (b, _) in zip(together, alone, strict=True):
        assert a == pytest.approx(b, abs=1e-4)
        assert greedy is False


def test_numbers_of_documents_and_repeats_name_the_answers(embedded: DiffusionLM) -> None:
    from dllm.integrations.harness.generation import GenerationTaskBuilder

    writer = GenerationTaskBuilder(embedded.model, embedded.settings, embedded.tok_encode, embedded.limit)
    repeated = [asked("a", GREEDY, number=n, repeats=2) for n in (4, 4, 9, 9, 9)]
    tasks = writer.tasks(repeated)
    assert [t.row.id for t in tasks] == ["t/4/0", "t/4/1", "t/9/0", "t/9/1", "t/9/0"]
    assert len({t.request.seed for t in tasks}) == 4
    assert list(itertools.chain(t.request.seed for t in writer.tasks([asked("a", GREEDY, number=3)]))) == [3]
