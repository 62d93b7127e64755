"""The shapes in annotations are those of the tensors: a sample of all combinations, decoded with every call checked."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT


def test_annotated_shapes_hold() -> None:
    run = subprocess.run([sys.executable, "-m", "tests.shapes"], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "cells decoded" in run.stdout
