"""A decoder's texts for the vectors of a bench, and how good each of them is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from nextvec.data.windows import FloatArray
from nextvec.decoding.base import Decoder
from nextvec.decoding.quality import bleu, gibberish, token_f1, words_of
from nextvec.diagnostics.sections import Section, Verdict
from nextvec.evaluation.intervals import Estimate, estimate, short
from nextvec.evaluation.predictor_protocol import row_dots
from nextvec.experiments.decoder_trial import HeldOutChunks
from nextvec.experiments.evaluating import EvaluatedRun
from nextvec.progress import Progress
from nextvec.text import table
from nextvec.vectors import RawVectors

BLOCK = 16
Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DecodedTexts:
    """A text for each of N vectors.

    Attributes:
        texts: [N].
        units: [N, D] the texts encoded again, at unit length.
        seconds: a text, of decoding alone; None where nothing was decoded.
    """

    texts: tuple[str, ...]
    units: FloatArray
    seconds: float | None = None

    def exchanged(self, bench: HeldOutChunks) -> DecodedTexts:
        """The control: in the place of each text that of another document's vector."""
        others = bench.others
        return DecodedTexts(tuple(self.texts[i] for i in others), self.units[others], self.seconds)


def true_texts(bench: HeldOutChunks) -> DecodedTexts:
    """The chunks themselves, encoded again: what no decoder can do better than."""
    return _read_back(bench, bench.truths, None)


def write(bench: HeldOutChunks, decoder: Decoder, vectors: RawVectors) -> DecodedTexts:
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


def _read_back(bench: HeldOutChunks, texts: Sequence[str], seconds: float | None) -> DecodedTexts:
    return DecodedTexts(tuple(texts), bench.encode(texts, "encoding texts").unit().values, seconds)


@dataclass(frozen=True, eq=False)
class TextScores:
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
    def of(cls, bench: HeldOutChunks, written: DecodedTexts, given: FloatArray | None = None) -> TextScores:
        """Evaluate texts; `given` [N, D] are the unit vectors decoded, None the chunks' own."""
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
class GainOverControl:
    """What a decoder's texts have over those of its control, on the same chunks."""

    cosine: Estimate
    given: Estimate
    token_f1: Estimate


@dataclass(frozen=True)
class DecoderRow:
    """Means of `TextScores`, with 95 % intervals over documents.

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
    over_control: GainOverControl | None = None

    @classmethod
    def of(
        cls,
        bench: HeldOutChunks,
        name: str,
        how: str,
        scores: TextScores,
        seconds: float | None = None,
        control: TextScores | None = None,
    ) -> DecoderRow:
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


def _gain(bench: HeldOutChunks, scores: TextScores, control: TextScores) -> GainOverControl:
    documents = bench.windows.document
    names = ("cosine", "given", "token_f1")
    return GainOverControl(*(estimate(documents, getattr(scores, n), getattr(control, n)) for n in names))


@dataclass(frozen=True, eq=False)
class DecoderTrial:
    """A decoder's texts for vectors [N, D], evaluated, beside its control."""

    written: DecodedTexts
    scores: TextScores
    control: TextScores

    @classmethod
    def of(
        cls, bench: HeldOutChunks, decoder: Decoder, vectors: RawVectors, given: FloatArray | None = None
    ) -> DecoderTrial:
        """Decode and evaluate; `given` as in `TextScores.of`. Raises as `write`."""
        written = write(bench, decoder, vectors)
        control = TextScores.of(bench, written.exchanged(bench), given)
        return cls(written, TextScores.of(bench, written, given), control)

    def rows(self, bench: HeldOutChunks, name: str, how: str) -> tuple[DecoderRow, DecoderRow]:
        """The row of the decoder and that of its shuffled control."""
        row = DecoderRow.of(bench, name, how, self.scores, self.written.seconds, self.control)
        return row, DecoderRow.of(bench, f"{name}, shuffled", "shuffled", self.control)


# The pipeline test: vector -> text -> vector for every decoder, and behind a model the whole way from the
# texts read to the text of what comes next. Every row has a control beside it.

TRUE = "the true text"


@dataclass(frozen=True)
class DecoderHeading:
    """What was evaluated.

    Attributes:
        documents: split -> how many documents, one chunk of each.
        dropped: windows that stand in training, which no chunk was drawn from.
    """

    store: str
    encoder: str
    documents: Mapping[str, int]
    dropped: int
    seed: int

    @classmethod
    def of(cls, bench: HeldOutChunks) -> DecoderHeading:
        name = str(bench.store.encoder.get("name", ""))
        return cls(str(bench.store.path), name, dict(bench.splits), bench.dropped, bench.seed)

    def __str__(self) -> str:
        parts = " and ".join(f"{n} {name}" for name, n in self.documents.items())
        return (
            f"{sum(self.documents.values())} chunks of as many documents ({parts}) of {self.store}, "
            f"{self.encoder} vectors; {self.dropped} chunks that stand in training were left out."
        )


@dataclass(frozen=True)
class DecoderReport(Section):
    """The table.

    Attributes:
        decoded: rows for the chunks' own vectors; the first is the true texts.
        pipeline: rows for the predictions of `run`.
        prediction: cosine of the run's predictions to the true vectors: what a perfect decoder would reach.
    """

    title: ClassVar[str] = "Decoders"
    heading: DecoderHeading
    decoded: tuple[DecoderRow, ...]
    run: str | None = None
    prediction: Estimate | None = None
    pipeline: tuple[DecoderRow, ...] = ()

    def verdicts(self) -> list[Verdict]:
        rows = [r for r in (*self.decoded, *self.pipeline) if r.over_control is not None]
        count = sum(self.heading.documents.values())
        return [verdict for row in rows for verdict in _verdicts(row, count)]

    def lines(self) -> list[str]:
        lines = [str(self.heading), "", *rows_table(self.decoded), "", *NOTES]
        if self.pipeline:
            lines += [
                "",
                f"The texts before each chunk, encoded anew, through {self.run} and then the decoder. Its "
                f"predictions have a cosine of {self.prediction} to the true vectors.",
                "",
                *rows_table(self.pipeline, "to prediction"),
            ]
        return lines


NOTES = (
    "cosine: of the text, encoded again, to the true chunk's vector. over shuffled: how much more that is "
    "than for the text of another document's vector. Intervals: 95 %, 1,000 resamples of the documents.",
    "gibberish: repeats itself as no writer does. copied: has 13 words in a row, or all, of a training "
    "chunk. new words: share of words that stand in no training chunk.",
)


@dataclass(frozen=True)
class DecodedChunk:
    """One chunk and what became of it: a decoder's name -> its text."""

    document: str
    truth: str
    texts: Mapping[str, str]


def evaluate_decoders(
    bench: HeldOutChunks, decoders: Sequence[Decoder], run: EvaluatedRun | None = None
) -> tuple[DecoderReport, list[DecodedChunk]]:
    """Evaluate decoders on the chunks' own vectors, and on a run's predictions of them.

    Returns:
        the table, and every chunk with its texts.
    Raises:
        EncoderMismatchError, DecoderError: vectors that a decoder was not made for, or one that fails.
        EncoderError: the encoder of the bench fails. EvaluationError: predictions that are not finite.
    """
    texts: dict[str, DecodedTexts] = {}

    def rows(
        name: str, decoder: Decoder, vectors: RawVectors, given: FloatArray | None = None
    ) -> list[DecoderRow]:
        trial = DecoderTrial.of(bench, decoder, vectors, given)
        texts[name] = trial.written
        return [*trial.rows(bench, name, decoder.how)]

    decoded = [DecoderRow.of(bench, TRUE, "true", TextScores.of(bench, true_texts(bench)))]
    for decoder in decoders:
        decoded += rows(decoder.name, decoder, bench.targets)
    report = DecoderReport(DecoderHeading.of(bench), tuple(decoded))
    if run is not None:
        raw, units = bench.predict(run)
        behind: list[DecoderRow] = []
        for decoder in decoders:
            behind += rows(f"{run.name} > {decoder.name}", decoder, raw, raw.unit().values)
        reached = estimate(bench.windows.document, row_dots(units, bench.target_units))
        report = DecoderReport(report.heading, report.decoded, run.name, reached, tuple(behind))
    names = [bench.store.documents[int(i)].doc_id for i in bench.windows.document]
    return report, [
        DecodedChunk(name, truth, {decoder: written.texts[i] for decoder, written in texts.items()})
        for i, (name, truth) in enumerate(zip(names, bench.truths, strict=True))
    ]


def _verdicts(row: DecoderRow, count: int) -> list[Verdict]:
    """Whether it says something of the vector, whether it is text, whether it wrote it."""
    assert row.over_control is not None
    gain = row.over_control.cosine
    nearer = gain.above
    text = (
        f"{row.name}: texts are {'nearer' if nearer else 'no nearer'} to the truth than those of other "
        f"vectors: {gain.show(sign=True)}"
    )
    found = [Verdict("decoded", "ok" if nearer else "red", text)]
    if row.gibberish.value > 0.5:
        share = percent(row.gibberish.value)
        found.append(Verdict("gibberish", "red", f"{row.name}: {share} of texts are gibberish"))
    if row.how == "generated" and row.copied:
        text = f"{row.name}: {row.copied} of {count} texts are copied from training chunks"
        found.append(Verdict("copied", "warning", text))
    return found


def rows_table(rows: Sequence[DecoderRow], given: str = "") -> list[str]:
    """Aligned columns; `given` heads a column of the cosine to what was decoded, if there is to be one."""
    header = [
        *("decoder", "", "cosine", "", "over shuffled", ""),
        *([given] if given else []),
        *("F1", "BLEU", "gibberish", "copied", "new words", "words", "s/text"),
    ]
    return table(header, [_cells(row, given=bool(given)) for row in rows])


def _cells(row: DecoderRow, *, given: bool) -> list[str]:
    gain = None if row.over_control is None else row.over_control.cosine
    return [
        row.name,
        "" if row.how == "shuffled" else row.how,
        short(row.cosine.value),
        _interval(row.cosine),
        *(("", "") if gain is None else (f"{gain.value:+.3f}", _interval(gain))),
        *([short(row.given.value)] if given else []),
        short(row.token_f1.value),
        f"{row.bleu:.1f}",
        percent(row.gibberish.value),
        str(row.copied),
        percent(row.unknown),
        f"{row.words:.0f}",
        "" if row.seconds is None else f"{row.seconds:.2f}",
    ]


def _interval(found: Estimate) -> str:
    """`[.312, .350]`; nothing where there is none."""
    return "" if found.low is None else f"[{short(found.low)}, {short(found.high)}]"


def percent(share: float) -> str:
    """`12.5 %`."""
    return f"{100 * share:.1f} %"
