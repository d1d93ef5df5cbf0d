"""Cosine of the model beside the best baseline's, in groups of windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from nextvec.data.windows import FloatArray, IntArray, VectorSource, gather_rows
from nextvec.evaluation.diagnostics.model.case import Case
from nextvec.evaluation.diagnostics.model.part import Estimate, Part, Values, estimate, spearman, table
from nextvec.evaluation.diagnostics.verdicts import Verdict, short
from nextvec.evaluation.predictor import row_dots, unit

SEARCH_BLOCK = 4096
QUANTILES = 4


@dataclass(frozen=True)
class Group:
    """Windows that have something in common.

    Attributes:
        cosine, baseline: mean cosine of the model and of the best baseline; gain: their difference.
        better: share of the windows where the model is the nearer one.
    """

    name: str
    windows: int
    documents: int
    cosine: Estimate
    baseline: float
    gain: Estimate
    better: float


@dataclass(frozen=True)
class Factor:
    """One property of a window, and the model's cosine by it.

    Attributes:
        correlation: rank correlation of the property with the model's cosine over windows; None for
            properties without order.
    """

    name: str
    correlation: float | None
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class FactorsPart(Part):
    """The model's cosine by document length, position in the document and similarity to training data."""

    title: ClassVar[str] = "Where the error is"
    best: str
    factors: tuple[Factor, ...]

    def verdicts(self) -> list[Verdict]:
        found = []
        for factor in self.factors:
            low = min(factor.groups, key=lambda g: g.cosine.value)
            high = max(factor.groups, key=lambda g: g.cosine.value)
            if len(factor.groups) < 2:
                continue
            text = (
                f"by {factor.name}: cosine from {short(low.cosine.value)} ({low.name}) to "
                f"{short(high.cosine.value)} ({high.name})"
            )
            losing = [g.name for g in factor.groups if g.gain.clear and g.gain.value < 0]
            if losing and len(losing) < len(factor.groups):
                text += f"; below the best baseline at {', '.join(losing)}"
            found.append(Verdict(f"error by {factor.name}", "note", text))
        return found

    def lines(self) -> list[str]:
        lines: list[str] = []
        for factor in self.factors:
            lines += group_table(factor.name, factor.groups, self.best)
            if factor.correlation is not None:
                lines.append(f"Rank correlation with the model's cosine: {short(factor.correlation)}.")
            lines.append("")
        return lines[:-1]


def find_factors(case: Case) -> FactorsPart:
    """Group the windows by quartiles of each property."""
    properties: list[tuple[str, NDArray[Any], Callable[[Any], str]]] = [
        ("chunks of the document", case.length, str),
        ("position of the target", case.position, str),
    ]
    if case.train_vectors is not None and case.trained is not None:
        nearest = nearest_cosine(case.exam.target_units, case.train_vectors, case.trained)
        properties.append(("cosine of the nearest training chunk", nearest, short))
    factors = [
        Factor(name, spearman(values, case.cosine), quantile_groups(case, values, show))
        for name, values, show in properties
    ]
    return FactorsPart(case.best, tuple(factors))


def group(case: Case, name: str, which: NDArray[np.bool_]) -> Group:
    """The windows of a mask [N]."""
    documents = case.document[which]
    return Group(
        name,
        windows=int(which.sum()),
        documents=len(np.unique(documents)),
        cosine=estimate(documents, case.cosine[which]),
        baseline=float(case.best_cosine[which].mean()),
        gain=case.gain(which),
        better=float((case.cosine[which] > case.best_cosine[which]).mean()),
    )


def quantile_groups(
    case: Case, values: NDArray[Any], show: Callable[[Any], str], count: int = QUANTILES
) -> tuple[Group, ...]:
    """The windows in `count` groups of about equal size by `values` [N]; equal values stay together."""
    return tuple(group(case, name, part) for name, part in named_parts(values, show, count))


def named_parts(
    values: NDArray[Any], show: Callable[[Any], str], count: int
) -> list[tuple[str, NDArray[np.bool_]]]:
    """`quantile_parts`, each with its bounds as a name."""
    parts = quantile_parts(values, count)
    bounds = [(show(values[p].min().item()), show(values[p].max().item())) for p in parts]
    names = [low if low == high else f"{low} to {high}" for low, high in bounds]
    return list(zip(names, parts, strict=True))


def quantile_parts(values: NDArray[Any], count: int) -> list[NDArray[np.bool_]]:
    """Masks [N] of up to `count` groups of about equal size, ascending; equal values stay together."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, count + 1)[1:-1]))
    label = np.searchsorted(edges, values, side="left")
    return [label == i for i in np.unique(label)]


def group_table(what: str, groups: Sequence[Group], best: str) -> list[str]:
    """A row for each group."""
    rows = [
        [
            g.name,
            f"{g.windows:,}",
            f"{g.documents:,}",
            short(g.cosine.value, 4),
            short(g.baseline, 4),
            g.gain.show(4, sign=True),
            f"{100 * g.better:.0f} %",
        ]
        for g in groups
    ]
    return table([what, "windows", "documents", "cosine", best, "difference", "better in"], rows)


def nearest_cosine(units: FloatArray, vectors: VectorSource, rows: IntArray) -> Values:
    """[N] largest cosine of each of `units` [N, D] to any of these rows of `vectors`.

    Exact: float32 products in blocks find the row, float64 gives its cosine.
    """
    return row_dots(units, unit(gather_rows(vectors, nearest_rows(units, vectors, rows))))


def nearest_rows(units: FloatArray, vectors: VectorSource, rows: IntArray) -> IntArray:
    """[N] which of these rows of `vectors` has the largest cosine to each of `units` [N, D], in float32."""
    queries = torch.from_numpy(np.ascontiguousarray(units))
    best = torch.full((len(queries),), -2.0)
    which = torch.zeros(len(queries), dtype=torch.int64)
    for start in range(0, len(rows), SEARCH_BLOCK):
        block = torch.from_numpy(unit(gather_rows(vectors, rows[start : start + SEARCH_BLOCK])))
        for a in range(0, len(queries), SEARCH_BLOCK):
            piece = slice(a, a + SEARCH_BLOCK)
            value, place = (queries[piece] @ block.T).max(dim=1)
            better = value > best[piece]
            which[piece] = torch.where(better, place + start, which[piece])
            best[piece] = torch.where(better, value, best[piece])
    return np.asarray(rows[which.numpy()], dtype=np.int64)
