"""Traces: a stream of steps written down while it runs, to be looked at, replayed and checked afterwards.

    with dllm.tracing.Recorder("run.jsonl", model) as recorder:
        recorder.begin(requests, strategy)
        for step in dllm.steps(model, requests, strategy):
            recorder.add(step)

    trace = dllm.tracing.read_trace("run.jsonl")
    dllm.tracing.check_trace(trace)         # recompute every certificate and every result from what was recorded
    dllm.tracing.render_trace_page(trace)   # one HTML page that replays it

The format, version 1. A trace is a text file in ASCII with one JSON object a line. The first is the header, then come
one or more runs, each a run line with its steps and results, and at last `{"end": steps}`, the number of all steps. The
file appears under its name when it is complete. Numbers are as in `dllm.metrics`, columns count from 0 on the canvas,
and a reader ignores fields that it does not know.

    header  {"dllm_trace": 1, "dllm": version of the library, "model": …, "family": …, "mask_id": …, "top": candidates a
            column}
    run     {"run": {"strategy": repr of all parts, "columns": width of the canvas, "requests": [{"prompt": ids,
            "max_new_tokens": …, "stop_ids": ids or null, "seed": …, "holes": columns}, …]}}
    step    {"step": number in the run, "rows": [row, …], "pieces": {id: text of a token not seen before in the file}}
    result  {"result": {"request": …, "text": …, "output_ids": …, "when": …, "nfe": …, "queries": …, "parallel": …,
            "certified": …, "seconds": …, "stopped": …}}

A row is what a step did to one request:

    request, nfe, queries      its place in the run, its forwards so far, columns run in this step
    fresh                      whether what was predicted rests on nothing stale
    range, block               [start, end) of the window's range, and of the block
    stores                     present if a finished block was run once more, to be stored
    limit                      present where it is new: first column past the requested output
    columns                    columns that were predicted: pending ones, and decided ones that are replaced; for each
    tokens, p1, p2             the candidate, the largest and the second largest probability of the marginal, with nine
                               digits, which is float32 exactly
    confidence, mode           the candidate's probability and the arg-max, where any differs from p1 and the candidate
    top                        with `--trace-top`: the likeliest [id, probability] of each
    commit                     columns whose candidate was written
    replaced                   those of them that were decided before, if any
    revoke                     columns made pending again, if any
    moved                      for every column of the canvas the one it was before, -1 where it is new; if any moved
    parallel, certified        whether two or more were decided together, and whether provably as greedy joint decoding
"""

from dllm.tracing.checking import TraceCheckResult, check_trace
from dllm.tracing.full_probabilities import request_probabilities
from dllm.tracing.page import render_trace_page
from dllm.tracing.reading import Trace, TraceError, TraceRun, read_trace
from dllm.tracing.recording import Recorder, record_trace
from dllm.tracing.replaying import ReplayedCanvas, replay_run

__all__ = [
    "Recorder",
    "ReplayedCanvas",
    "Trace",
    "TraceCheckResult",
    "TraceError",
    "TraceRun",
    "check_trace",
    "read_trace",
    "record_trace",
    "render_trace_page",
    "replay_run",
    "request_probabilities",
]
