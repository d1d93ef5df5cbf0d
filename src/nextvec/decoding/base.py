"""What every decoder owes: text for raw vectors of the one encoder it was made for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np

from nextvec.corpus.layout import FloatArray
from nextvec.data.trained import TrainedOn
from nextvec.errors import DecoderError
from nextvec.inference.rollout import RolloutStep
from nextvec.vectors import RawVectors, UnitVectors, require_raw

How = Literal["retrieved", "generated"]
MANIFEST = "decoder.json"
"""In a decoder's folder: its kind, and the encoder whose vectors it takes."""


@dataclass(frozen=True)
class Decoded:
    """One text for one vector.

    Attributes:
        text: never empty.
        score: how good the decoder thinks it is, higher is better; each decoder says on what scale.
        how: "retrieved" is a chunk that somebody wrote, "generated" a text that no one did.
        row: of the store it was taken from; None where it was generated.
    """

    text: str
    score: float
    how: How
    row: int | None = None

    def to_json(self) -> dict[str, Any]:
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
        trained_on: keys of what it learned from, on which it is not evaluated; None where nothing is known.
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
            remedy = f"give [N, {self.dimension}]"
            raise DecoderError(f"decoder '{self.name}': vectors of shape {list(values.shape)}", remedy=remedy)
        if n < 1:
            raise DecoderError(f"{n} texts a vector", remedy="request 1 or more")
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


# What the pipeline answers: passages, how sure the run is of them, predictions and rollouts as text.


@dataclass(frozen=True)
class Passage:
    """A text that may come next.

    Attributes:
        decoded: the text, its score, and whether somebody wrote it.
        document: id of the document it stands in; None where it was generated.
        title: of that document.
        position: of the chunk in it, from 0.
        probability: that it follows what was read rather than come from another document, at even odds, as
            the run calibrated it on true next chunks; None where the run was trained without confidence.
    """

    decoded: Decoded
    document: str | None = None
    title: str | None = None
    position: int | None = None
    probability: float | None = None

    def with_probability(self, probability: float) -> Passage:
        return replace(self, probability=probability)

    def to_json(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in ("document", "title", "position", "probability")}
        return {**self.decoded.to_json(), **fields}


@dataclass(frozen=True)
class Confidence:
    """How sure a run is.

    Attributes:
        kind: "continuation": calibrated probability that the answer follows what was read rather than come
            from another document, at even odds (runs trained with confidence). "agreement": mean cosine
            between samples of what may follow, no probability (generative runs).
        value: of it.
    """

    kind: Literal["continuation", "agreement"]
    value: float


@dataclass(frozen=True, eq=False)
class NextPassage:
    """What a run says comes next.

    Attributes:
        read: chunks that the prediction was made from.
        of: chunks of the text.
        last: the text of the last one.
        horizon: the prediction is so many chunks after it; 1 is the next.
        raw: [D] the prediction as the encoder would give it; decoders take it.
        decoded: what the decoder made of it; None where there is none.
        nearest: real passages near it, the best first, without those read.
        confidence: None where the run was not trained to state any.
    """

    read: int
    of: int
    last: str
    horizon: int
    raw: RawVectors
    decoded: Passage | None
    nearest: tuple[Passage, ...]
    confidence: Confidence | None

    @property
    def unit(self) -> UnitVectors:
        """[D] the prediction at unit length, for cosine and retrieval."""
        return self.raw.unit()

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, without the vector."""
        return {
            "read": self.read,
            "of": self.of,
            "last": self.last,
            "horizon": self.horizon,
            "length": float(np.linalg.norm(self.raw.values)),
            "decoded": None if self.decoded is None else self.decoded.to_json(),
            "nearest": [passage.to_json() for passage in self.nearest],
            "confidence": None if self.confidence is None else asdict(self.confidence),
        }


@dataclass(frozen=True, eq=False)
class RolloutPassage:
    """One step of a rollout as text.

    Attributes:
        number: 1 is the first.
        step: vectors, drift and repetition.
        snapped: the real passage that the step was pulled to, if it was.
        decoded, nearest: as in `NextPassage`.
    """

    number: int
    step: RolloutStep
    snapped: Passage | None
    decoded: Passage | None
    nearest: tuple[Passage, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, without the vectors."""
        return {
            "step": self.number,
            "length": self.step.length,
            "drift": self.step.drift,
            "repetition": self.step.repetition,
            "snapped": None if self.snapped is None else self.snapped.to_json(),
            "decoded": None if self.decoded is None else self.decoded.to_json(),
            "nearest": [passage.to_json() for passage in self.nearest],
        }


@dataclass(frozen=True, eq=False)
class RolloutText:
    """A rollout as text.

    Attributes:
        read, of, last: as in `NextPassage`.
        steps: as many as asked for, or fewer.
        objection: the guard's to the last step; None where it has none.
        raw: [S, D] the steps' predictions.
    """

    read: int
    of: int
    last: str
    steps: tuple[RolloutPassage, ...]
    objection: str | None
    raw: RawVectors

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, without the vectors."""
        fields = {name: getattr(self, name) for name in ("read", "of", "last", "objection")}
        return {**fields, "steps": [step.to_json() for step in self.steps]}
