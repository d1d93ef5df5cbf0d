"""What scores says: rows, how they compare with the best baseline, and the JSON of it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.data.windows import IntArray, Windows
from nextvec.disk import UNSEALED, atomic_path, check_seal, seal
from nextvec.errors import EvaluationError
from nextvec.evaluation.evaluation_set import Leaks
from nextvec.evaluation.intervals import STANDING, DocumentBootstrap, Estimate, caution
from nextvec.evaluation.metrics import KS, LINEAR_AVERAGE, METRICS, skill_over
from nextvec.evaluation.predictor_protocol import Kind

EASY = 0.5
"""A recall that chance alone brings above this says little; the field's bank of 6 vectors gave .83."""
PAIRED = ("cosine", "recall@5", "mrr", "energy_score")
COMPARED = ("cosine", "mse", "energy_score", *(f"recall@{k}" for k in KS), "mrr")
IN_JSON = (
    *("store", "split", "encoder", "context", "horizon", "task", "queries", "folds", "windows", "documents"),
    *("candidates", "pool", "eligible", "ties", "chance"),
)
"""What the JSON of a report has as it is, before all else."""


@dataclass
class PredictorRow:
    """One predictor.

    Attributes:
        metadata: parameters, seconds and whatever else it tells of itself.
        figures: metric -> figure; None where it cannot be known.
        values: metric -> one value a window [N], for those that are means.
        versus: metric -> its difference from the best baseline by that metric, with interval.
        units: [N, D] float16 unit predictions, where they were to be kept.
    """

    name: str
    kind: Kind
    metadata: dict[str, Any]
    figures: dict[str, float | None] = field(default_factory=dict)
    values: dict[str, NDArray[Any]] = field(default_factory=dict)
    versus: dict[str, Estimate] = field(default_factory=dict)
    units: NDArray[np.float16] | None = None

    def better(self, metric: str) -> bool | None:
        """Whether it is clearly better (True) or worse (False) than the best baseline; None: neither."""
        interval = self.versus.get(metric)
        return None if interval is None else interval.better(METRICS[metric].better)


@dataclass
class Report:
    """One table and what it stands on. `eligible` is the mean number of candidates of a window; `queries` the
    number of windows with a query, None in a table without them; `evaluated` the windows, where kept;
    `squared_length` the mean squared length of the targets; `folds` the number of a cross-validation's, else
    0."""

    store: str
    split: str
    encoder: str
    context: int
    horizon: int
    windows: int
    documents: int
    candidates: str
    pool: int
    eligible: float
    ties: int
    chance: dict[str, float]
    leaks: Leaks | None
    in_sample: bool
    seed: int
    left_out: list[str]
    rows: list[PredictorRow]
    task: str = "next"
    queries: int | None = None
    best: dict[str, str] = field(default_factory=dict)
    bootstrap: DocumentBootstrap | None = None
    evaluated: Windows | None = None
    squared_length: float = 1.0
    folds: int = 0

    def row(self, name: str) -> PredictorRow:
        return {row.name: row for row in self.rows}[name]

    def notes(self) -> list[str]:
        """What has to be said in words beside the figures."""
        notes = []
        if self.folds:
            notes.append(
                f"Cross-validation in {self.folds} folds: every document is evaluated once, by models that "
                "did not see it; each row stands for a model of each fold."
            )
        if self.in_sample:
            notes.append(
                "In-sample: these documents were trained on; the figures say nothing about new ones."
            )
        if self.left_out:
            notes.append(
                f"Nothing to fit on (no train split): only baselines without parameters; "
                f"left out: {', '.join(self.left_out)}."
            )
        if self.leaks is not None and self.leaks.dropped:
            notes.append(
                f"{self.leaks.dropped} of {self.leaks.windows} windows dropped, because their document or "
                f"target text also stands in training ({self.leaks.causes} different)."
            )
        if self.ties:
            message = f"Ties: {self.ties} targets have equals among the candidates; none counts against them."
            notes.append(message)
        easy = [f"{n} {chance:.2f}" for n, chance in self.chance.items() if n != "mrr" and chance > EASY]
        if easy:
            notes.append(
                f"Chance alone gives {', '.join(easy)}: there are too few candidates "
                f"({self.eligible:.1f} on average) for that to distinguish predictors."
            )
        if not self.best:
            notes.append("No baseline was evaluated: these figures stand alone.")
        elif self.documents < 2:
            notes.append("One document only: no interval can be given.")
        elif (few := caution(self.documents, self.windows)) is not None:
            notes.append(f"Only {few}: better and worse (+ and -) are of these documents, not of others.")
        return notes + [note for row in self.rows if row.kind == "model" for note in self._verdict(row)]

    def _verdict(self, row: PredictorRow) -> list[str]:
        leads = []
        for metric in ("cosine", "recall@1"):
            figure, best = row.figures.get(metric), self.best.get(metric)
            if figure is None or best is None:
                continue
            other = self.row(best).figures[metric]
            assert other is not None
            where = STANDING[row.better(metric)]
            leads.append(f"{where} the best baseline by {metric}: {figure:.4f}, {best} {other:.4f}")
        return [f"{row.name} is {'; '.join(leads)}."] if leads else []

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: "store", "split", "context", "windows", "documents", "pool", "rows" and more."""
        dropped = None
        if self.leaks is not None:
            dropped = {"windows": self.leaks.dropped, "of": self.leaks.windows}
            dropped |= {name: n for name, n in vars(self.leaks).items() if name != "windows"}
        return {
            **{name: getattr(self, name) for name in IN_JSON},
            "dropped": dropped,
            "mean_squared_length": self.squared_length,
            "in_sample": self.in_sample,
            "seed": self.seed,
            "left_out": self.left_out,
            "best_baseline": self.best,
            "pairs": self.pairs(),
            "notes": self.notes(),
            "rows": [_row_json(row) for row in self.rows],
        }

    def pairs(self) -> list[dict[str, Any]]:
        """Every two rows: the difference of the first from the second by each of `PAIRED`, with interval."""
        if self.bootstrap is None:
            return []
        return [
            {
                "metric": metric,
                "row": a.name,
                "than": b.name,
                **self.bootstrap.interval(a.values[metric], b.values[metric]).to_json(),
            }
            for metric in PAIRED
            for a, b in combinations(self.rows, 2)
            if metric in a.values and metric in b.values
        ]


def compare(report: Report) -> None:
    """Find the best baseline by each metric; give every row its skill and its differences from the best."""
    baselines = [row for row in report.rows if row.kind == "baseline"]
    for metric in COMPARED:
        best = best_by(metric, baselines)
        if best is None:
            continue
        report.best[metric] = best.name
        for row in report.rows:
            if report.bootstrap is not None and row is not best:
                row.versus[metric] = report.bootstrap.interval(row.values[metric], best.values[metric])
    linear = next((row for row in baselines if row.name == LINEAR_AVERAGE), None)
    for metric, reference in (("skill", linear), ("skill_vs_best_baseline", best_by("cosine", baselines))):
        for row in report.rows:
            base = None if reference is None else reference.figures["cosine"]
            cosine = row.figures["cosine"]
            row.figures[metric] = None if base is None or cosine is None else skill_over(cosine, base)


def best_by(metric: str, rows: Sequence[PredictorRow]) -> PredictorRow | None:
    """The row with the best figure; None when none has one."""
    sign = 1.0 if METRICS[metric].better == "higher" else -1.0
    known = [(sign * figure, row) for row in rows if (figure := row.figures.get(metric)) is not None]
    return max(known, key=lambda pair: pair[0])[1] if known else None


def _row_json(row: PredictorRow) -> dict[str, Any]:
    figures = {k: v if v is None or math.isfinite(v) else None for k, v in row.figures.items()}
    metadata = {k: v.item() if isinstance(v, np.generic) else v for k, v in row.metadata.items()}
    versus = {metric: {**i.to_json(), "better": row.better(metric)} for metric, i in row.versus.items()}
    return {"name": row.name, "kind": row.kind, **figures, **metadata, "versus_best_baseline": versus}


# What every predictor answered, window by window, kept beside the table: for pictures and examples that the
# table was not made for.

KEPT = "answers.safetensors"
MAX_BYTES = 2**32
REMEDY = "evaluate again; the figures in the table need it not"


@dataclass(frozen=True)
class KeptPredictions:
    """N windows and what was answered to them.

    Attributes:
        store: fingerprint of the store whose rows are meant.
        target, last: [N] rows of the true next chunk and of the last one read.
        document: [N] index in the store's documents.
        values: predictor -> metric -> [N] float32, for the metrics that are means over windows.
        units: predictor -> [N, D] float16 unit predictions, of those that were kept.
    """

    store: str
    target: IntArray
    last: IntArray
    document: IntArray
    values: dict[str, dict[str, NDArray[np.float32]]]
    units: dict[str, NDArray[np.float16]]

    @classmethod
    def of(cls, report: Report, store: str) -> KeptPredictions:
        """Those of a report made with `EvaluationConfig.keep`. Raises EvaluationError for another."""
        windows = report.evaluated
        if windows is None:
            raise EvaluationError("answers were not kept", remedy="evaluate with keep=True")
        values = {
            row.name: {name: np.asarray(v, np.float32) for name, v in row.values.items()}
            for row in report.rows
        }
        units = {row.name: row.units for row in report.rows if row.units is not None}
        return cls(store, windows.target, windows.last, windows.document, values, units)

    def write(self, path: Path) -> None:
        from safetensors.numpy import save_file

        tensors: dict[str, NDArray[np.generic]] = {
            name: np.ascontiguousarray(getattr(self, name)) for name in ("target", "last", "document")
        }
        names: list[list[str]] = []
        for row, metrics in self.values.items():
            for metric, value in metrics.items():
                tensors[f"values.{len(names)}"] = np.ascontiguousarray(value)
                names.append([row, metric])
        for number, unit in enumerate(self.units.values()):
            tensors[f"units.{number}"] = np.ascontiguousarray(unit)
        metadata = {"store": self.store, "values": json.dumps(names), "units": json.dumps(list(self.units))}
        with atomic_path(path) as made:
            save_file(tensors, made, metadata={**metadata, **UNSEALED})
            seal(made)

    @classmethod
    def read(cls, path: Path) -> KeptPredictions:
        """What `write` wrote. Raises EvaluationError naming the file."""
        from safetensors import SafetensorError, safe_open

        try:
            if path.stat().st_size > MAX_BYTES:
                raise EvaluationError("is larger than 4 GiB", where=path, remedy=REMEDY)
            check_seal(path, EvaluationError, REMEDY)
            with safe_open(path, "np") as f:
                metadata = f.metadata()
                rows, kept = json.loads(metadata["values"]), json.loads(metadata["units"])
                values: dict[str, dict[str, NDArray[np.float32]]] = {}
                for number, (row, metric) in enumerate(rows):
                    values.setdefault(row, {})[metric] = f.get_tensor(f"values.{number}")
                units = {row: f.get_tensor(f"units.{number}") for number, row in enumerate(kept)}
                target, last, document = (f.get_tensor(name) for name in ("target", "last", "document"))
        except OSError as e:
            raise EvaluationError(f"cannot be read ({e.strerror or e})", where=path, remedy=REMEDY) from None
        except (SafetensorError, KeyError, TypeError, ValueError) as e:
            raise EvaluationError(f"holds no answers ({e})", where=path, remedy=REMEDY) from None
        return cls(metadata["store"], target, last, document, values, units)
