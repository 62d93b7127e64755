"""Decode with every annotated shape checked: `python -m tests.shapes`. A separate process, since the hook that checks
has to be installed before `dllm` is imported."""

from __future__ import annotations

import sys
from typing import Any, get_type_hints

from jaxtyping import install_import_hook, jaxtyped

import tests.typechecker  # noqa: F401 the hook finds it by its name, among what is imported

CHECKED = ["dllm.engine", "dllm.policies", "dllm.schedulers", "dllm.caches", "dllm.signals", "dllm.types"]
EVERY = 211
"""One cell in so many of the laws' product is decoded."""


def check_fields(value: Any) -> int:
    """Check the fields of a named tuple or a signal-carrying guess against their annotations, with one size an axis."""
    from torch import Tensor

    hints = get_type_hints(type(value))
    tensors = 0
    with jaxtyped("context"):
        for name, hint in hints.items():
            field = getattr(value, name)
            if isinstance(field, Tensor):
                assert isinstance(field, hint), (
                    f"{type(value).__name__}.{name}: {tuple(field.shape)} {field.dtype} is no {hint}"
                )
                tensors += 1
    return tensors


def check_that_wrong_shapes_are_found() -> None:
    """Call an annotated function with a mask of another width than the scores."""
    import torch
    from jaxtyping import TypeCheckError

    from dllm.types import mask_scores

    try:
        mask_scores(torch.zeros(2, 3), torch.ones(2, 4, dtype=torch.bool))
    except TypeCheckError:
        return
    raise AssertionError("a mask (2, 4) was taken for scores (2, 3): nothing is checked")


def main() -> None:
    with install_import_hook(CHECKED, "tests.typechecker.check"):
        from dllm import Request, Sampling, steps
        from dllm.types import Canvas
    check_that_wrong_shapes_are_found()
    from dataclasses import replace

    from tests.parts import CELLS
    from tests.tiny import tiny_model

    requests = [Request((3, 7, 1, 22, 9), 13, seed=1), Request((5, 2, 8), 4), Request((9, 9, 1), 6)]
    decoded = checked = 0
    for number, (geometry, strategy) in enumerate(CELLS[::EVERY]):
        if number % 3 == 0:
            strategy = replace(strategy, sampling=Sampling(1.0))
        for step in steps(tiny_model(geometry), requests, strategy, batch_size=2):
            assert isinstance(step.canvas, Canvas)
            for noun in (step, step.canvas, step.canvas.rows, step.window, step.guess, step.ledger):
                checked += check_fields(noun)
        decoded += 1
    sys.stdout.write(f"{decoded} cells decoded, {checked} fields checked\n")


if __name__ == "__main__":
    main()
