"""Cosine of the model beside the best baseline's, in groups of windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nextvec.data.gather import gather_rows
from nextvec.diagnostics.examples import nearest_cosine
from nextvec.diagnostics.sections import DiagnosisContext, Section, Verdict, spearman
from nextvec.evaluation.intervals import Estimate, Values, estimate, short
from nextvec.evaluation.predictor import row_dots, unit
from nextvec.text import table

QUANTILES = 4


@dataclass(frozen=True)
class WindowGroup:
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
    groups: tuple[WindowGroup, ...]


@dataclass(frozen=True)
class FactorsSection(Section):
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


def find_factors(context: DiagnosisContext) -> FactorsSection:
    """Group the windows by quartiles of each property."""
    properties: list[tuple[str, NDArray[Any], Callable[[Any], str]]] = [
        ("chunks of the document", context.length, str),
        ("position of the target", context.position, str),
    ]
    if context.train_vectors is not None and context.trained is not None:
        nearest = nearest_cosine(context.evaluation_set.target_units, context.train_vectors, context.trained)
        properties.append(("cosine of the nearest training chunk", nearest, short))
    factors = [
        Factor(name, spearman(values, context.cosine), quantile_groups(context, values, show))
        for name, values, show in properties
    ]
    return FactorsSection(context.best, tuple(factors))


def group(context: DiagnosisContext, name: str, which: NDArray[np.bool_]) -> WindowGroup:
    """The windows of a mask [N]."""
    documents = context.document[which]
    return WindowGroup(
        name,
        windows=int(which.sum()),
        documents=len(np.unique(documents)),
        cosine=estimate(documents, context.cosine[which]),
        baseline=float(context.best_cosine[which].mean()),
        gain=context.gain(which),
        better=float((context.cosine[which] > context.best_cosine[which]).mean()),
    )


def quantile_groups(
    context: DiagnosisContext, values: NDArray[Any], show: Callable[[Any], str], count: int = QUANTILES
) -> tuple[WindowGroup, ...]:
    """The windows in `count` groups of about equal size by `values` [N]; equal values stay together."""
    return tuple(group(context, name, part) for name, part in named_masks(values, show, count))


def named_masks(
    values: NDArray[Any], show: Callable[[Any], str], count: int
) -> list[tuple[str, NDArray[np.bool_]]]:
    """`quantile_masks`, each with its bounds as a name."""
    parts = quantile_masks(values, count)
    bounds = [(show(values[p].min().item()), show(values[p].max().item())) for p in parts]
    names = [low if low == high else f"{low} to {high}" for low, high in bounds]
    return list(zip(names, parts, strict=True))


def quantile_masks(values: NDArray[Any], count: int) -> list[NDArray[np.bool_]]:
    """Masks [N] of up to `count` groups of about equal size, ascending; equal values stay together."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, count + 1)[1:-1]))
    label = np.searchsorted(edges, values, side="left")
    return [label == i for i in np.unique(label)]


def group_table(what: str, groups: Sequence[WindowGroup], best: str) -> list[str]:
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


# Where the model gains and where it loses against the best baseline: at topic shifts, or elsewhere?

SHIFT_NAMES = ("topic goes on", "in between", "topic shift")
UNREST_NAMES = ("steady context", "in between", "mixed context")


@dataclass(frozen=True)
class ShiftSection(Section):
    """Windows in thirds by topic shift (distance of the target from the mean of the context).

    These thirds are chosen by the target, so a baseline near the mean of the context is at its worst in the
    last of them by construction, and anything that differs from it gains there. Hence two things beside it:
    the same thirds for every baseline, and thirds by what is known before the target: how far the last chunk
    read is from the mean of those before it.

    Attributes:
        bounds: the shifts that part the thirds.
        thirds: by shift; unrest: by the context alone (empty for a context of one).
        others: baseline -> its mean cosine in each third by shift.
        better: share of all windows where the model is nearer than the best baseline.
    """

    title: ClassVar[str] = "Gains and losses against the best baseline"
    best: str
    bounds: tuple[float, ...]
    gain: Estimate
    better: float
    thirds: tuple[WindowGroup, ...]
    unrest: tuple[WindowGroup, ...]
    others: dict[str, list[float]]

    def verdicts(self) -> list[Verdict]:
        said = [f"{_verb(g.gain)} {g.gain.show(sign=True)} where {_where(g.name)}" for g in self.thirds]
        text = (
            f"against {self.best} it {', '.join(said)}; it is nearer in {100 * self.better:.0f} % of windows"
        )
        losing = all(g.gain.clear and g.gain.value < 0 for g in self.thirds)
        return [Verdict("gains and losses", "warning" if losing else "note", text)]

    def lines(self) -> list[str]:
        lines = group_table("by the target", self.thirds, self.best)
        shown = "; ".join(f"{name} {', '.join(short(x) for x in own)}" for name, own in self.others.items())
        lines += [
            f"Thirds by 1 - cos(target, mean of the context), parted at "
            f"{' and '.join(short(b) for b in self.bounds)}. They are chosen by the target: what is near the "
            "mean of the context is at its worst in the last by construction.",
            f"Cosines of the other baselines in them: {shown}.",
        ]
        if self.unrest:
            lines += ["", *group_table("by the context", self.unrest, self.best)]
            lines.append("Thirds by 1 - cos(last chunk read, mean of those before it): known in advance.")
        return lines


def find_shifts(context: DiagnosisContext) -> ShiftSection:
    """Part the windows in thirds, both ways."""
    parts = quantile_masks(context.shift, len(SHIFT_NAMES))
    others = [a for name, a in context.summaries.items() if name not in (context.best, context.model.name)]
    unrest = _unrest(context)
    calm = [] if unrest is None else quantile_masks(unrest, len(UNREST_NAMES))
    return ShiftSection(
        best=context.best,
        bounds=tuple(float(context.shift[p].max()) for p in parts[:-1]),
        gain=context.gain(),
        better=float((context.cosine > context.best_cosine).mean()),
        thirds=tuple(
            group(context, n, p) for n, p in zip(_names(SHIFT_NAMES, len(parts)), parts, strict=True)
        ),
        unrest=tuple(
            group(context, n, p) for n, p in zip(_names(UNREST_NAMES, len(calm)), calm, strict=True)
        ),
        others={a.name: [float(a.cosine[p].mean()) for p in parts] for a in others},
    )


def _unrest(context: DiagnosisContext) -> Values | None:
    """[N] distance of the last chunk read from the mean of the others in the context."""
    windows = context.evaluation_set.windows
    if windows.context < 2:
        return None
    rows = windows.last[:, None] - np.arange(1, windows.context)
    before = np.empty((len(windows), context.evaluation_set.dimension), dtype=np.float32)
    for start in range(0, len(windows), 1024):
        piece = slice(start, start + 1024)
        before[piece] = gather_rows(context.evaluation_set.vectors, rows[piece]).mean(axis=1)
    return 1.0 - row_dots(context.evaluation_set.last_units, unit(before))


def _names(names: tuple[str, ...], count: int) -> tuple[str, ...]:
    """Names of `count` parts: where values are equal there are fewer than three."""
    return {0: (), 1: (names[1],), 2: (names[0], names[2])}.get(count, names)


def _verb(gain: Estimate) -> str:
    if not gain.clear:
        return "is level"
    return "gains" if gain.value > 0 else "loses"


def _where(name: str) -> str:
    return {"topic goes on": "the topic goes on", "topic shift": "it shifts"}.get(name, "it is in between")
