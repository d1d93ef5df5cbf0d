"""What is judged: anything that turns the vectors read so far into a guess at the next one."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nextvec.data.windows import FloatArray, IntArray
from nextvec.errors import EvaluationError
from nextvec.vectors import unit as unit

Kind = Literal["model", "baseline"]
UNIT_TOLERANCE = 1e-3


class Predictor(Protocol):
    """A next-vector predictor.

    `context` is how many of the most recent vectors it uses; the harness never gives it more. Five further
    attributes are read when a predictor has them: `encoder`, the fingerprint of the encoder whose vectors it
    was made for (another store is refused); `facts`, a dictionary that goes into its row of the table
    (parameters, bytes, seconds, ...); `dimension`, the D it takes; `generative`, whether it can be asked for
    samples (see `nextvec.evaluation.generative`); `conditional`, whether it can be told what to write
    towards: then `predict` (and `sample`) takes `queries` [B, D] too, where a row of zeros tells nothing.
    """

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> Kind: ...

    @property
    def context(self) -> int: ...

    def predict(self, contexts: FloatArray, lengths: IntArray) -> tuple[FloatArray, FloatArray]:
        """Raw and unit prediction, both [B, D], from contexts [B, T, D] padded on the right, lengths [B]."""
        ...


def row_dots(a: FloatArray, b: FloatArray) -> NDArray[np.float64]:
    """Row by row dot products [N] of [N, D], summed in float64."""
    return np.asarray(np.einsum("nd,nd->n", a, b, dtype=np.float64))


@runtime_checkable
class ConditionalPredictor(Predictor, Protocol):
    """A predictor that may be told what to write towards."""

    conditional: bool

    def predict(
        self, contexts: FloatArray, lengths: IntArray, queries: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """As of any predictor, with queries [B, D]; a row of zeros, or None, tells nothing."""
        ...


def ask(
    predictor: Predictor, contexts: FloatArray, lengths: IntArray, queries: FloatArray | None = None
) -> tuple[FloatArray, FloatArray]:
    """Its raw and unit prediction, both [B, D], after `checked`; a conditional one is told the queries."""
    if queries is not None and isinstance(predictor, ConditionalPredictor) and predictor.conditional:
        raw, units = predictor.predict(contexts, lengths, queries)
    else:
        raw, units = predictor.predict(contexts, lengths)
    checked(predictor, raw, units, (len(lengths), contexts.shape[2]))
    return raw, units


def checked(predictor: Predictor, raw: FloatArray, unit_: FloatArray, shape: tuple[int, int]) -> None:
    """Refuse predictions that no figure could be trusted on. Raises EvaluationError naming the predictor."""
    for what, values in (("raw", raw), ("unit", unit_)):
        if values.shape != shape:
            raise EvaluationError(
                f"{what} predictions have shape {values.shape}, not {shape}", where=predictor.name
            )
        if not np.isfinite(values).all():
            raise EvaluationError(
                f"{what} predictions hold NaN or infinity",
                where=predictor.name,
                remedy="see whether training diverged",
            )
    norms = np.sqrt(np.einsum("bd,bd->b", unit_, unit_, dtype=np.float64))
    # A zero prediction has no direction; it stays zero and scores a cosine of 0.
    off = np.abs(norms - 1) > UNIT_TOLERANCE
    if (off & (norms > 0)).any():
        raise EvaluationError(
            f"unit predictions have lengths from {norms.min():.3g} to {norms.max():.3g}",
            where=predictor.name,
            remedy="normalise them; the raw output goes first, the unit output second",
        )
