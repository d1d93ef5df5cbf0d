"""Tables of several runs as one: of all folds of a cross-validation, in which every document is judged once
by models that did not see it, and of runs that differ in their seed only, of which the mean is claimed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from nextvec.data.windows import Windows
from nextvec.errors import EvaluationError
from nextvec.evaluation.evaluation_set import Leaks
from nextvec.evaluation.intervals import DocumentBootstrap
from nextvec.evaluation.report import PredictorRow, Report, compare

SPREAD = ("cosine", "mse", "recall@5", "mrr")


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
    windows = [report.judged for report in reports if report.judged is not None]
    if len(windows) < len(reports):
        raise EvaluationError("answers were not kept", remedy="evaluate with keep=True")
    judged, weights = Windows.joined(windows), [report.windows for report in reports]
    names = set.intersection(*({row.name for row in report.rows} for report in reports))
    leaks = [report.leaks for report in reports if report.leaks is not None]

    def mean(of: str) -> float:
        return float(np.average([getattr(report, of) for report in reports], weights=weights))

    made = replace(
        first,
        windows=len(judged),
        documents=len(np.unique(judged.document)),
        queries=None if first.queries is None else sum(report.queries or 0 for report in reports),
        pool=round(mean("pool")),
        eligible=mean("eligible"),
        ties=sum(report.ties for report in reports),
        chance={
            key: float(np.average([report.chance[key] for report in reports], weights=weights))
            for key in first.chance
            if all(key in report.chance for report in reports)
        },
        leaks=Leaks(**{f.name: sum(getattr(each, f.name) for each in leaks) for f in fields(Leaks)})
        if leaks
        else None,
        rows=[
            _of_folds([r.row(row.name) for r in reports], weights) for row in first.rows if row.name in names
        ],
        best={},
        judged=judged,
        squared_length=mean("squared_length"),
        folds=len(reports),
    )
    known = next((report.bootstrap for report in reports if report.bootstrap is not None), None)
    if made.documents > 1:
        drawn = {} if known is None else {"resamples": known.resamples}
        made.bootstrap = DocumentBootstrap(judged.document, seed=first.seed, **drawn)
    compare(made)
    return made


def _of_folds(rows: Sequence[PredictorRow], weights: Sequence[int]) -> PredictorRow:
    values = {
        key: np.concatenate([row.values[key] for row in rows])
        for key in rows[0].values
        if all(key in row.values for row in rows)
    }
    figures = {key: _mean([row.figures.get(key) for row in rows], weights) for key in rows[0].figures}
    figures |= {key: float(values[key].mean()) for key in values if figures[key] is not None}
    units = [row.units for row in rows if row.units is not None]
    metadata = dict.fromkeys(rows[0].metadata) | _common(rows)
    kept = np.concatenate(units) if len(units) == len(rows) else None
    return PredictorRow(rows[0].name, rows[0].kind, metadata, figures, values, units=kept)


def merge_seeds(report: Report, groups: Mapping[str, Sequence[str]]) -> Report:
    """A report with one row for each group of rows, in place of them.

    Figures are means over the seeds; per-window values too, so that the interval over documents is that of
    the mean. The row keeps every seed's own figures under `per_seed`, and their standard deviation
    (n - 1; nothing for one seed) under `<metric>_seed_std`. Of predictions, those of the first seed are kept.

    Args:
        groups: name of the merged row -> names of its rows. Rows in no group stay as they are.
    """
    taken = {name for names in groups.values() for name in names}
    merged = [_of_seeds(group, [report.row(name) for name in names]) for group, names in groups.items()]
    rows = [*(row for row in report.rows if row.name not in taken), *merged]
    for row in rows:
        row.versus = {}
    out = replace(report, rows=rows, best={})
    compare(out)
    return out


def _of_seeds(name: str, rows: Sequence[PredictorRow]) -> PredictorRow:
    figures = {key: _mean([row.figures[key] for row in rows]) for key in rows[0].figures}
    values = {key: np.mean([row.values[key] for row in rows], axis=0) for key in rows[0].values}
    metadata = {**_common(rows), "seeds": len(rows)}
    if len(rows) > 1:
        for key in SPREAD:
            known = [figure for row in rows if (figure := row.figures[key]) is not None]
            metadata[f"{key}_seed_std"] = float(np.std(known, ddof=1))
    metadata["per_seed"] = [
        {
            "name": row.name,
            **{k: v for k, v in row.metadata.items() if k in ("seed", "model_file", "seconds")},
            **{k: row.figures.get(k) for k in ("cosine", "mse", "recall@1", "recall@5", "mrr")},
        }
        for row in rows
    ]
    return PredictorRow(name, rows[0].kind, metadata, figures, values, units=rows[0].units)


def _common(rows: Sequence[PredictorRow]) -> dict[str, Any]:
    """What the rows' metadata say in common: of numbers that differ the mean; what else differs goes."""
    out: dict[str, Any] = {}
    for key in rows[0].metadata:
        found = [row.metadata.get(key) for row in rows]
        if all(value == found[0] for value in found):
            out[key] = found[0]
        elif all(isinstance(value, (int, float)) for value in found):
            out[key] = _mean(found)
    return out


def _mean(values: Sequence[Any], weights: Sequence[int] | None = None) -> float | None:
    """None where one of them is not known."""
    return None if None in values else float(np.average(np.asarray(values, np.float64), weights=weights))
