"""A server's encoder that was shown to be one that can be loaded here: both encode 32 fixed texts, and their
vectors have to be the same. The two then share a space: a store of the one takes vectors of the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nextvec.corpus.encoders.base import Advance, Encoder
from nextvec.corpus.layout import FloatArray
from nextvec.errors import EncoderMismatchError
from nextvec.vectors import unit

LEAST_COSINE = 0.999
"""Two precisions are nearer than that to each other; another pooling or prompt is far below."""
LENGTHS_APART = 0.02

_SENTENCES = (
    "The ship left the harbour before dawn.",
    "Water boils at lower temperatures on high mountains.",
    "In 1931 the bridge was closed for repairs that took seven years.",
    "She asked him twice; he did not answer.",
    "Die Mühle stand am Fluss, und das Rad drehte sich Tag und Nacht.",
    "Le vent se lève, il faut tenter de vivre.",
    "图书馆在星期天关门。",
    "На станции никого не было.",
    "Interest rates rose by a quarter of a point, to 5.25 %.",
    "def mean(values): return sum(values) / len(values)",
    "Photosynthesis turns light, water and carbon dioxide into sugar.",
    "WARNING: DO NOT OPEN WHILE THE MACHINE IS RUNNING",
    "The court held that the contract was void, because no price had been agreed.",
    "Add the eggs one at a time, beating well after each.",
    "Every even number greater than two is, it is believed, the sum of two primes.",
    "He scored twice in the last five minutes of the match.",
)
PROBE = (
    *_SENTENCES,
    *(" ".join(_SENTENCES[i : i + 3]) for i in range(10)),
    "42",
    "harbour",
    "naïve café, œuvre, Straße",
    "one\ntwo\n\nthree",
    " ".join(_SENTENCES),
    " ".join(_SENTENCES * 6),
)
"""32 texts: words, sentences, passages, and two that are longer than most encoders read."""


class ProvedEncoder:
    """A server's vectors under the name and the fingerprint of an encoder that is here. See `Encoder` for the
    attributes.

    Args:
        served: gives the vectors.
        local: what they are to be the same as.
    Raises:
        EncoderMismatchError: they are not; the worst text is quoted.
    """

    def __init__(self, served: Encoder, local: Encoder) -> None:
        self.least = _compared(served, local)
        self._served, self._local = served, local
        self.name, self.dimension, self.max_tokens = local.name, local.dimension, local.max_tokens
        self.normalises, self.unit = local.normalises or served.unit, served.unit
        self.path = f"{served.path} as {local.name} (cosine {self.least:.5f} at least)"
        self.fingerprint: dict[str, Any] = {**local.fingerprint, "served": served.fingerprint}

    @property
    def tokenizer_file(self) -> Path | None:
        """The local one's."""
        found: Path | None = getattr(self._local, "tokenizer_file", None)
        return found

    def encode(self, texts: Sequence[str], advance: Advance | None = None) -> FloatArray:
        """The server's vectors float32 [n, D] in the order of the texts. Raises EncoderError."""
        return self._served.encode(texts, advance)

    def count_tokens(self, texts: Sequence[str]) -> list[tuple[int, int]] | None:
        """By the local tokenizer."""
        return self._local.count_tokens(texts)


def _compared(served: Encoder, local: Encoder) -> float:
    """The least cosine of the two over the probe. Raises EncoderMismatchError."""
    remedy = f"leave same_as out of --encoder-option, or serve the weights of '{local.name}'"
    if served.dimension != local.dimension:
        raise EncoderMismatchError(
            f"the server's '{served.name}' gives {served.dimension} dimensions, '{local.name}' "
            f"{local.dimension}",
            remedy=remedy,
        )
    ours, theirs = local.encode(PROBE), served.encode(PROBE)
    cosines = (unit(ours).astype(np.float64) * unit(theirs)).sum(axis=1)
    worst = int(cosines.argmin())
    if cosines[worst] < LEAST_COSINE:
        raise EncoderMismatchError(
            f"the server's '{served.name}' is not '{local.name}': the cosine of their vectors is "
            f"{cosines[worst]:.4f} for a text of {len(PROBE[worst])} characters, '{PROBE[worst][:40]}'",
            remedy=remedy,
        )
    ratio = np.linalg.norm(theirs, axis=1) / np.linalg.norm(ours, axis=1)
    if not served.unit and np.abs(ratio - 1).max() > LENGTHS_APART:
        raise EncoderMismatchError(
            f"the server's vectors have the directions of those of '{local.name}' and lengths "
            f"{ratio.min():.3f} to {ratio.max():.3f} times theirs",
            remedy=remedy,
        )
    return float(cosines[worst])
