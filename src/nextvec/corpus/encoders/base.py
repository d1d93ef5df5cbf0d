"""What every encoder gives: raw vectors, and a fingerprint that says which vectors may be mixed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from nextvec.corpus.vectors import FloatArray

Advance = Callable[[int], object]
"""Called with the number of texts just encoded, for a progress bar."""


class Encoder(Protocol):
    """Texts -> raw vectors.

    Attributes:
        name: for people.
        dimension: D.
        max_tokens: texts are cut after so many tokens; None where that is not known here.
        normalises: the published encoder ends with an L2 normalisation (which `encode` leaves out).
        unit: what `encode` returns is of unit length already, because raw vectors cannot be had.
        path: how vectors are computed, e.g. "cpu bfloat16". Same texts in the same order on the same
            path: same bytes.
        fingerprint: JSON-ready description; its "fingerprint" is equal for encoders whose vectors may be
            mixed, whatever the path.
    """

    name: str
    dimension: int
    max_tokens: int | None
    normalises: bool
    unit: bool
    path: str
    fingerprint: dict[str, Any]

    def encode(self, texts: Sequence[str], advance: Advance | None = None) -> FloatArray:
        """Raw vectors float32 [n, D], in the order of the texts. Raises EncoderError."""

    def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        """Tokens of each text before any cutting; None where only the server knows."""


def digest(parts: Mapping[str, Any]) -> str:
    """The fingerprint string over what makes two encoders' vectors the same."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
