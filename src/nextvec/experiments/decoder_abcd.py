"""The A/B/C/D test: where text -> vector -> model -> vector -> text breaks.

The brief's test (its task 1.3) gives a decoder four kinds of vectors of the same chunks: A the encoder's own,
B those at unit length, C the model's raw output, D the model's unit output. B and D are passed as if they
were raw, deliberately: they show what that costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nextvec.data.gather import gather_rows
from nextvec.data.windows import FloatArray, make_windows
from nextvec.decoding.base import Decoder
from nextvec.diagnostics.collapse import MomentsSection, compare_moments
from nextvec.diagnostics.sections import Level, Section, Verdict, sample
from nextvec.evaluation.evaluation_set import context_blocks
from nextvec.evaluation.intervals import Estimate, Values, estimate, short
from nextvec.evaluation.predictor_protocol import ask, row_dots
from nextvec.experiments.decoder_scores import (
    NOTES,
    TRUE,
    DecoderHeading,
    DecoderRow,
    DecoderTrial,
    TextScores,
    percent,
    rows_table,
    true_texts,
)
from nextvec.experiments.decoder_trial import HeldOutChunks
from nextvec.experiments.evaluating import EvaluatedRun
from nextvec.vectors import UNIT_TOLERANCE, RawVectors

CASES = {
    "A": "A  encoder's vector",
    "B": "B  at unit length",
    "C": "C  model's raw output",
    "D": "D  model's unit output",
}
CONTROLLED, MEANT = "AC", {"A", "C"}
HALF = 0.5
MOST_WINDOWS = 2048
"""Moments are taken over at most so many windows of the evaluated documents."""


@dataclass(frozen=True)
class ModelSide:
    """What C and D tell. Differences are paired over documents.

    Attributes:
        run: its name.
        prediction: cosine of its predictions to the true vectors.
        fidelity: C - A, cosine to what was decoded: how well a prediction is given back, and a real vector.
        unit_output: C - D, cosine to the prediction.
        stages: cosine of the prediction less that of A, both to x: above 0 the decoder loses more.
        length: mean length of the raw predictions, over that of the true vectors.
        moments: of the predictions of many chunks of the evaluated documents.
    """

    run: str
    prediction: Estimate
    fidelity: Estimate
    unit_output: Estimate
    stages: Estimate
    length: float
    moments: MomentsSection


@dataclass(frozen=True)
class DecoderDiagnosis(Section):
    """The four cases, what tells them apart, and the verdicts.

    Attributes:
        unit_store: the store's vectors are of unit length, so that A and B are one.
        truth: the true texts, encoded again.
        cases: "A" to "D", of which C and D need a run; controls: of A and C, shuffled.
        lengths: A - B, cosine to x, paired over documents.
        gibberish: case -> share above that of the true texts.
    """

    title: ClassVar[str] = "Decoder"
    heading: DecoderHeading
    decoder: str
    how: str
    unit_store: bool
    truth: DecoderRow
    cases: Mapping[str, DecoderRow]
    controls: Mapping[str, DecoderRow]
    lengths: Estimate
    gibberish: Mapping[str, Estimate]
    model: ModelSide | None = None

    def verdicts(self) -> list[Verdict]:
        found = [_decoder(self), _lengths(self)]
        if self.model is not None:
            found += [part(self, self.model) for part in (_distribution, _unit_output, _next, _stages)]
        return [*found, _gibberish(self)]

    def lines(self) -> list[str]:
        rows = [self.truth]
        for letter, row in self.cases.items():
            rows += [row, self.controls[letter]] if letter in self.controls else [row]
        source = "need a run"
        if self.model:
            source = f"are what {self.model.run} predicts for it from the texts before it"
        lines = [
            str(self.heading),
            f"x is the chunk's vector; C and D {source}.",
            "",
            *rows_table(rows, "to what was decoded"),
            "",
            *NOTES,
        ]
        return [*lines, "", *self.model.moments.lines()] if self.model else lines


def diagnose_decoder(
    bench: HeldOutChunks, decoder: Decoder, run: EvaluatedRun | None = None
) -> DecoderDiagnosis:
    """Give a decoder the four kinds of vectors. Without a run, A and B only.

    Raises:
        EncoderMismatchError, DecoderError: vectors that the decoder was not made for, or it fails.
        EncoderError: the encoder of the bench fails. EvaluationError: predictions that are not finite.
    """
    # B and D are unit vectors under a false name: the fault that they show.
    vectors = {"A": bench.targets, "B": bench.raw(bench.target_units)}
    given = {"A": bench.target_units, "B": bench.target_units}
    if run is not None:
        raw, units = bench.predict(run)
        vectors |= {"C": raw, "D": bench.raw(units)}
        given |= {"C": raw.unit().values, "D": units}
    trials = {letter: DecoderTrial.of(bench, decoder, vectors[letter], given[letter]) for letter in vectors}
    true = TextScores.of(bench, true_texts(bench))
    rows = {letter: trial.rows(bench, CASES[letter], decoder.how) for letter, trial in trials.items()}
    documents = bench.windows.document
    return DecoderDiagnosis(
        DecoderHeading.of(bench),
        decoder.name,
        decoder.how,
        unit_store=bool((np.abs(_lengths_of(vectors["A"]) - 1) < UNIT_TOLERANCE).all()),
        truth=DecoderRow.of(bench, TRUE, "true", true),
        cases={letter: row for letter, (row, _) in rows.items()},
        controls={letter: control for letter, (_, control) in rows.items() if letter in CONTROLLED},
        lengths=estimate(documents, trials["A"].scores.cosine, trials["B"].scores.cosine),
        gibberish={
            letter: estimate(documents, trial.scores.gibberish, true.gibberish)
            for letter, trial in trials.items()
        },
        model=None if run is None else _model_side(bench, run, trials, vectors["C"], given["D"]),
    )


def _model_side(
    bench: HeldOutChunks,
    run: EvaluatedRun,
    trials: Mapping[str, DecoderTrial],
    raw: RawVectors,
    units: FloatArray,
) -> ModelSide:
    """What C and D tell of a run that predicted raw [N, D] and units [N, D]."""
    documents = bench.windows.document
    a, c, d = (trials[letter].scores for letter in "ACD")
    reached = row_dots(units, bench.target_units)
    return ModelSide(
        run.name,
        prediction=estimate(documents, reached),
        fidelity=estimate(documents, c.given, a.given),
        unit_output=estimate(documents, c.given, d.given),
        stages=estimate(documents, reached, a.cosine),
        length=float(_lengths_of(raw).mean() / _lengths_of(bench.targets).mean()),
        moments=_moments(bench, run),
    )


def _lengths_of(vectors: RawVectors) -> Values:
    return np.asarray(np.linalg.norm(vectors.values, axis=1), dtype=np.float64)


def _moments(bench: HeldOutChunks, run: EvaluatedRun) -> MomentsSection:
    """Moments of the run's predictions of many chunks of the evaluated documents."""
    store, drawn = bench.store, bench.windows
    windows = make_windows(store, drawn.document.tolist(), drawn.context, drawn.horizon)
    windows = windows.select(sample(len(windows), MOST_WINDOWS, bench.seed))
    raw, units = (np.empty((len(windows), store.dimension), dtype=np.float32) for _ in range(2))
    for piece, contexts, lengths in context_blocks(store.vectors, windows, run.context):
        raw[piece], units[piece] = ask(run, contexts, lengths)
    targets = gather_rows(store.vectors, windows.target)
    return compare_moments(raw, units, targets, windows.document, bench.seed)


def _decoder(found: DecoderDiagnosis) -> Verdict:
    """A against its control: does it say anything of the vector?"""
    row = found.cases["A"]
    assert row.over_control is not None
    gain = row.over_control.cosine
    says = gain.above
    text = (
        f"the decoder alone (A): its text of a real vector has a cosine of {row.cosine} to it, "
        f"{gain.show(sign=True)} more than the text of another vector; the true text has "
        f"{short(found.truth.cosine.value)}"
    )
    if not says:
        text += "; its texts do not depend on the vector, so no figure after it means anything"
    return Verdict("decoder", "ok" if says else "red", text)


def _lengths(found: DecoderDiagnosis) -> Verdict:
    """A against B: does it need the encoder's own lengths?"""
    lost = found.lengths
    if found.unit_store:
        return Verdict(
            "lengths",
            "note",
            "the store's vectors are of unit length: A and B are the same, and the lengths are lost",
        )
    if lost.above:
        text = f"the decoder needs raw lengths: unit vectors (B) lose {lost}; send it raw vectors only"
        return Verdict("lengths", "note", text)
    if lost.clear and not lost.negligible:
        text = f"the decoder does better on unit vectors (B): {lost.show(sign=True)} of A over B"
        return Verdict("lengths", "note", text)
    says = "does not mind lengths" if lost.negligible else "may or may not need raw lengths"
    return Verdict("lengths", "ok", f"the decoder {says}: A over B {lost.show(sign=True)}")


def _distribution(found: DecoderDiagnosis, model: ModelSide) -> Verdict:
    """C against A, each to what was decoded: is the raw output what the decoder knows?"""
    difference, moments = model.fidelity, model.moments
    a, c = found.cases["A"], found.cases["C"]
    worse = difference.clear and not difference.negligible and difference.value < 0
    level: Level = "ok"
    known = "decodes as well as real vectors"
    if worse and moments.matched:
        known, level = "decodes worse than real vectors, though it has their moments", "note"
    elif worse:
        known, level = "is not in the decoder's distribution", "warning"
    text = (
        f"the raw output {known} (C): a prediction is given back at a cosine of {short(c.given.value)}, a "
        f"real vector at {short(a.given.value)}: {difference.show(sign=True)}; the moments "
        f"{'match' if moments.matched else 'do not match'} the encoder's: std "
        f"{short(moments.raw.std_ratio, 2)} and length {short(model.length, 2)} of it"
    )
    return Verdict("distribution", level, text)


def _unit_output(_: DecoderDiagnosis, model: ModelSide) -> Verdict:
    """C against D: which output is to be sent?"""
    difference = model.unit_output
    if not difference.clear or difference.negligible:
        text = f"raw and unit output decode alike: C over D {difference.show(sign=True)}"
        return Verdict("unit output", "ok", text)
    raw = difference.value > 0
    text = (
        f"the {'raw' if raw else 'unit'} output is the one to decode: C over D {difference.show(sign=True)}"
    )
    if not raw:
        text += "; the raw output has lengths that the decoder does not know"
    return Verdict("unit output", "ok" if raw else "warning", text)


def _next(found: DecoderDiagnosis, _: ModelSide) -> Verdict:
    """C against its control, to the true chunk: does the text tell what comes next?"""
    row = found.cases["C"]
    assert row.over_control is not None
    gain = row.over_control.cosine
    says = gain.above
    text = (
        f"the decoded prediction (C) has a cosine of {row.cosine} to what comes next, {gain.show(sign=True)} "
        f"more than another document's: it {'shows' if says else 'does not show'} what comes next"
    )
    return Verdict("next", "ok" if says else "red", text)


def _stages(found: DecoderDiagnosis, model: ModelSide) -> Verdict:
    """Which of model and decoder loses more."""
    stages = model.stages
    which = "both lose about as much"
    if stages.clear and not stages.negligible:
        which = f"the {'decoder' if stages.value > 0 else 'model'} loses more"
    text = (
        f"of the true vector the model keeps a cosine of {short(model.prediction.value)} (its prediction), "
        f"the decoder {short(found.cases['A'].cosine.value)} (A), both in a row "
        f"{short(found.cases['C'].cosine.value)} (C): {which}"
    )
    return Verdict("stages", "note", text)


def _gibberish(found: DecoderDiagnosis) -> Verdict:
    """Grave where what is meant to be sent comes out as gibberish; B and D only show what not to send."""
    shares = {letter: row.gibberish.value for letter, row in found.cases.items()}
    more = {k for k, e in found.gibberish.items() if e.above}
    level: Level = "note" if more else "ok"
    if more & MEANT:
        level = "red" if max(shares[k] for k in more & MEANT) > HALF else "warning"
    listed = ", ".join(f"{letter} {percent(share)}" for letter, share in shares.items())
    text = f"gibberish: {listed}; of the true texts {percent(found.truth.gibberish.value)}"
    return Verdict("gibberish", level, text)
