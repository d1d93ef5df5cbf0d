"""What every decoder owes: text for raw vectors of the one encoder it was made for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from nextvec.corpus.vectors import FloatArray
from nextvec.data.trained import TrainedOn
from nextvec.errors import DecoderError
from nextvec.vectors import RawVectors, require_raw

How = Literal["retrieved", "generated"]


@dataclass(frozen=True)
class Decoded:
    """One text for one vector.

    Attributes:
        text: never empty.
        score: how good the decoder thinks it is, higher is better; each decoder says on what scale.
        how: "retrieved" is a chunk that somebody wrote, "generated" a text that nobody did.
        row: of the store it was taken from; None where it was generated.
    """

    text: str
    score: float
    how: How
    row: int | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"text": self.text, "score": self.score, "how": self.how, "row": self.row}


class Decoder(ABC):
    """Raw vectors in, texts out. A subclass gives `name`, `how`, `encoder`, `dimension` and `texts_of`.

    Leaving it as a context manager closes it.

    Attributes:
        name: for people and tables.
        how: whether it retrieves or generates.
        encoder: fingerprint of the encoder whose raw vectors it takes.
        dimension: D.
        normalised: it takes the encoder's vectors at unit length (`RawVectors.normalised`), not raw; None: it
            looks at directions only and takes both.
        trained_on: keys of what it learned from, on which it is not judged; None where nothing is known.
    """

    name: str
    how: ClassVar[How]
    encoder: str
    dimension: int
    normalised: bool | None = False
    trained_on: TrainedOn | None = None

    @abstractmethod
    def texts_of(self, values: FloatArray, n: int) -> list[list[Decoded]]:
        """For each row of values [N, D] at most n texts, the best first, one at least."""

    def decode(self, vectors: RawVectors, n: int = 1) -> list[list[Decoded]]:
        """For each of the vectors [N, D] at most n texts, the best first, one at least.

        Raises:
            VectorError: anything but RawVectors; a unit vector has lost the length that a decoder needs.
            EncoderMismatchError: vectors of another encoder than it was made for, or at unit length where it
                takes raw ones, or the other way round.
            DecoderError: another shape, or no text asked for.
        """
        values = require_raw(vectors).of(self.encoder, self.normalised).values
        if values.ndim != 2 or values.shape[1] != self.dimension:
            raise DecoderError(
                f"decoder '{self.name}': vectors of shape {list(values.shape)}",
                remedy=f"give [N, {self.dimension}]",
            )
        if n < 1:
            raise DecoderError(f"{n} texts a vector", remedy="ask for 1 or more")
        return self.texts_of(values, n) if len(values) else []

    def close(self) -> None:  # noqa: B027  (most hold nothing)
        """Let go of what it holds beside its memory: nothing, unless a subclass says otherwise."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def text(self, vectors: RawVectors) -> list[str]:
        """The best text of each vector [N, D]. Raises as `decode`."""
        return [found[0].text for found in self.decode(vectors)]
