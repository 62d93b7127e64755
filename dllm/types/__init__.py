"""The nouns of decoding and the base classes of parts, which every part speaks."""

from dllm.types.attention import (
    Bidirectional,
    BlockCausal,
    Geometry,
    Query,
    RowSubset,
    Store,
)
from dllm.types.canvas import (
    LEAST,
    Canvas,
    Guess,
    HostSlots,
    HostView,
    Ledger,
    Rows,
    Seen,
    Step,
    Verdict,
    Where,
    Window,
    mask_scores,
    move_columns,
    text_start,
)
from dllm.types.part import (
    Part,
    has_field,
)
from dllm.types.protocols import (
    Cache,
    CausalModel,
    Model,
    Policy,
    Processor,
    Scheduler,
    State,
    Transient,
)
from dllm.types.scale import (
    LOG2_E,
    LogitScale,
    exponentiate,
)
from dllm.types.signal import (
    Probe,
    Signal,
)

__all__ = [
    "LEAST",
    "LOG2_E",
    "Bidirectional",
    "BlockCausal",
    "Cache",
    "Canvas",
    "CausalModel",
    "Geometry",
    "Guess",
    "HostSlots",
    "HostView",
    "Ledger",
    "LogitScale",
    "Model",
    "Part",
    "Policy",
    "Probe",
    "Processor",
    "Query",
    "RowSubset",
    "Rows",
    "Scheduler",
    "Seen",
    "Signal",
    "State",
    "Step",
    "Store",
    "Transient",
    "Verdict",
    "Where",
    "Window",
    "exponentiate",
    "has_field",
    "mask_scores",
    "move_columns",
    "text_start",
]
