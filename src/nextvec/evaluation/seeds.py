"""Runs that differ in their seed only, as one row: what is claimed of a model is claimed of their mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nextvec.evaluation.report import Report, Row, compare

SPREAD = ("cosine", "mse", "recall@5", "mrr")


def merge_seeds(report: Report, groups: Mapping[str, Sequence[str]]) -> Report:
    """A report with one row for each group of rows, in place of them.

    Figures are means over the seeds; per-window values too, so that the interval over documents is that of
    the mean. The row keeps every seed's own figures under `per_seed`, and their standard deviation
    (n - 1; nothing for one seed) under `<metric>_seed_std`. Of predictions, those of the first seed are kept.

    Args:
        groups: name of the merged row -> names of its rows. Rows in no group stay as they are.
    """
    taken = {name for names in groups.values() for name in names}
    merged = [_merge(group, [report.row(name) for name in names]) for group, names in groups.items()]
    kept = [row for row in report.rows if row.name not in taken]
    for row in [*kept, *merged]:
        row.versus = {}
    out = replace(report, rows=[*kept, *merged], best={})
    compare(out)
    return out


def _merge(name: str, rows: Sequence[Row]) -> Row:
    figures = {key: _mean([row.figures[key] for row in rows]) for key in rows[0].figures}
    values = {key: np.mean([row.values[key] for row in rows], axis=0) for key in rows[0].values}
    facts = _merge_facts([row.facts for row in rows])
    facts["seeds"] = len(rows)
    if len(rows) > 1:
        for key in SPREAD:
            known = [figure for row in rows if (figure := row.figures[key]) is not None]
            facts[f"{key}_seed_std"] = float(np.std(known, ddof=1))
    facts["per_seed"] = [
        {"name": row.name, **{k: v for k, v in row.facts.items() if k in ("seed", "model_file", "seconds")}}
        | {k: row.figures.get(k) for k in ("cosine", "mse", "recall@1", "recall@5", "mrr")}
        for row in rows
    ]
    return Row(name, rows[0].kind, facts, figures, values, units=rows[0].units)


def _merge_facts(several: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Numbers become means (whole ones that agree stay whole); what is not a number must agree or goes."""
    out: dict[str, Any] = {}
    for key in several[0]:
        found = [facts.get(key) for facts in several]
        if all(value == found[0] for value in found):
            out[key] = found[0]
        elif all(isinstance(value, (int, float)) for value in found):
            out[key] = _mean(found)
    return out


def _mean(values: Sequence[Any]) -> float | None:
    known = [float(v) for v in values if v is not None]
    return float(np.mean(known)) if len(known) == len(values) else None
