"""Raw and unit vectors as different types, so that one cannot be taken for the other.

A decoder trained on the encoder's raw vectors turns unit ones into gibberish, and a cosine index of raw
vectors ranks by length. What is handed to a decoder is a `RawVectors`, what is handed to retrieval is a
`UnitVectors`, and each carries the fingerprint of the encoder whose space it lies in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nextvec.errors import EncoderMismatchError, VectorError

UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class _Vectors:
    """float32 vectors [..., D] of one encoder. The array is read-only: a copy, unless it was read-only.

    Attributes:
        values: [..., D].
        encoder: fingerprint of the encoder (`Store.encoder["fingerprint"]`).
    Raises:
        VectorError: no axis, not numbers, or a value that is not finite (or too large for float32).
    """

    values: NDArray[np.float32]
    encoder: str

    def __post_init__(self) -> None:
        remedy = "give floating point numbers [..., D]"
        try:
            given = np.asarray(self.values)
        except ValueError:  # a ragged list
            raise VectorError("rows of different lengths are not vectors", remedy=remedy) from None
        if given.ndim == 0 or not np.issubdtype(given.dtype, np.floating):
            raise VectorError(f"{given.dtype} of shape {list(given.shape)} are not vectors", remedy=remedy)
        with np.errstate(over="ignore"):
            values = given.astype(np.float32, copy=given.flags.writeable)
        finite = np.asarray(np.isfinite(values).all(axis=-1))
        if not finite.all():
            message = f"{self._place(~finite)} holds NaN or infinity"
            raise VectorError(message, remedy="leave it out, or encode it again")
        values.flags.writeable = False
        object.__setattr__(self, "values", values)

    @property
    def dimension(self) -> int:
        """D."""
        return int(self.values.shape[-1])

    def of(self, encoder: str) -> Self:
        """Itself, if it lies in the space of this encoder. Raises EncoderMismatchError otherwise."""
        if encoder != self.encoder:
            message = f"vectors of the encoder {self.encoder} where those of {encoder} are needed"
            raise EncoderMismatchError(message, remedy="encode the texts with that encoder")
        return self

    @staticmethod
    def _place(bad: NDArray[np.bool_]) -> str:
        """The first vector that is meant, by its indices."""
        return f"vector {list(map(int, np.argwhere(bad)[0]))}" if bad.ndim else "the vector"


@dataclass(frozen=True, eq=False)
class RawVectors(_Vectors):
    """Vectors in the encoder's own distribution, of any length. Decoders take these.

    Attributes:
        normalised: the distribution is that of the encoder's vectors at unit length, as an imported store may
            hold them: a prediction of such is about 1 long and nothing for a decoder of raw ones.
    """

    normalised: bool = False

    def of(self, encoder: str, normalised: bool | None = None) -> Self:
        """Itself, if it lies in the space of this encoder and, unless None, `normalised` agrees.

        Raises EncoderMismatchError otherwise.
        """
        found = super().of(encoder)
        if normalised not in (None, self.normalised):
            kinds = ("raw vectors", "vectors at unit length")
            has, needs = kinds[self.normalised], kinds[not self.normalised]
            remedy = "use stores, runs and decoders of one kind: ingest the texts to have raw vectors"
            message = f"{has} of the encoder {encoder} where its {needs} are needed"
            raise EncoderMismatchError(message, remedy=remedy)
        return found

    def unit(self) -> UnitVectors:
        """Each divided by its length; a zero vector stays zero."""
        return UnitVectors(unit(self.values), self.encoder)


class UnitVectors(_Vectors):
    """Vectors of length one (within 0.001) or zero. Cosine and retrieval take these.

    Raises:
        VectorError: also when a vector has another length.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        norms = _norms(self.values)
        off = np.asarray((np.abs(norms - 1) > UNIT_TOLERANCE) & (norms > 0))
        if off.any():
            message = f"{self._place(off)} has length {float(norms[off].ravel()[0]):.4g}, not 1"
            raise VectorError(message, remedy="make RawVectors of them and take .unit()")


def require_raw(vectors: Any) -> RawVectors:
    """The argument, if it is RawVectors.

    Raises:
        VectorError: it is anything else; a unit vector has lost the length that a decoder needs.
    """
    if isinstance(vectors, RawVectors):
        return vectors
    remedy = "wrap the encoder's or the model's raw output: RawVectors(raw, encoder)"
    if isinstance(vectors, UnitVectors):
        remedy = "give the vectors as they were before .unit(); their length cannot be had back"
    raise VectorError(f"raw vectors are needed, not {_named(vectors)}", remedy=remedy)


def require_unit(vectors: Any) -> UnitVectors:
    """The argument, if it is UnitVectors. Raises VectorError naming what it is and what to do."""
    if isinstance(vectors, UnitVectors):
        return vectors
    remedy = "wrap them: RawVectors(raw, encoder).unit()"
    if isinstance(vectors, RawVectors):
        remedy = "take .unit() of them"
    raise VectorError(f"unit vectors are needed, not {_named(vectors)}", remedy=remedy)


def _named(value: Any) -> str:
    shape = getattr(getattr(value, "values", value), "shape", None)
    kind = type(value).__name__
    return f"{kind} of shape {list(shape)}" if isinstance(shape, tuple) else kind


def unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Vectors [..., D] at unit length; a zero vector stays zero."""
    norms = _norms(vectors)
    scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    return np.asarray(vectors * scale[..., None].astype(np.float32), dtype=np.float32)


def rounding(D: int) -> float:
    """How far a float32 dot product of unit vectors of D dimensions may be from the exact one.

    |float32 dot - exact dot| <= D 2^-24 (Higham 2002, eq. 3.5), however the sum is ordered; the rest covers
    rounding of the vectors themselves and of the thresholds.
    """
    return 1.01 * (D + 16) * 2.0**-24


def _norms(values: NDArray[Any]) -> NDArray[np.float64]:
    """Lengths [...] of [..., D], summed in float64: a float32 sum over D squares can be off in the sixth
    digit."""
    return np.asarray(np.sqrt(np.einsum("...d,...d->...", values, values, dtype=np.float64)))
