"""What the README shows is what runs."""

from __future__ import annotations

import re
import textwrap

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_loop_is_the_loop() -> None:
    """The first block is the body of `dllm.engine.loop.steps`, to the letter, and is read in one sitting."""
    source = (ROOT / "dllm" / "engine" / "loop.py").read_text(encoding="utf-8")
    loop = textwrap.dedent(source[source.index("    for number in count():") :])
    assert BLOCKS[0] == loop
    assert len(loop.splitlines()) - 1 <= 20


def test_the_python_of_the_readme_runs() -> None:
    code = next(block for block in BLOCKS if block.startswith("import dllm"))
    shown: list[tuple[object, ...]] = []
    exec(compile(code, "README.md", "exec"), {"print": lambda *values: shown.append(values)})
    assert any("14" in str(values[0]) for values in shown), "8 + 6"
