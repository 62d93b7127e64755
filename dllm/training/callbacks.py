"""What the Trainer logs becomes events, and at each evaluation the model in training answers a prompt."""

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
from dllm.types import Bidirectional, BlockCausal

CONTINUES = 16
"""Tokens of a held-out document that serve as a prompt."""

Sampler = Callable[[TransformerModel, str | Sequence[int]], str]
"""Answers a prompt (text, or token ids) with a model."""


def _make_decoding_model(network: Any, ground: BaseModelInfo, plan: TrainingPlan) -> TransformerModel:
    """The network in training as a model that decodes; it shares the weights."""
    inner = network.get_base_model() if hasattr(network, "get_base_model") else network
    geometry: Any = Bidirectional() if plan.objective == "full-attention" else BlockCausal(plan.task.attention_block)
    return TransformerModel(
        inner,
        geometry,
        needs_left=0 if plan.objective == "full-attention" else 1,
        mask_id=ground.mask_id,
        stop_ids=ground.stop_ids,
        pad_id=ground.pad_id,
        family="in training",
        name=ground.name,
        tokenizer=ground.tokenizer,
    )


class EventReporter:
    """Turns what the Trainer logs into events, and answers the sample prompt at each evaluation."""

    def __init__(
        self,
        plan: TrainingPlan,
        ground: BaseModelInfo,
        spared: list[TrainingSample],
        watch: Watch,
        sampler: Sampler | None,
        story: ModelCard,
    ) -> None:
        self.plan, self.ground, self.watch, self.sampler, self.story = plan, ground, watch, sampler, story
        self.sharded = False
        self.prompt: str | list[int] | None = plan.sample_prompt
        if self.prompt is None and spared:
            sample = spared[0]
            self.prompt = sample.tokens[: sample.learnt.index(True) or CONTINUES]

    def callback(self) -> Any:
        from transformers import TrainerCallback

        teller = self

        class Callback(TrainerCallback):
            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
                if state.is_world_process_zero:
                    for event in teller.events(state.global_step, logs or {}):
                        teller.watch(event)

            def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
                if state.is_world_process_zero and not teller.sharded:
                    teller.answer(model, state.global_step)

            def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if state.is_world_process_zero:
                    teller.watch(CheckpointSaved(state.global_step))

        return Callback()

    def events(self, step: int, logs: dict[str, float]) -> list[Event]:
        if "eval_loss" in logs:
            return [LossEvaluated(step, logs["eval_loss"])]
        if "loss" in logs:
            return [LossLogged(step, logs["loss"], logs["learning_rate"], logs.get("grad_norm", float("nan")))]
        return []

    @torch.no_grad()
    def answer(self, network: Any, step: int) -> None:
        """Decode the sample prompt; the attention function of training may not take decoding's masks."""
        if self.sampler is None or self.prompt is None:
            return
        inner = network.get_base_model() if hasattr(network, "get_base_model") else network
        attention = inner.config._attn_implementation
        inner.set_attn_implementation("sdpa")
        try:
            answer = self.sampler(_make_decoding_model(network, self.ground, self.plan), self.prompt)
        except DllmError as error:
            answer = f"(cannot be decoded: {error})"
        inner.set_attn_implementation(attention)
        shown = self.prompt if isinstance(self.prompt, str) else self.ground.tokenizer.decode(self.prompt)
        self.story.sample = (step, shown, answer)
        self.watch(AnswerSampled(step, shown, answer))


def make_callbacks(plan: TrainingPlan, told: Any) -> list[Any]:
    """Callbacks for the Trainer: ours, and TensorBoard in the run's own folder."""
    found = [told.callback()]
    if "tensorboard" in plan.report_to:
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations import TensorBoardCallback

        found.append(TensorBoardCallback(SummaryWriter(str(Path(plan.out) / "logs"))))
    return found
