"""Text in, text out: a text is cut and encoded, a run predicts what follows, and that becomes text again."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nextvec.corpus.chunking import Chunk
from nextvec.corpus.layout import FloatArray, IntArray
from nextvec.corpus.reading import Space, TextReader
from nextvec.decoding.base import Confidence, Decoder, NextPassage, Passage, RolloutPassage, RolloutText
from nextvec.decoding.nearest import Library
from nextvec.errors import ConfigError, DocumentError, NextvecWarning, RunError
from nextvec.inference.base import TrainedPredictor
from nextvec.inference.rollout import Find, NearestHit, RolloutSettings, RolloutStep, roll
from nextvec.retrieval.context import Reading
from nextvec.vectors import RawVectors, UnitVectors, unit

SAMPLES, SAMPLING_SEED = 32, 0


@dataclass(frozen=True, eq=False)
class TextContext:
    """A text as far as a run reads it.

    Attributes:
        chunks: all of the text's; none where vectors were given in its place.
        vectors: [T, D] of the last of them, as many as the run reads.
        query: [D] what it is steered towards.
        known: rows of the library that hold a chunk of the text.
    """

    chunks: list[Chunk]
    vectors: RawVectors
    query: FloatArray | None
    known: IntArray

    @property
    def queries(self) -> FloatArray | None:
        """[1, D]."""
        return None if self.query is None else self.query[None]

    @property
    def reading(self) -> tuple[int, int, str]:
        """Chunks that are read, chunks of the text, and the last one."""
        read = len(self.vectors.values)
        return (read, len(self.chunks), self.chunks[-1].text) if self.chunks else (read, read, "")

    @property
    def window(self) -> tuple[FloatArray, IntArray]:
        """contexts [1, T, D] and lengths [1], as a predictor takes them."""
        return self.vectors.values[None], np.array([len(self.vectors.values)], dtype=np.int64)


class Pipeline:
    """A run with what turns text into its vectors and its vectors into text. Safe to share between threads.

    Args:
        predictor: the run.
        reader: of the run's space.
        decoder: makes texts of predictions.
        library: real passages near predictions.
    Raises:
        EncoderMismatchError: the parts are of different encoders, or the decoder of other lengths.
        RunError: the run fills gaps and does not continue.
    """

    def __init__(
        self,
        predictor: TrainedPredictor,
        reader: TextReader,
        decoder: Decoder | None = None,
        library: Library | None = None,
    ) -> None:
        if predictor.task != "next":
            message = f"trained for the task '{predictor.task}': it does not predict what comes next"
            raise RunError(message, where=predictor.folder, remedy="take a run of task next")
        space = predictor.space
        _vector_of(reader.space).of(space.fingerprint, space.normalised)
        if library is not None:
            _vector_of(library.space).of(space.fingerprint)
        if decoder is not None:
            _vector_of(space).of(decoder.encoder, decoder.normalised)
        self.predictor, self.reader, self.decoder, self.library = predictor, reader, decoder, library

    def next(
        self, text: str, *, query: str | None = None, n: int = 5, where: str | None = None
    ) -> NextPassage:
        """What follows a text, at the run's nearest horizon. Arguments and errors are those of `ahead`."""
        return self.after(self.read(text, query, where), self.predictor.horizons[0], n)

    def ahead(
        self, text: str, *, query: str | None = None, n: int = 5, where: str | None = None
    ) -> list[NextPassage]:
        """What follows a text, at every horizon of the run.

        Args:
            query: what a conditional run is to write towards.
            n: real passages a horizon.
            where: the text comes from, for errors.
        Raises:
            DocumentError: a text or a query of white space.
            RunError: a query for a run that takes none.
            EncoderError, DecoderError: as their work raises them.
        """
        read = self.read(text, query, where)
        return [self.after(read, horizon, n) for horizon in self.predictor.horizons]

    def rollout(
        self,
        text: str,
        steps: int,
        settings: RolloutSettings | None = None,
        *,
        query: str | None = None,
        n: int = 1,
        where: str | None = None,
    ) -> RolloutText:
        """Go on from a text step by step, each step reading those before it.

        Args:
            settings: guard, snapping and seed; its query is replaced by `query`, if given.
            query, n, where: as in `ahead`.
        Raises:
            RunError: the run does not predict the next chunk. Also what `ahead` raises.
            ConfigError: no steps asked for; snapping without a library, or to one whose vectors have other
                lengths.
        """
        return self.go_on(self.read(text, query, where), steps, settings, n)

    def go_on(
        self, read: TextContext, steps: int, settings: RolloutSettings | None = None, n: int = 1
    ) -> RolloutText:
        """`rollout` from what was read. Arguments and errors are those of it."""
        if 1 not in self.predictor.horizons:
            raise RunError(
                f"predicts {', '.join(map(str, self.predictor.horizons))} ahead: there is nothing to read on",
                where=self.predictor.folder,
                remedy="take a run with horizon 1",
            )
        settings = settings or RolloutSettings()
        if read.query is not None:
            settings = replace(settings, query=read.query)
        find = None if self.library is None else self._finder(self.library, settings, read.known)
        rolled = roll(self.predictor.at_horizon(1), read.vectors, steps, settings, find)
        made = np.stack([step.raw for step in rolled.steps])
        raw = RawVectors(made, read.vectors.encoder, read.vectors.normalised)
        known = [read.known]
        for step in rolled.steps:
            landed = [] if step.snapped_to is None else [step.snapped_to.row]
            known.append(np.append(known[-1], np.array(landed, dtype=np.int64)))
        nearest, decoded = self._nearest(raw, n, known[1:]), self._decoded(raw)
        passages = [
            RolloutPassage(number, step, self._landed(step), text_of, near)
            for number, (step, text_of, near) in enumerate(
                zip(rolled.steps, decoded, nearest, strict=True), 1
            )
        ]
        return RolloutText(*read.reading, tuple(passages), rolled.objection, raw)

    def read(self, text: str, query: str | None = None, where: str | None = None) -> TextContext:
        """`look`, with a warning of a text shorter than any that the run was trained on."""
        read = self.look(text, query, where)
        if (short := self.shortage(read)) is not None:
            warnings.warn(f"{where or 'the text'}: {short}: give a longer text", NextvecWarning, stacklevel=2)
        return read

    def look(self, text: str, query: str | None = None, where: str | None = None) -> TextContext:
        """Cut a text and encode as much of it as the run reads. Raises as `ahead`."""
        query_vector = self._query(query)
        chunks = self.reader.chunk(text, where)
        last = chunks[-self.predictor.context :]
        vectors = self.reader.encode([chunk.text for chunk in last])
        texts = [chunk.text for chunk in chunks]
        known = np.zeros(0, np.int64) if self.library is None else self.library.rows_of(texts)
        return TextContext(chunks, vectors, query_vector, known)

    def take(self, vectors: RawVectors, query: str | None = None) -> TextContext:
        """Vectors [T, D] in place of a text; what the library holds of them is known.

        Raises RunError: a query for a run that takes none. EncoderMismatchError: of another encoder.
        """
        query_vector = self._query(query)
        last = vectors.values[-self.predictor.context :]
        read = RawVectors(last, vectors.encoder, vectors.normalised).of(str(self.predictor.encoder))
        known = np.zeros(0, np.int64)
        if self.library is not None:
            known = Reading.of_text(vectors, self.library.index).read[0]
        return TextContext([], read, query_vector, known)

    def shortage(self, read: TextContext) -> str | None:
        """In words, what a run was trained with and this lacks; None where it is long enough."""
        there, least = len(read.vectors.values), int(self.predictor.training.get("min_context", 1))
        if there >= least:
            return None
        return f"{there} chunks; {self.predictor.name} was trained with {least} and more before a target"

    def _query(self, query: str | None) -> FloatArray | None:
        if query is None:
            return None
        if not self.predictor.conditional:
            raise RunError(
                "trained without queries, so none can steer it",
                where=self.predictor.folder,
                remedy="leave the query out, or train with --task conditional "
                "--set model.options.conditional=true",
            )
        if not query.strip():
            raise DocumentError("no text in it", where="query", remedy="give a sentence, or leave it out")
        vector: FloatArray = self.reader.encode([query.strip()]).values[0]
        return vector

    def after(self, read: TextContext, horizon: int, n: int = 5) -> NextPassage:
        """What follows what was read, at a horizon of the run. Arguments and errors are those of `ahead`."""
        predictor = self.predictor.at_horizon(horizon)
        raw, _ = predictor.answer(*read.window, read.queries)
        [decoded], [nearest] = self._decoded(raw), self._nearest(raw, n, [read.known])
        decoded, *rated = self._with_probability(predictor, read, [decoded, *nearest])
        passages = tuple(passage for passage in rated if passage is not None)
        return NextPassage(
            *read.reading,
            horizon,
            RawVectors(raw.values[0], raw.encoder, raw.normalised),
            decoded,
            passages,
            self._confidence(predictor, read, decoded or next(iter(passages), None)),
        )

    def _decoded(self, raw: RawVectors) -> list[Passage | None]:
        """The best text of each of the vectors [N, D]."""
        if self.decoder is None:
            return [None] * len(raw.values)
        return [Passage(found[0]) for found in self.decoder.decode(raw)]

    def _nearest(self, raw: RawVectors, n: int, known: Sequence[IntArray]) -> list[tuple[Passage, ...]]:
        """At most n real passages near each of the vectors [N, D], without the rows known at each."""
        if self.library is None:
            return [()] * len(raw.values)
        return [tuple(found) for found in self.library.nearest(raw.unit(), n, known)]

    def _landed(self, step: RolloutStep) -> Passage | None:
        if step.snapped_to is None or self.library is None:
            return None
        return self.library.passage(step.snapped_to.row, step.snapped_to.cosine)

    def _with_probability(
        self, predictor: TrainedPredictor, read: TextContext, passages: Sequence[Passage | None]
    ) -> list[Passage | None]:
        """The same with their probabilities, where the run has any to state."""
        there = [passage for passage in passages if passage is not None]
        if not predictor.confident or not there:
            return list(passages)
        vectors = np.concatenate([self._vector(passage) for passage in there])
        found = predictor.continuation(*read.window, vectors[None], read.queries)[0]
        rated = iter([p.with_probability(float(value)) for p, value in zip(there, found, strict=True)])
        return [None if passage is None else next(rated) for passage in passages]

    def _vector(self, passage: Passage) -> FloatArray:
        """[1, D] of a passage: the library's, or encoded."""
        row = passage.decoded.row
        if row is not None and passage.document is not None and self.library is not None:
            return self.library.vectors([row], normalised=self.reader.space.normalised)
        return self.reader.encode([passage.decoded.text]).values

    def _confidence(
        self, predictor: TrainedPredictor, read: TextContext, answer: Passage | None
    ) -> Confidence | None:
        if answer is not None and answer.probability is not None:
            return Confidence("continuation", answer.probability)
        if not predictor.generative:
            return None
        drawn = predictor.sample(*read.window, SAMPLES, SAMPLING_SEED, read.queries)[:, 0]
        together = float(np.square(unit(drawn).sum(0, dtype=np.float64)).sum())
        return Confidence("agreement", (together - SAMPLES) / (SAMPLES * (SAMPLES - 1)))

    def _finder(self, library: Library, settings: RolloutSettings, known: IntArray) -> Find:
        if settings.snap is not None and library.space.normalised != self.predictor.space.normalised:
            message = "the store's vectors and those the run reads differ in length: one are raw, one unit"
            remedy = "snap to the chunks of the store that the run was trained on"
            raise ConfigError(message, where=library.store.path, remedy=remedy)

        def find(units: UnitVectors, used: IntArray) -> NearestHit | None:
            [found] = library.search(units, 1, [np.union1d(known, used)])
            if not found:
                return None
            row, cosine = found[0]
            return NearestHit(row, cosine, library.vectors([row], normalised=self.reader.space.normalised)[0])

        return find


def _vector_of(space: Space) -> RawVectors:
    """One that says of which space it is."""
    return RawVectors(np.zeros(1, np.float32), space.fingerprint, space.normalised)
