"""Callbacks of the Trainer: its log as events, and an answer of the model in training at each evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from dllm.errors import DllmError
from dllm.models import TransformerModel
from dllm.training.base_model import BaseModelInfo
from dllm.training.card import ModelCard
from dllm.training.encoding import TrainingSample
from dllm.training.events import AnswerSampled, CheckpointSaved, Event, LossEvaluated, LossLogged, Watch
from dllm.training.plan import TrainingPlan
from dllm.types import Bidirectional, BlockCausal, Geometry

PROMPT_LENGTH = 16
"""Tokens of a held-out document that serve as a prompt."""

Sampler = Callable[[TransformerModel, str | Sequence[int]], str]
"""Function that answers a prompt (text or token ids) with a model."""


def _unwrap_adapter(network: Any) -> Any:
    """Return the stock network inside a PEFT adapter, or the network itself."""
    return network.get_base_model() if hasattr(network, "get_base_model") else network


def _make_decoding_model(network: Any, base: BaseModelInfo, plan: TrainingPlan) -> TransformerModel:
    """Wrap the network in training as a model that decodes; it shares the weights."""
    geometry: Geometry = (
        Bidirectional() if plan.objective == "full-attention" else BlockCausal(plan.task.attention_block)
    )
    return TransformerModel(
        _unwrap_adapter(network),
        geometry,
        needs_left=0 if plan.objective == "full-attention" else 1,
        mask_id=base.mask_id,
        stop_ids=base.stop_ids,
        pad_id=base.pad_id,
        family="in training",
        name=base.name,
        tokenizer=base.tokenizer,
    )


class EventReporter:
    """Turns the Trainer's log into events, and answers the sample prompt at each evaluation.

    Args:
        plan: Plan of the run.
        base: Facts about the base.
        held_out: Held-out samples; the first one supplies the prompt where the plan has none.
        watch: Receiver of the events.
        sampler: Function that decodes the answer; None for no answers.
        card: Card that keeps the last answer.

    Attributes:
        sharded: True if each process holds a part of the weights, so that nothing can be decoded while training.
        prompt: Text or token ids to answer; None where there is nothing to ask.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        base: BaseModelInfo,
        held_out: list[TrainingSample],
        watch: Watch,
        sampler: Sampler | None,
        card: ModelCard,
    ) -> None:
        self.plan, self.base, self.watch, self.sampler, self.card = plan, base, watch, sampler, card
        self.sharded = False
        self.prompt: str | list[int] | None = plan.sample_prompt
        if self.prompt is None and held_out:
            sample = held_out[0]
            self.prompt = sample.tokens[: sample.learnt.index(True) or PROMPT_LENGTH]

    def callback(self) -> Any:
        """Build the callback for the Trainer."""
        from transformers import TrainerCallback

        reporter = self

        class Callback(TrainerCallback):
            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
                if state.is_world_process_zero:
                    for event in reporter.events(state.global_step, logs or {}):
                        reporter.watch(event)

            def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
                if state.is_world_process_zero and not reporter.sharded:
                    reporter.answer(model, state.global_step)

            def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if state.is_world_process_zero:
                    reporter.watch(CheckpointSaved(state.global_step))

        return Callback()

    def events(self, step: int, logs: dict[str, float]) -> list[Event]:
        """Translate one entry of the Trainer's log into events."""
        if "eval_loss" in logs:
            return [LossEvaluated(step, logs["eval_loss"])]
        if "loss" in logs:
            return [LossLogged(step, logs["loss"], logs["learning_rate"], logs.get("grad_norm", float("nan")))]
        return []

    @torch.no_grad()
    def answer(self, network: Any, step: int) -> None:
        """Decode the sample prompt, and report and keep the answer."""
        if self.sampler is None or self.prompt is None:
            return
        inner = _unwrap_adapter(network)
        # Decoding brings masks that the attention function of training (FlexAttention on a GPU) does not take.
        attention = inner.config._attn_implementation
        inner.set_attn_implementation("sdpa")
        try:
            answer = self.sampler(_make_decoding_model(network, self.base, self.plan), self.prompt)
        except DllmError as error:
            answer = f"(cannot be decoded: {error})"
        inner.set_attn_implementation(attention)
        shown = self.prompt if isinstance(self.prompt, str) else self.base.tokenizer.decode(self.prompt)
        self.card.sample = (step, shown, answer)
        self.watch(AnswerSampled(step, shown, answer))


def make_callbacks(plan: TrainingPlan, reporter: EventReporter) -> list[Any]:
    """List the callbacks for the Trainer: our own, and TensorBoard writing into the run's folder."""
    found = [reporter.callback()]
    if "tensorboard" in plan.report_to:
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations.integration_utils import TensorBoardCallback

        writer = SummaryWriter(str(Path(plan.out) / "logs"))
        found.append(TensorBoardCallback(writer))
    return found
