"""A decoder's texts for the vectors of a bench, and how good each of them is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nextvec.data.windows import FloatArray
from nextvec.decoding.base import Decoder
from nextvec.decoding.quality import bleu, gibberish, token_f1, words_of
from nextvec.evaluation.diagnostics.model.part import Estimate, estimate
from nextvec.evaluation.predictor import row_dots
from nextvec.experiments.decoders.bench import Bench
from nextvec.progress import Progress
from nextvec.vectors import RawVectors

BLOCK = 16
Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Written:
    """A text for each of N vectors.

    Attributes:
        texts: [N].
        units: [N, D] the texts encoded again, at unit length.
        seconds: a text, of decoding alone; None where nothing was decoded.
    """

    texts: tuple[str, ...]
    units: FloatArray
    seconds: float | None = None

    def exchanged(self, bench: Bench) -> Written:
        """The control: in the place of each text that of another document's vector."""
        others = bench.others
        return Written(tuple(self.texts[i] for i in others), self.units[others], self.seconds)


def true_texts(bench: Bench) -> Written:
    """The chunks themselves, encoded again: what no decoder can do better than."""
    return _read_back(bench, bench.truths, None)


def write(bench: Bench, decoder: Decoder, vectors: RawVectors) -> Written:
    """What a decoder makes of vectors [N, D]. Raises as `Decoder.decode` and the bench's encoder."""
    texts, spent = [], 0.0
    with Progress(f"decoding, {decoder.name}", len(bench), "vectors", quiet=bench.quiet) as progress:
        for start in range(0, len(bench), BLOCK):
            part = vectors.values[start : start + BLOCK]
            block = RawVectors(part, vectors.encoder, vectors.normalised)
            started = time.perf_counter()
            texts += decoder.text(block)
            spent += time.perf_counter() - started
            progress.advance(len(block.values))
    return _read_back(bench, texts, spent / len(bench))


def _read_back(bench: Bench, texts: Sequence[str], seconds: float | None) -> Written:
    return Written(tuple(texts), bench.encode(texts, "encoding texts").unit().values, seconds)


@dataclass(frozen=True, eq=False)
class Scores:
    """Figures of N texts.

    Attributes:
        cosine: [N] of the text, encoded again, to the true chunk's vector.
        given: [N] to the vector that was to be decoded (the same, unless that was a prediction).
        token_f1: [N] against the true text, with its corpus `bleu`.
        gibberish, copied: [N] 1 where the text repeats itself as no writer does; where it stands in training.
        unknown: [N] share of words that stand in no training text.
        words: [N].
    """

    cosine: Values
    given: Values
    token_f1: Values
    bleu: float
    gibberish: Values
    copied: Values
    unknown: Values
    words: Values

    @classmethod
    def of(cls, bench: Bench, written: Written, given: FloatArray | None = None) -> Scores:
        """Judge texts; `given` [N, D] are the unit vectors decoded, None the chunks' own."""
        texts, known = written.texts, bench.known
        cosine = row_dots(written.units, bench.target_units)
        pairs = list(zip(texts, bench.truths, strict=True))
        return cls(
            cosine=cosine,
            given=cosine if given is None else row_dots(written.units, given),
            token_f1=np.array([token_f1(text, truth) for text, truth in pairs]),
            bleu=bleu(texts, bench.truths),
            gibberish=np.array([gibberish(text) for text in texts], dtype=np.float64),
            copied=np.array([known.copied(text) for text in texts], dtype=np.float64),
            unknown=np.array([known.unknown(text) for text in texts]),
            words=np.array([len(words_of(text)) for text in texts], dtype=np.float64),
        )


@dataclass(frozen=True)
class Gain:
    """What a decoder's texts have over those of its control, on the same chunks."""

    cosine: Estimate
    given: Estimate
    token_f1: Estimate


@dataclass(frozen=True)
class Row:
    """Means of `Scores`, with 95 % intervals over documents.

    Attributes:
        how: "true", "retrieved", "generated", or "shuffled": the control of the row above it.
        copied: how many texts of N.
        over_control: None for a row that has no control.
    """

    name: str
    how: str
    cosine: Estimate
    given: Estimate
    token_f1: Estimate
    bleu: float
    gibberish: Estimate
    copied: int
    unknown: float
    words: float
    seconds: float | None
    over_control: Gain | None = None

    @classmethod
    def of(
        cls,
        bench: Bench,
        name: str,
        how: str,
        scores: Scores,
        seconds: float | None = None,
        control: Scores | None = None,
    ) -> Row:
        """Take the means."""
        documents = bench.windows.document
        return cls(
            name,
            how,
            cosine=estimate(documents, scores.cosine),
            given=estimate(documents, scores.given),
            token_f1=estimate(documents, scores.token_f1),
            bleu=scores.bleu,
            gibberish=estimate(documents, scores.gibberish),
            copied=int(scores.copied.sum()),
            unknown=float(scores.unknown.mean()),
            words=float(scores.words.mean()),
            seconds=seconds,
            over_control=None if control is None else _gain(bench, scores, control),
        )


def _gain(bench: Bench, scores: Scores, control: Scores) -> Gain:
    documents = bench.windows.document
    return Gain(
        **{
            name: estimate(documents, getattr(scores, name), getattr(control, name))
            for name in ("cosine", "given", "token_f1")
        }
    )


@dataclass(frozen=True, eq=False)
class Trial:
    """A decoder's texts for vectors [N, D], judged, beside its control."""

    written: Written
    scores: Scores
    control: Scores

    @classmethod
    def of(
        cls, bench: Bench, decoder: Decoder, vectors: RawVectors, given: FloatArray | None = None
    ) -> Trial:
        """Decode and judge; `given` as in `Scores.of`. Raises as `write`."""
        written = write(bench, decoder, vectors)
        control = Scores.of(bench, written.exchanged(bench), given)
        return cls(written, Scores.of(bench, written, given), control)

    def rows(self, bench: Bench, name: str, how: str) -> tuple[Row, Row]:
        """The row of the decoder and that of its shuffled control."""
        row = Row.of(bench, name, how, self.scores, self.written.seconds, self.control)
        return row, Row.of(bench, f"{name}, shuffled", "shuffled", self.control)
