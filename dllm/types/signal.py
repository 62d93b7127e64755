"""What a policy may ask for beside the candidate and its probability: signals, computed from logits, and probes, which
the model fills."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxtyping import Float, Shaped
from torch import Tensor

from dllm.types.part import Part

if TYPE_CHECKING:
    from dllm.types.attention import Query
    from dllm.types.canvas import Where
    from dllm.types.scale import LogitScale


@dataclass(frozen=True)
class Signal(Part, hooks=("compute", "reads_logits", "covers_decided")):
    """A plane of numbers that a policy asks for by naming it in `needs`, and reads as `guess[signal]`.

    A signal is computed in the one pass over the vocabulary, and only for the slots that get logits; the other slots of
    the window hold zeros. Where the logits of a step do not fit in memory at once, it is called several times with some
    of the slots each, and with none where no slot gets logits: the value of a slot must depend on that slot alone.

    Attributes:
        reads_logits: Whether `compute` reads the logits. Where no signal does, they may be overwritten before.
        covers_decided: Whether the policy judges decided slots too, so that these also get logits.
    """

    reads_logits: ClassVar[bool] = True
    covers_decided: ClassVar[bool] = False

    def compute(self, logits: Float[Tensor, "n v"], where: Where, scale: LogitScale, /) -> Shaped[Tensor, "n ..."]:
        """Compute the value of n slots. n may be zero; the shape of what is returned then still counts.

        Args:
            logits: Logits of the slots, after all processors. The mask token's logit is among them; it is no candidate.
                They must not be written into.
            where: The slots: `where.row`, `where.column` and `where.token` of each, whether it is `where.pending`, the
                canvas that they lie on (`where.canvas`), and the mask id.
            scale: The normaliser of the slots: `scale.probability(logits)` is the marginal.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Probe(Part, hooks=("extract", "attentions", "hidden_states")):
    """A look inside the network that a policy asks for in `needs`, and reads as `guess[probe]`.

    The model fills it in the forward of the step. Models that show nothing of their inside, caches that serve a step
    without a forward and compiled models refuse it before decoding begins.

    Attributes:
        attentions: Whether the network has to return attention weights, which only its eager attention has.
        hidden_states: Whether the network has to return the states of all layers.
    """

    attentions: ClassVar[bool] = False
    hidden_states: ClassVar[bool] = False

    def extract(self, output: Any, query: Query, columns: int, /) -> Float[Tensor, "r q ..."]:
        """Read the value of every queried column.

        Args:
            output: Output of the network's decoder, with `attentions` and `hidden_states` where they are asked for.
            query: Query of the forward; slot i of its rows is the column `query.columns[:, i]`.
            columns: Width t of the canvas, to which a value with one number for each key is padded.
        """
        raise NotImplementedError
