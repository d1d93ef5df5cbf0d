"""The brief's own measures: its success criteria beside what was measured, and its matrix (the PRD's).

Thresholds of cosine, mse and sigma depend on the encoder: they are reported, not enforced. The PRD's stand
for unit vectors of 768 dimensions; a mean squared error shrinks with 1 / D, so they are multiplied by 768 /
D, and the tables say so. What cannot be measured says why. Where the brief names no figure, the threshold is
ours. The PRD guessed its success scores before any training; here a score is the share of its criteria that
are met.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nextvec.diagnostics.failures import SplitScore
from nextvec.diagnostics.model import ModelDiagnosis
from nextvec.diagnostics.sections import plain
from nextvec.disk import read_object
from nextvec.errors import RunError
from nextvec.evaluation.baselines import CopyLast, LinearAverage, MeanVector, Random
from nextvec.evaluation.intervals import STANDING, short
from nextvec.inference.predictor import RESULT
from nextvec.models.registry import describe
from nextvec.training.loop import METRICS

BRIEF_DIMENSION = 768
LOSSES = {"minimum": 1e-3, "target": 6e-4, "stretch": 5e-4}
COSINES = {"minimum": 0.70, "target": 0.75, "stretch": 0.786}
HOURS = {"minimum": 4.0, "target": 2.0}
GIGABYTES, SAME_FACTOR = 2.0, 0.005
LSTM, TRANSFORMER = "lstm", "transformer"


@dataclass(frozen=True)
class PrdRow:
    """One line of the PRD's matrix. Loss and cosine are of the validation documents, means over the seeds."""

    model: str
    target_parameters: int
    parameters: int | None
    status: str
    loss: float | None
    cosine: float | None
    seconds: float | None
    file: str | None
    met: tuple[str, ...]
    not_met: tuple[str, ...]
    notes: str
    best_for: str

    @property
    def score(self) -> float | None:
        """Share of the criteria that are met; None for what was not trained."""
        criteria = len(self.met) + len(self.not_met)
        return len(self.met) / criteria if criteria else None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "score": self.score}


@dataclass(frozen=True)
class PrdTable:
    """The table, the factor on the PRD's losses, and the models that beat its two."""

    rows: tuple[PrdRow, ...]
    factor: float
    beat_lstm: dict[str, bool] | None
    beat_transformer: dict[str, bool] | None

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": [row.to_json() for row in self.rows],
            "loss_factor": self.factor,
            "beat_lstm": self.beat_lstm,
            "beat_transformer": self.beat_transformer,
        }


def prd_table(matrix: Path, table: dict[str, Any]) -> PrdTable:
    """The PRD's view of a finished matrix.

    Args:
        table: what `nextvec.experiments.matrix.read_table` gave.
    Raises:
        RunError: a run of the table is gone or damaged.
    """
    known = {(row["name"], row["preset"]): row for row in describe()}
    rows = [row for row in table["rows"] if row["kind"] == "model"]
    dimension = _dimension(matrix, rows)
    factor = loss_factor(dimension, table.get("mean_squared_length", 1.0))
    made = [_row(matrix, row, known, factor) for row in rows]
    failed = {run.rpartition("-seed")[0]: why for run, why in table["failed"].items()}
    made += [_failed(name, why, known) for name, why in failed.items() if name not in {r.model for r in made}]
    return PrdTable(tuple(made), factor, _beaten(made, LSTM), _beaten(made, TRANSFORMER))


def loss_factor(dimension: int, squared_length: float) -> float:
    """What the brief's losses are multiplied by: mse = 2 (1 - cos) / D for unit vectors, and grows with their
    mean squared length."""
    return BRIEF_DIMENSION / dimension * squared_length


def _row(matrix: Path, row: dict[str, Any], known: dict[tuple[str, str], Any], factor: float) -> PrdRow:
    runs = [matrix / Path(seed["model_file"]).parent for seed in row["per_seed"]]
    needs = {**RESULT, "verified": dict}
    found = [read_object(run / METRICS, RunError, needs=needs, remedy="run the matrix again") for run in runs]
    loss, cosine = (float(np.mean([one["verified"][key] for one in found])) for key in ("mse", "cosine"))
    seconds = float(np.mean([one["seconds"] for one in found]))
    criteria = _criteria(loss / factor, cosine, seconds, row["bytes"])
    about = known[_architecture(row["name"], known), "brief"]
    return PrdRow(
        model=row["name"],
        target_parameters=about["parameters"],
        parameters=row["parameters"],
        status="complete",
        loss=loss,
        cosine=cosine,
        seconds=seconds,
        file=row["per_seed"][0]["model_file"],
        met=tuple(name for name, met in criteria.items() if met),
        not_met=tuple(name for name, met in criteria.items() if not met),
        notes=_note(row),
        best_for=about["best_for"],
    )


def _criteria(loss: float, cosine: float, seconds: float, size: float) -> dict[str, bool]:
    """The PRD's nine success criteria, `loss` at D = 768."""
    return {
        **{f"loss < {limit:g} ({name})": loss < limit for name, limit in LOSSES.items()},
        **{f"cosine > {limit:g} ({name})": cosine > limit for name, limit in COSINES.items()},
        **{f"trained in < {limit:g} h ({name})": seconds < 3600 * limit for name, limit in HOURS.items()},
        f"< {GIGABYTES:g} GB on disk (minimum)": size < GIGABYTES * 1e9,
    }


def _note(row: dict[str, Any]) -> str:
    """Where it stands among the baselines on the evaluated documents."""
    parts = []
    for metric in ("cosine", "recall@5"):
        versus = row["versus_best_baseline"].get(metric)
        if versus is not None:
            parts.append(
                f"{STANDING[versus['better']]} the best baseline by {metric} ({versus['difference']:+.4f})"
            )
    return "; ".join(parts)


def _failed(name: str, why: str, known: dict[tuple[str, str], Any]) -> PrdRow:
    about = known[_architecture(name, known), "brief"]
    parameters, best_for = about["parameters"], about["best_for"]
    return PrdRow(name, parameters, None, "failed", None, None, None, None, (), (), why, best_for)


def _architecture(row: str, known: dict[tuple[str, str], Any]) -> str:
    return max((name for name, _ in known if row == name or row.startswith(f"{name}-")), key=len)


def _dimension(matrix: Path, rows: list[dict[str, Any]]) -> int:
    if not rows:
        return BRIEF_DIMENSION
    config = matrix / Path(rows[0]["model_file"]).parent / "config.json"
    return int(read_object(config, RunError, needs={"config": dict})["config"]["d_embed"])


def _beaten(rows: list[PrdRow], name: str) -> dict[str, bool] | None:
    """Model -> whether its validation loss is below that of the model called `name`; None without one."""
    bar = next((row.loss for row in rows if row.model == name), None)
    if bar is None:
        return None
    return {row.model: row.loss is not None and row.loss < bar for row in rows if row.model != name}


Status = Literal["met", "not met", "not measurable here"]
TASKS, PRD = "training-fix task list", "PRD model matrix"
SUMMARY, REPORT = "four-architecture summary", "LVM-T diagnostic report"
CONSISTENT = 0.02
ENCODER = "depends on the encoder: reported, not enforced"
DECODER = "asked of a decoder: nextvec decoder evaluate"
HISTORY = "stands in the history: nextvec diagnose run"


@dataclass(frozen=True)
class Criterion:
    """One criterion of the brief.

    Attributes:
        document: where it stands.
        required, measured: in words; `measured` is empty where nothing could be.
        enforced: False where the threshold depends on the encoder or the data.
        note: why it is not measurable, or how to read it.
    """

    criterion: str
    document: str
    required: str
    measured: str
    status: Status
    enforced: bool = True
    note: str = ""


@dataclass(frozen=True)
class Checklist:
    criteria: tuple[Criterion, ...]

    def count(self, status: Status) -> int:
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
    names = (Random.name, MeanVector.name, CopyLast.name, LinearAverage.name)
    report = [_ahead(found, "above its four baselines", REPORT, names), _cosine(found, REPORT, "0.60+", 0.60)]
    matrix = _matrix(found, metadata, dimension)
    return Checklist((*_tasks(found), *matrix, *_summary(found, metadata), *report))


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
    spent = "" if seconds is None else f"{seconds / 3600:.2f} h"
    on_disk = "" if size is None else f"{size / 1e9:.3f} GB"
    found = []
    for name in LOSSES:
        found.append(_loss(d, name, LOSSES[name], dimension))
        required = f"> {COSINES[name]:.3f}".replace("0.", ".").removesuffix("0")
        found.append(_cosine(d, PRD, f"{required} ({name})", COSINES[name]))
        if name in HOURS:
            met = None if seconds is None else seconds < 3600 * HOURS[name]
            required = f"< {HOURS[name]:g} h"
            found.append(_make("training time", PRD, required, spent, met, "the run is not finished"))
        if name == "minimum":
            met = None if size is None else size < GIGABYTES * 1e9
            found.append(_make("size on disk", PRD, f"< {GIGABYTES:g} GB", on_disk, met, "no file"))
    return found


def _summary(d: ModelDiagnosis, metadata: Mapping[str, Any]) -> list[Criterion]:
    validation, test = d.gap.find("validation"), d.gap.find("test")
    apart, steady = "", None
    if validation is not None and test is not None:
        steady = abs(validation.cosine.value - test.cosine.value) <= CONSISTENT
        apart = f"validation {short(validation.cosine.value, 4)}, test {short(test.cosine.value, 4)}"
    outside = [g for g in d.sources.sources if d.sources.trained[g.name] is False]
    above = [g for g in outside if g.gain.above]
    general = len(above) == len(outside) if outside else None
    latency = metadata.get("latency_p50_ms")
    return [
        _ahead(d, "beats the linear average", SUMMARY, (LinearAverage.name,)),
        _cosine(d, SUMMARY, "> .546 (its linear average)", 0.546),
        _make(
            "consistent on the test set", SUMMARY, "within .02 (ours)", apart, steady,
            "one of the splits has no windows",
        ),
        _missing("interpretable attention weights", SUMMARY, "to be looked at", "an AMN's: nextvec report"),
        _cosine(d, SUMMARY, "> .60 (stretch)", 0.60),
        _make(
            "generalises to other domains", SUMMARY, "above the best baseline (ours)",
            f"in {len(above)} of {len(outside)} sources not trained on" if outside else "", general,
            "no evaluated source is known to be out of domain",
        ),
        _make(
            "real time", SUMMARY, "< 1 ms a prediction",
            "" if latency is None else f"{latency:.3f} ms (p50, batch 1, one thread)",
            None if latency is None else latency < 1, "speed was not measured",
        ),
    ]  # fmt: skip


def _ahead(d: ModelDiagnosis, criterion: str, document: str, names: Sequence[str]) -> Criterion:
    """Clearly above these baselines by cosine; measured against the one that decides."""
    rows = {name: d.standing.rows[name].ahead for name in names if name in d.standing.rows}
    leads = {name: ahead for name, ahead in rows.items() if ahead is not None}
    measured = ""
    if leads:
        decides = min(leads, key=lambda name: (leads[name].above, leads[name].value))
        measured = f"{decides} {leads[decides].show(4, sign=True)}"
    met = all(ahead.above for ahead in leads.values()) if len(leads) == len(names) else None
    return _make(criterion, document, "clearly", measured, met, "not all of these baselines were evaluated")


def _validation(d: ModelDiagnosis) -> SplitScore | None:
    return d.gap.find("validation") or next((s for s in d.gap.splits if not s.in_sample), None)


def _cosine(d: ModelDiagnosis, document: str, required: str, least: float) -> Criterion:
    score = _validation(d)
    if score is None:
        return _missing("validation cosine", document, required, "no split but train was evaluated")
    measured = f"{short(score.cosine.value, 4)} ({score.name})"
    met = score.cosine.value >= least if required.startswith(">=") else score.cosine.value > least
    return _make("validation cosine", document, required, measured, met, ENCODER)


def _loss(d: ModelDiagnosis, name: str, most: float, dimension: int) -> Criterion:
    """The thresholds are for unit vectors of 768 dimensions (`loss_factor`)."""
    encoder = d.moments.encoder
    factor = loss_factor(dimension, float((encoder.mean**2 + encoder.std**2).sum()))
    required = f"< {most:g} ({name})" + (
        "" if abs(factor - 1) < SAME_FACTOR else f", {most * factor:.6f} for vectors as these"
    )
    score = _validation(d)
    if score is None:
        return _missing("validation loss (mse)", PRD, required, "no split but train was evaluated")
    measured = f"{score.mse:.6f} ({score.name})"
    return _make("validation loss (mse)", PRD, required, measured, score.mse < most * factor, ENCODER)


def _make(
    criterion: str, document: str, required: str, measured: str, met: bool | None, note: str = ""
) -> Criterion:
    """`note` says why it is not measurable (met is None), or is ENCODER."""
    if met is None:
        return _missing(criterion, document, required, note)
    shown = note if note == ENCODER else ""
    status: Status = "met" if met else "not met"
    return Criterion(criterion, document, required, measured, status, note != ENCODER, shown)


def _missing(criterion: str, document: str, required: str, why: str) -> Criterion:
    return Criterion(criterion, document, required, "", "not measurable here", note=why)
