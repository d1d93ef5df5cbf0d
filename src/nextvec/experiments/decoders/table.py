"""The pipeline test: vector -> text -> vector for every decoder, and behind a model the whole way from the
texts read to the text of what comes next. Every row has a control beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from nextvec.data.windows import FloatArray
from nextvec.decoding.base import Decoder
from nextvec.evaluation.diagnostics.model.part import Estimate, Part, estimate, table
from nextvec.evaluation.diagnostics.verdicts import Verdict, short
from nextvec.evaluation.predictor import row_dots
from nextvec.experiments.decoders.bench import Bench
from nextvec.experiments.decoders.scores import Row, Scores, Trial, Written, true_texts
from nextvec.experiments.judging import Judged
from nextvec.vectors import RawVectors

TRUE = "the true text"


@dataclass(frozen=True)
class Heading:
    """What was judged.

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
    def of(cls, bench: Bench) -> Heading:
        """Of a bench."""
        name = str(bench.store.encoder.get("name", ""))
        return cls(str(bench.store.path), name, dict(bench.splits), bench.dropped, bench.seed)

    def __str__(self) -> str:
        parts = " and ".join(f"{n} {name}" for name, n in self.documents.items())
        return (
            f"{sum(self.documents.values())} chunks of as many documents ({parts}) of {self.store}, "
            f"{self.encoder} vectors; {self.dropped} chunks that stand in training were left out."
        )


@dataclass(frozen=True)
class DecoderReport(Part):
    """The table.

    Attributes:
        decoded: rows for the chunks' own vectors; the first is the true texts.
        pipeline: rows for the predictions of `run`.
        prediction: cosine of the run's predictions to the true vectors: what a perfect decoder would reach.
    """

    title: ClassVar[str] = "Decoders"
    heading: Heading
    decoded: tuple[Row, ...]
    run: str | None = None
    prediction: Estimate | None = None
    pipeline: tuple[Row, ...] = ()

    def verdicts(self) -> list[Verdict]:
        rows = [r for r in (*self.decoded, *self.pipeline) if r.over_control is not None]
        return [verdict for row in rows for verdict in _verdicts(row, self._count)]

    @property
    def _count(self) -> int:
        return sum(self.heading.documents.values())

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
class Example:
    """One chunk and what became of it: a decoder's name -> its text."""

    document: str
    truth: str
    texts: Mapping[str, str]


def judge_decoders(
    bench: Bench, decoders: Sequence[Decoder], run: Judged | None = None
) -> tuple[DecoderReport, list[Example]]:
    """Judge decoders on the chunks' own vectors, and on a run's predictions of them.

    Returns:
        the table, and every chunk with its texts.
    Raises:
        EncoderMismatchError, DecoderError: vectors that a decoder was not made for, or one that fails.
        EncoderError: the encoder of the bench fails. EvaluationError: predictions that are not finite.
    """
    texts: dict[str, Written] = {}

    def rows(name: str, decoder: Decoder, vectors: RawVectors, given: FloatArray | None = None) -> list[Row]:
        trial = Trial.of(bench, decoder, vectors, given)
        texts[name] = trial.written
        return [*trial.rows(bench, name, decoder.how)]

    decoded = [Row.of(bench, TRUE, "true", Scores.of(bench, true_texts(bench)))]
    for decoder in decoders:
        decoded += rows(decoder.name, decoder, bench.targets)
    heading = Heading.of(bench)
    if run is None:
        return DecoderReport(heading, tuple(decoded)), _examples(bench, texts)
    raw, units = bench.predict(run)
    behind = []
    for decoder in decoders:
        behind += rows(f"{run.name} > {decoder.name}", decoder, raw, raw.unit().values)
    reached = estimate(bench.windows.document, row_dots(units, bench.target_units))
    report = DecoderReport(heading, tuple(decoded), run.name, reached, tuple(behind))
    return report, _examples(bench, texts)


def _examples(bench: Bench, texts: Mapping[str, Written]) -> list[Example]:
    names = [bench.store.documents[int(i)].doc_id for i in bench.windows.document]
    return [
        Example(name, truth, {decoder: written.texts[i] for decoder, written in texts.items()})
        for i, (name, truth) in enumerate(zip(names, bench.truths, strict=True))
    ]


def _verdicts(row: Row, count: int) -> list[Verdict]:
    """Whether it says something of the vector, whether it is text, whether it wrote it."""
    assert row.over_control is not None
    gain = row.over_control.cosine
    nearer = gain.clear and gain.value > 0
    text = (
        f"{row.name}: texts are {'nearer' if nearer else 'no nearer'} to the truth than those of other "
        f"vectors: {gain.show(sign=True)}"
    )
    found = [Verdict("decoded", "ok" if nearer else "red", text)]
    if row.gibberish.value > 0.5:
        found.append(
            Verdict("gibberish", "red", f"{row.name}: {percent(row.gibberish.value)} of texts are gibberish")
        )
    if row.how == "generated" and row.copied:
        text = f"{row.name}: {row.copied} of {count} texts are copied from training chunks"
        found.append(Verdict("copied", "warning", text))
    return found


def rows_table(rows: Sequence[Row], given: str = "") -> list[str]:
    """Aligned columns; `given` heads a column of the cosine to what was decoded, if there is to be one."""
    header = [
        *("decoder", "", "cosine", "", "over shuffled", ""),
        *([given] if given else []),
        *("F1", "BLEU", "gibberish", "copied", "new words", "words", "s/text"),
    ]
    return table(header, [_cells(row, given=bool(given)) for row in rows])


def _cells(row: Row, *, given: bool) -> list[str]:
    gain = None if row.over_control is None else row.over_control.cosine
    return [
        row.name,
        "" if row.how == "shuffled" else row.how,
        short(row.cosine.value),
        _interval(row.cosine),
        "" if gain is None else f"{gain.value:+.3f}",
        "" if gain is None else _interval(gain),
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
