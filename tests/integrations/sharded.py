"""What each process of `test_tensor_parallel.py` does: decode with a slice of each checkpoint, through the command.

python sharded.py FOLDER ROWS CHECKPOINT... writes FOLDER/NAME.jsonl and, for each rank, FOLDER/shapes.RANK.json: of
each checkpoint the rows that it holds of one layer, and all there are.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

torch.set_num_threads(1)


def main(folder: Path, rows: str, checkpoints: list[str]) -> None:
    import dllm.jobs.engine as engine
    from dllm.cli.main import app

    shapes: dict[str, list[int]] = {}
    leave, enter = engine.leave_process_group, engine.TensorParallelEngine.__enter__

    def noted(self: engine.TensorParallelEngine) -> engine.TensorParallelEngine:
        enter(self)
        weight = self.model.network.get_decoder().layers[0].self_attn.k_proj.weight
        shapes[Path(str(self.name)).name] = [len(weight.to_local()), len(weight)]
        return self

    engine.TensorParallelEngine.__enter__, engine.leave_process_group = noted, lambda: None  # type: ignore[method-assign]
    for checkpoint in checkpoints:
        output = str(folder / f"{Path(checkpoint).name}.jsonl")
        words = ["decode", "--model", checkpoint, "--input", rows, "--output", output, "--max-new-tokens", "24"]
        app([*words, "--policy", "threshold", "--tau", "0.3", "--cache", "dual", "--quiet"], standalone_mode=False)
    (folder / f"shapes.{os.environ['RANK']}.json").write_text(json.dumps(shapes))
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
