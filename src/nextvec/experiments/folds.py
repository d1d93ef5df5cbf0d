"""Cross-validation by document: the tables of all folds as one, in which every document is judged once, by
models that did not see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from nextvec.data.windows import Windows
from nextvec.errors import EvaluationError
from nextvec.evaluation.evaluation_set import Leaks
from nextvec.evaluation.intervals import DocumentBootstrap
from nextvec.evaluation.report import PredictorRow, Report, compare


def joined(reports: Sequence[Report]) -> Report:
    """One table of several whose documents differ: every window counts once, intervals are over all of them.

    Figures that are means over windows are those of all windows; others (a spread, a set-level distance) are
    means of the folds', weighted by their windows. Every window keeps the candidates of its own fold.

    Args:
        reports: of the same predictors by name, made with `EvaluationConfig.keep`; one alone is returned as
            it is. A row that not all of them have is left out.
    Raises:
        EvaluationError: answers were not kept.
    """
    first = reports[0]
    if len(reports) == 1:
        return first
    windows = [report.judged for report in reports]
    if any(part is None for part in windows):
        raise EvaluationError("answers were not kept", remedy="evaluate with keep=True")
    judged = _windows([part for part in windows if part is not None])
    weights = np.array([report.windows for report in reports], dtype=np.float64)
    names = [row.name for row in first.rows if all(_has(report, row.name) for report in reports)]
    made = replace(
        first,
        windows=len(judged),
        documents=len(np.unique(judged.document)),
        queries=None if first.queries is None else sum(report.queries or 0 for report in reports),
        pool=round(_mean([report.pool for report in reports], weights)),
        eligible=_mean([report.eligible for report in reports], weights),
        ties=sum(report.ties for report in reports),
        chance={key: _mean([report.chance[key] for report in reports], weights) for key in _shared(reports)},
        leaks=_leaks([report.leaks for report in reports]),
        rows=[_row([report.row(name) for report in reports], weights) for name in names],
        best={},
        judged=judged,
        squared_length=_mean([report.squared_length for report in reports], weights),
        folds=len(reports),
    )
    known = next((report.bootstrap for report in reports if report.bootstrap is not None), None)
    if made.documents > 1:
        drawn = {} if known is None else {"resamples": known.resamples}
        made.bootstrap = DocumentBootstrap(judged.document, seed=first.seed, **drawn)
    compare(made)
    return made


def _has(report: Report, name: str) -> bool:
    return any(row.name == name for row in report.rows)


def _shared(reports: Sequence[Report]) -> list[str]:
    return [key for key in reports[0].chance if all(key in report.chance for report in reports)]


def _windows(parts: Sequence[Windows]) -> Windows:
    arrays: dict[str, Any] = {}
    for field in fields(Windows):
        values = [getattr(part, field.name) for part in parts]
        if isinstance(values[0], np.ndarray):
            arrays[field.name] = np.concatenate(values)
    return replace(parts[0], **arrays)


def _row(rows: Sequence[PredictorRow], weights: Any) -> PredictorRow:
    values = {
        key: np.concatenate([row.values[key] for row in rows])
        for key in rows[0].values
        if all(key in row.values for row in rows)
    }
    figures: dict[str, float | None] = {}
    for key in rows[0].figures:
        found = [row.figures.get(key) for row in rows]
        if any(figure is None for figure in found):
            figures[key] = None
        else:
            figures[key] = float(values[key].mean()) if key in values else _mean(found, weights)
    units = [row.units for row in rows if row.units is not None]
    metadata = {key: _fact([row.metadata.get(key) for row in rows]) for key in rows[0].metadata}
    kept = np.concatenate(units) if len(units) == len(rows) else None
    return PredictorRow(rows[0].name, rows[0].kind, metadata, figures, values, units=kept)


def _fact(found: Sequence[Any]) -> Any:
    """What the folds say in common: a mean of numbers that differ, nothing of what else differs."""
    if all(value == found[0] for value in found):
        return found[0]
    if all(isinstance(value, (int, float)) for value in found):
        return float(np.mean(found))
    return None


def _leaks(several: Sequence[Leaks | None]) -> Leaks | None:
    held = [leaks for leaks in several if leaks is not None]
    if not held:
        return None
    return Leaks(**{f.name: sum(getattr(leaks, f.name) for leaks in held) for f in fields(Leaks)})


def _mean(values: Sequence[Any], weights: Any) -> float:
    return float(np.average(np.asarray(values, dtype=np.float64), weights=weights))
