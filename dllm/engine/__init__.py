"""The engine: everything that happens in one denoising step, for any strategy. It knows the base classes and no part.

Read `loop` first; it calls `batch` (rows and waiting requests), `propose` (from hidden states to a guess), `commit`
(what is really done), `record` (when and how each column was decided) and `stop` (when a row is finished).
"""
