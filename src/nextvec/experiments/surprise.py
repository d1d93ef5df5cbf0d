"""Reading a document with a run: how unexpected each chunk is, and where topics change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

from nextvec.config import from_dict
from nextvec.corpus.reading import TextReader
from nextvec.corpus.store import Store
from nextvec.data.gather import gather_rows
from nextvec.data.windows import FloatArray, IntArray
from nextvec.disk import read_object
from nextvec.errors import DocumentError, RunError
from nextvec.evaluation.boundaries import CURVES, DEFAULT, Curve, Cuts, ReadDocument, Rule, high_peaks
from nextvec.evaluation.harness import check_made_for
from nextvec.inference.base import TrainedPredictor

PEAKS_APART = 2
Run = TypeVar("Run", bound=TrainedPredictor)


@dataclass(frozen=True, eq=False)
class Surprises:
    """A document of T chunks, as a run was surprised by it.

    Attributes:
        where: what was read.
        texts: of the T chunks.
        surprise: [T - 1] 1 - cos(prediction, actual) of each chunk but the first, which nothing precedes.
        finder, rule: which curve the boundaries were read off, and how.
        cuts: [T - 1] where a topic is said to end.
    """

    run: str
    where: str
    texts: tuple[str, ...]
    surprise: Curve
    finder: str
    rule: Rule
    cuts: Cuts

    def peaks(self, most: int) -> IntArray:
        """Indices of the most surprising chunks, the highest first; of neighbours the higher one only."""
        place, _ = high_peaks(self.surprise, PEAKS_APART)
        return np.asarray(place[:most] + 1)

    def segments(self) -> list[tuple[int, int]]:
        """(first, last) chunk of each segment."""
        starts = [0, *(np.flatnonzero(self.cuts) + 1).tolist()]
        return list(zip(starts, [*(s - 1 for s in starts[1:]), len(self.texts) - 1], strict=True))

    def to_json(self, most: int) -> dict[str, Any]:
        """JSON-ready; chunks are numbered from 0."""
        opens = [True, *self.cuts.tolist()]
        values = [None, *self.surprise.tolist()]
        return {
            "run": self.run,
            "document": self.where,
            "finder": self.finder,
            "rule": asdict(self.rule),
            "chunks": [
                {"surprise": value, "opens_segment": opened, "text": text}
                for value, opened, text in zip(values, opens, self.texts, strict=True)
            ],
            "peaks": self.peaks(most).tolist(),
            "segments": [list(segment) for segment in self.segments()],
        }


FILE = "boundaries.json"


@dataclass(frozen=True)
class FittedFinder:
    """The finder that was chosen, and what it was chosen by.

    Attributes:
        finder: a name in `CURVES`.
        threshold, apart, width: its `Rule`.
        pk: every finder's Pk on joined documents that no rule was fitted on; the chosen one's is the lowest.
        store: what the documents were of.
        documents: how many were joined; `segment_chunks`: fewest and most chunks of a segment.
    """

    finder: str
    threshold: float
    apart: int
    width: int
    pk: dict[str, float]
    store: str
    documents: int
    segment_chunks: tuple[int, ...]
    seed: int

    @property
    def rule(self) -> Rule:
        return Rule(self.threshold, self.apart, self.width)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "segment_chunks": list(self.segment_chunks)}


def chosen(
    run: TrainedPredictor, finder: str | None = None, threshold: float | None = None
) -> tuple[str, Rule]:
    """The finder and its rule: what was asked for, over what was fitted for the run, over `DEFAULT`.

    Raises RunError, ConfigError: a damaged file.
    """
    kept = kept_finder(run)
    name = finder or (DEFAULT if kept is None else kept.finder)
    rule = CURVES[name].usual if kept is None or kept.finder != name else kept.rule
    return name, rule if threshold is None else Rule(threshold, rule.apart, rule.width)


def kept_finder(run: TrainedPredictor) -> FittedFinder | None:
    """What was fitted for the run; None where nothing was. Raises RunError, ConfigError: a damaged
    file."""
    path = run.folder / FILE
    if not path.is_file():
        return None
    remedy = "fit it again: nextvec surprise RUN --store STORE --fit"
    found = from_dict(FittedFinder, read_object(path, RunError, needs={}, remedy=remedy), where=path)
    if found.finder not in CURVES:
        raise RunError(f"names no finder '{found.finder}'", where=path, remedy=remedy)
    return found


def next_predictor(run: Run) -> Run:
    """The run, answering for the next chunk. Raises RunError where it was not trained to."""
    if run.task != "next" or 1 not in run.horizons:
        ahead = ", ".join(map(str, run.horizons))
        did = f"{ahead} ahead" if run.task == "next" else f"what is missing (task {run.task})"
        message = f"was trained to predict {did}"
        raise RunError(message, where=run.folder, remedy="give a run that predicts the next chunk")
    return run.at_horizon(1)


def surprises_of_text(
    run: TrainedPredictor, reader: TextReader, text: str, where: str, finder: str, rule: Rule
) -> Surprises:
    """Read a text.

    Args:
        run: as `next_predictor` gives it; `reader` is of its space.
        finder, rule: as `chosen` gives them, or others of CURVES.
    Raises:
        DocumentError: shorter than two chunks. EncoderError: see TextReader.
    """
    chunks = reader.chunk(text, where)
    _check_length(len(chunks), where)
    texts = [chunk.text for chunk in chunks]
    return _surprises(run, reader.encode(texts).of(str(run.encoder)).values, texts, where, finder, rule)


def surprises_of_document(
    run: TrainedPredictor, store: Store, doc_id: str, finder: str, rule: Rule
) -> Surprises:
    """Read a document of a store.

    Raises:
        StoreError: there is no such document. DocumentError: it is shorter than two chunks.
        EncoderMismatchError, VectorError: the store is another encoder's than the run's.
    """
    check_made_for(run, store)
    document = store.find(doc_id)
    _check_length(document.count, doc_id)
    rows = store.rows_of([store.index[doc_id]])
    vectors = gather_rows(store.vectors, rows)
    return _surprises(run, vectors, store.texts(rows), doc_id, finder, rule)


def _surprises(
    run: TrainedPredictor, vectors: FloatArray, texts: Sequence[str], where: str, finder: str, rule: Rule
) -> Surprises:
    read = ReadDocument.of(run, vectors)
    surprise, cuts = CURVES["surprise"].make(read, 1), CURVES[finder].boundaries(read, rule)
    return Surprises(run.name, where, tuple(texts), surprise, finder, rule, cuts)


def _check_length(count: int, where: str) -> None:
    if count < 2:
        message = f"{count} chunk: nothing follows it that could surprise"
        raise DocumentError(message, where=where, remedy="give a longer text")
