"""What the pipeline answers: passages, how sure the run is of them, predictions and rollouts as text."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from nextvec.decoding.base import Decoded
from nextvec.inference.rollout import RolloutStep
from nextvec.vectors import RawVectors, UnitVectors


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

    def judged(self, probability: float) -> Passage:
        """The same with its probability."""
        return replace(self, probability=probability)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        said = {name: getattr(self, name) for name in ("document", "title", "position", "probability")}
        return {**self.decoded.to_json(), **said}


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
        said = {name: getattr(self, name) for name in ("read", "of", "last", "objection")}
        return {**said, "steps": [step.to_json() for step in self.steps]}
