"""The brief's own success criteria, each with what was measured beside it.

Thresholds of cosine, mse and sigma depend on the encoder (and mse on 1/D): they are reported, not enforced.
What cannot be measured says why. Where the brief names no figure, the threshold is ours and says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nextvec.diagnostics.engine import plain, short
from nextvec.diagnostics.groups import SplitScore
from nextvec.diagnostics.model import ModelDiagnosis
from nextvec.evaluation.baselines import CopyLast, LinearAverage, MeanVector, Random

Status = Literal["met", "not met", "not measurable here"]
TASKS, PRD = "training-fix task list", "PRD model matrix"
SUMMARY, REPORT = "four-architecture summary", "LVM-T diagnostic report"
BRIEF_DIMENSION = 768
GIGABYTE, HOUR = 1e9, 3600.0
CONSISTENT = 0.02
ENCODER = "depends on the encoder: reported, not enforced"
DECODER = "needs a decoder; this version has none"
HISTORY = "stands in the history: nextvec diagnose run"


@dataclass(frozen=True)
class Criterion:
    """One criterion of the brief.

    Attributes:
        document: where it stands.
        asked, measured: in words; `measured` is empty where nothing could be.
        enforced: False where the threshold depends on the encoder or the data.
        note: why it is not measurable, or how to read it.
    """

    criterion: str
    document: str
    asked: str
    measured: str
    status: Status
    enforced: bool = True
    note: str = ""


@dataclass(frozen=True)
class Checklist:
    """All criteria."""

    criteria: tuple[Criterion, ...]

    def count(self, status: Status) -> int:
        """How many have that status."""
        return sum(c.status == status for c in self.criteria)

    @property
    def reported(self) -> int:
        """How many are not met by a threshold that depends on the encoder."""
        return sum(c.status == "not met" and not c.enforced for c in self.criteria)

    def to_json(self) -> list[dict[str, Any]]:
        """JSON-ready: one dictionary a criterion."""
        found: list[dict[str, Any]] = plain(self.criteria)
        return found


def checklist(found: ModelDiagnosis, metadata: Mapping[str, Any], dimension: int) -> Checklist:
    """Hold a diagnosis against the brief.

    Args:
        metadata: of the run: "bytes", "seconds", "latency_p50_ms", as far as they are known.
        dimension: D; the brief's mse thresholds are for 768.
    """
    return Checklist(
        (*_tasks(found), *_matrix(found, metadata, dimension), *_summary(found, metadata), *_report(found))
    )


def _tasks(d: ModelDiagnosis) -> list[Criterion]:
    unit, encoder, raw = d.moments.unit, d.moments.encoder_unit, d.moments.raw
    sigma = f"{100 * unit.above_floor:.1f} % of dimensions (encoder: {100 * encoder.above_floor:.1f} %)"
    moments = (
        f"std {short(raw.std_ratio)} of the encoder's, Frechet {short(raw.relative_distance)} of its variance"
    )
    spread = f"predictions {short(d.collapse.spread)} as far apart as targets"
    # sum of the variances of the dimensions of unit vectors: 1 less the squared length of their mean
    variance = float((unit.std**2).sum())
    mean = d.collapse.mean
    share = "" if mean is None else f"{short(d.collapse.cosine, 4)}, mean vector {short(mean.own, 4)}"
    beaten = None if mean is None else mean.beaten
    return [
        _cosine(d, TASKS, ">= .70 (y_cos)", 0.70),
        _make("sigma > .01 in every dimension (y_cos)", TASKS, "all", sigma, unit.above_floor == 1, ENCODER),
        _make(
            "moments match the encoder's (y_dec)", TASKS, "distance <= .01 (ours)", moments, d.moments.matched
        ),
        _make(
            "cosine above the mean vector's (1.2)", TASKS, "clearly", share, beaten, "nothing was trained on"
        ),
        _make(
            "no collapse to the mean vector", TASKS, "spread >= .05 (ours)", spread, not d.collapse.collapsed
        ),
        _make("output diversity (6.2)", TASKS, "variance > .01", short(variance), variance > 0.01),
        _missing("coherent text through the decoder (5.1, 6.2)", TASKS, "good, not gibberish", DECODER),
        _missing("decoder test A/B/C (1.3, 6.2)", TASKS, "C as good as A", DECODER),
        _missing("loss terms fall, variance term stable (5.2)", TASKS, "over training", HISTORY),
    ]


def _matrix(d: ModelDiagnosis, metadata: Mapping[str, Any], dimension: int) -> list[Criterion]:
    size, seconds = metadata.get("bytes"), metadata.get("seconds")
    spent = "" if seconds is None else f"{seconds / HOUR:.2f} h"
    on_disk = "" if size is None else f"{size / GIGABYTE:.3f} GB"

    def hours(most: float) -> Criterion:
        met = None if seconds is None else seconds < most * HOUR
        return _make("training time", PRD, f"< {most:g} h", spent, met, "the run is not finished")

    return [
        _loss(d, "minimum", 0.001, dimension),
        _cosine(d, PRD, "> .70 (minimum)", 0.70),
        hours(4),
        _make(
            "size on disk", PRD, "< 2 GB", on_disk, None if size is None else size < 2 * GIGABYTE, "no file"
        ),
        _loss(d, "target", 0.0006, dimension),
        _cosine(d, PRD, "> .75 (target)", 0.75),
        hours(2),
        _loss(d, "stretch", 0.0005, dimension),
        _cosine(d, PRD, "> .786 (stretch)", 0.786),
    ]


def _summary(d: ModelDiagnosis, metadata: Mapping[str, Any]) -> list[Criterion]:
    validation, test = d.gap.find("validation"), d.gap.find("test")
    apart, steady = "", None
    if validation is not None and test is not None:
        steady = abs(validation.cosine.value - test.cosine.value) <= CONSISTENT
        apart = f"validation {short(validation.cosine.value, 4)}, test {short(test.cosine.value, 4)}"
    outside = [g for g in d.sources.sources if d.sources.trained[g.name] is False]
    above = [g for g in outside if g.gain.clear and g.gain.value > 0]
    general = len(above) == len(outside) if outside else None
    latency = metadata.get("latency_p50_ms")
    return [
        _ahead(d, "beats the linear average", SUMMARY, (LinearAverage.name,)),
        _cosine(d, SUMMARY, "> .546 (its linear average)", 0.546),
        _make(
            "consistent on the test set", SUMMARY, "within .02 (ours)", apart, steady,
            "one of the splits has no windows",
        ),
        _missing("interpretable attention weights", SUMMARY, "to be looked at", "only an AMN has them"),
        _cosine(d, SUMMARY, "> .60 (stretch)", 0.60),
        _make(
            "generalises to other domains", SUMMARY, "above the best baseline (ours)",
            f"in {len(above)} of {len(outside)} sources not trained on" if outside else "", general,
            "no judged source is known to be out of domain",
        ),
        _make(
            "real time", SUMMARY, "< 1 ms a prediction",
            "" if latency is None else f"{latency:.3f} ms (p50, batch 1, one thread)",
            None if latency is None else latency < 1, "speed was not measured",
        ),
    ]  # fmt: skip


def _report(d: ModelDiagnosis) -> list[Criterion]:
    names = (Random.name, MeanVector.name, CopyLast.name, LinearAverage.name)
    return [_ahead(d, "above its four baselines", REPORT, names), _cosine(d, REPORT, "0.60+", 0.60)]


def _ahead(d: ModelDiagnosis, criterion: str, document: str, names: Sequence[str]) -> Criterion:
    """Clearly above these baselines by cosine."""
    rows = {name: d.standing.rows[name].ahead for name in names if name in d.standing.rows}
    leads = {name: ahead for name, ahead in rows.items() if ahead is not None}
    measured = ""
    if leads:
        least = min(leads, key=lambda name: leads[name].value)
        measured = f"{least} {leads[least].show(4, sign=True)}"
    met = all(a.clear and a.value > 0 for a in leads.values()) if len(leads) == len(names) else None
    return _make(criterion, document, "clearly", measured, met, "not all of these baselines were judged")


def _validation(d: ModelDiagnosis) -> SplitScore | None:
    return d.gap.find("validation") or next((s for s in d.gap.splits if not s.in_sample), None)


def _cosine(d: ModelDiagnosis, document: str, asked: str, least: float) -> Criterion:
    score = _validation(d)
    if score is None:
        return _missing("validation cosine", document, asked, "no split but train was judged")
    measured = f"{short(score.cosine.value, 4)} ({score.name})"
    met = score.cosine.value >= least if asked.startswith(">=") else score.cosine.value > least
    return _make("validation cosine", document, asked, measured, met, ENCODER)


def _loss(d: ModelDiagnosis, name: str, most: float, dimension: int) -> Criterion:
    """mse = 2 (1 - cos) / D for unit vectors, so a threshold for 768 dimensions is scaled to D."""
    scaled = most * BRIEF_DIMENSION / dimension
    asked = f"< {most:g} ({name})" + (
        "" if dimension == BRIEF_DIMENSION else f", {scaled:.6f} at D = {dimension}"
    )
    score = _validation(d)
    if score is None:
        return _missing("validation loss (mse)", PRD, asked, "no split but train was judged")
    measured = f"{score.mse:.6f} ({score.name})"
    return _make("validation loss (mse)", PRD, asked, measured, score.mse < scaled, ENCODER)


def _make(
    criterion: str, document: str, asked: str, measured: str, met: bool | None, note: str = ""
) -> Criterion:
    """`note` says why it is not measurable (met is None), or is ENCODER."""
    if met is None:
        return _missing(criterion, document, asked, note)
    shown = note if note == ENCODER else ""
    status: Status = "met" if met else "not met"
    return Criterion(criterion, document, asked, measured, status, note != ENCODER, shown)


def _missing(criterion: str, document: str, asked: str, why: str) -> Criterion:
    return Criterion(criterion, document, asked, "", "not measurable here", note=why)
