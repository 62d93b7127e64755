"""A training run of a playground model in a folder: its start, its checkpoints, and the model that it exports."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from dllm.models.third_party import silence_transformers
from dllm.training.export import (
    make_fast_dllm_config,
    make_llada_checkpoint,
    make_stock_config,
    replace_folder,
    write_model_folder,
)
from dllm.training.optim import Muon, make_parameter_groups
from dllm.training.tokenizer import MASK
from experiments.playground_batches import BLOCK, Stage
from experiments.playground_card import write_card
from experiments.playground_text import build_tokenizer

HEAD = 32
"""Width of an attention head."""

SHARED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "max_position_embeddings", "rms_norm_eps", "rope_parameters", "eos_token_id", "pad_token_id",
)  # fmt: skip
"""Fields that the configs of Llama and Qwen2 share."""


@dataclass
class Progress:
    """Updates and seconds of training so far, over all sittings."""

    update: int = 0
    seconds: float = 0.0


def make_llama(vocabulary: int, width: int, layers: int, end: int, pad: int) -> Any:
    """Make a Llama without biases and with tied embeddings, of random weights."""
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=8 * width // 3 // 32 * 32, num_hidden_layers=layers,
        num_attention_heads=width // HEAD, num_key_value_heads=width // HEAD, max_position_embeddings=2048,
        tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        bos_token_id=None, eos_token_id=end, pad_token_id=pad,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def copy_as_qwen2(network: Any) -> Any:
    """Copy a Llama into a Qwen2 with zero biases, which computes the same function."""
    old = network.config
    config = Qwen2Config(**{key: getattr(old, key) for key in SHARED}, tie_word_embeddings=True, bos_token_id=None)
    copy = Qwen2ForCausalLM(config)
    missing, unexpected = copy.load_state_dict(network.state_dict(), strict=False)
    assert not unexpected and all(name.endswith(".bias") for name in missing), (missing, unexpected)
    for name, tensor in copy.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.zeros_(tensor)
    return copy


def open_start(out: Path, stage: Stage, start: Path | None, width: int, layers: int) -> tuple[Any, Any]:
    """Open or make the network and the tokenizer that a run of a stage starts with.

    A run that is continued keeps its tokenizer, even if the words of the mixture have changed.

    Args:
        out: Folder of the run.
        stage: Stage to train.
        start: Model folder of an `ar` run; None: a network of random weights.
        width: Width of such a network.
        layers: Layers of such a network.

    Returns:
        Network and tokenizer.
    """
    if start is not None:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(start)
        with silence_transformers():
            network = LlamaForCausalLM.from_pretrained(start, dtype=torch.float32)
    else:
        earlier = out / "model"
        tokenizer = PreTrainedTokenizerFast.from_pretrained(earlier) if earlier.exists() else build_tokenizer()
        network = make_llama(len(tokenizer), width, layers, tokenizer.eos_token_id, tokenizer.pad_token_id)
    network = copy_as_qwen2(network) if stage == "v2" else network
    network.set_attn_implementation("sdpa")
    return network, tokenizer


class TrainingRun:
    """A training run in a folder: network, average, optimiser and progress, all of which a checkpoint holds."""

    def __init__(self, out: Path, stage: Stage, network: Any, tokenizer: Any, decay: float, command: str) -> None:
        self.out, self.stage, self.network, self.tokenizer, self.decay = out, stage, network, tokenizer, decay
        self.progress, self.command = Progress(), command
        self.optimizer = Muon(make_parameter_groups(network, 0.0), lr=1e-3, dtype=torch.bfloat16)
        self.parameters = dict(network.named_parameters())
        self.average = {name: tensor.detach().clone() for name, tensor in self.parameters.items()}
        self._resume()

    def _resume(self) -> None:
        """Read the checkpoint of the folder, if there is one."""
        place = self.out / "checkpoint"
        if not place.exists():
            return
        self.progress = Progress(**json.loads((place / "progress.json").read_text()))
        state = load_file(place / "state.safetensors")
        with torch.no_grad():
            for key, tensor in state.items():
                kind, _, rest = key.partition("/")
                if kind == "weights":
                    self.parameters[rest].copy_(tensor)
                elif kind == "average":
                    self.average[rest].copy_(tensor)
                else:
                    self.optimizer.state[self.parameters[rest]][kind] = tensor

    def save(self) -> None:
        """Write the checkpoint and the model; a process that is killed meanwhile leaves the previous ones whole."""
        state = {f"weights/{name}": tensor.detach() for name, tensor in self.parameters.items()}
        state |= {f"average/{name}": tensor for name, tensor in self.average.items()}
        for name, parameter in self.parameters.items():
            state |= {f"{kind}/{name}": tensor for kind, tensor in self.optimizer.state[parameter].items()}
        aside = self.out / ".checkpoint"
        aside.mkdir(parents=True, exist_ok=True)
        save_file({key: tensor.contiguous().clone() for key, tensor in state.items()}, aside / "state.safetensors")
        (aside / "progress.json").write_text(json.dumps(vars(self.progress)))
        replace_folder(aside, self.out / "checkpoint")
        self._export()

    def _export(self) -> None:
        """Write the running average as a model folder in bfloat16."""
        weights = {name: tensor.to(torch.bfloat16) for name, tensor in self.average.items()}
        weights.pop("lm_head.weight", None)
        ids: dict[str, Any] = {
            "mask_id": self.tokenizer.convert_tokens_to_ids(MASK),
            "end_id": self.tokenizer.eos_token_id,
            "pad_id": self.tokenizer.pad_token_id,
        }
        if self.stage == "llada":
            config, weights = make_llada_checkpoint(self.network.config, weights, **ids)
        elif self.stage == "v2":
            config = make_fast_dllm_config(self.network.config, block=BLOCK, **ids)
        else:
            config = make_stock_config(self.network.config, stock="LlamaForCausalLM", **ids)
        aside = self.out / ".model"
        write_model_folder(
            aside,
            weights,
            {**config, "torch_dtype": "bfloat16"},
            self.tokenizer,
            write_card(self.stage, self.progress, self.network, self.command),
        )
        replace_folder(aside, self.out / "model")

    def step(self, loss: Tensor, rate: float) -> None:
        """Update the weights and their running average."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.update += 1
        # An early average covers about a tenth of the updates so far, so that the start soon has no weight in it.
        keep = min(self.decay, (self.progress.update + 1) / (self.progress.update + 10))
        live = [tensor.detach() for tensor in self.parameters.values()]
        torch._foreach_lerp_(list(self.average.values()), live, 1 - keep)
