"""Loss and gradients with weights in parts over two processes against those of one: python -m tests.training.sharded.

What FSDP 2 does on GPUs, on CPUs; `accelerate` itself shards on accelerators only.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import Qwen2Config, Qwen2ForCausalLM

from dllm.training.objective import compute_view_loss
from dllm.training.views import BlockDiffusion, PackedRows


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    network: Any = Qwen2ForCausalLM(config)
    tokens = torch.randint(4, 40, (2, 32), generator=torch.Generator().manual_seed(1))
    packed = PackedRows(tokens, tokens.clone(), torch.zeros_like(tokens), torch.arange(32).expand(2, 32))
    objective = BlockDiffusion(8)
    view = objective.view(packed, objective.noise(packed, torch.Generator().manual_seed(2)), 3)
    whole = compute_view_loss(network, view, objective.attention_block)
    whole.backward()  # type: ignore[no-untyped-call]
    wanted = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}
    network.zero_grad()
    mesh = init_device_mesh("cpu", (2,))
    for part in (*network.model.layers, network):
        fully_shard(part, mesh=mesh)
    parted = compute_view_loss(network, view, objective.attention_block)
    parted.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(parted, whole)
    for name, parameter in network.named_parameters():
        assert parameter.to_local().numel() < parameter.numel()
        torch.testing.assert_close(parameter.grad.full_tensor(), wanted[name])
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
