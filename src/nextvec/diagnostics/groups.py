"""Cosine of the model beside the best baseline's, in groups of windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from nextvec.data.gather import VectorSource, gather_rows
from nextvec.data.windows import FloatArray, IntArray, Windows
from nextvec.diagnostics.engine import DiagnosisContext, Section, Verdict, sample, score, spearman
from nextvec.evaluation.intervals import Estimate, Values, estimate, short
from nextvec.evaluation.predictor import row_dots, unit
from nextvec.text import table

SEARCH_BLOCK = 4096
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


# Train against validation and test, and sources that were trained on against those that were not.

WINDOWS = 2000
TRAIN = "train"


@dataclass(frozen=True)
class SplitScore:
    """One split, by at most 2,000 of its windows.

    Attributes:
        in_sample: the model was trained on these documents.
        cosine, mse: of the model; baseline: cosine of the best baseline; gain: difference in cosine.
    """

    name: str
    in_sample: bool
    windows: int
    documents: int
    cosine: Estimate
    mse: float
    baseline: Estimate
    gain: Estimate


@dataclass(frozen=True)
class GapSection(Section):
    """The same predictor on documents it was trained on and on others.

    Splits differ in difficulty, so the gap is read in the difference to the best baseline, which hardly
    over-fits: a model whose lead is in the training documents only has learned them by heart.
    """

    title: ClassVar[str] = "Train, validation, test"
    best: str
    judged: str
    splits: tuple[SplitScore, ...]

    def find(self, name: str) -> SplitScore | None:
        """One split; None where it has no windows."""
        return next((s for s in self.splits if s.name == name), None)

    def verdicts(self) -> list[Verdict]:
        train = self.find(TRAIN)
        others = [s for s in self.splits if not s.in_sample]
        if train is None or not others:
            return []
        other = next((s for s in others if s.name == self.judged), others[-1])
        gap, lead = train.cosine.value - other.cosine.value, train.gain.value - other.gain.value
        apart = lead > _error(train.gain, other.gain)
        text = (
            f"cosine {short(train.cosine.value)} on train (in-sample) and {short(other.cosine.value)} on "
            f"{other.name}: a gap of {short(gap)}, of the best baseline "
            f"{short(train.baseline.value - other.baseline.value)}"
        )
        if apart:
            text += f"; its lead over the baseline shrinks by {short(lead)}: over-fitted"
            text += ", or the splits differ in more than that"
        return [Verdict("train gap", "warning" if apart else "ok", text)]

    def lines(self) -> list[str]:
        rows = [
            [
                s.name + (" (in-sample)" if s.in_sample else ""),
                f"{s.windows:,}",
                f"{s.documents:,}",
                s.cosine.show(4),
                s.baseline.show(4),
                s.gain.show(4, sign=True),
                f"{s.mse:.6f}",
            ]
            for s in self.splits
        ]
        header = ["split", "windows", "documents", "cosine", self.best, "difference", "mse"]
        return table(header, rows)


@dataclass(frozen=True)
class SourcesSection(Section):
    """Every source of the evaluated documents.

    Attributes:
        sources: one group each, the order of the store's.
        trained: source -> whether the model was trained on documents of it; None where that is not known.
    """

    title: ClassVar[str] = "Sources, in and out of domain"
    best: str
    sources: tuple[WindowGroup, ...]
    trained: dict[str, bool | None]

    def verdicts(self) -> list[Verdict]:
        said = [f"{g.name} {g.gain.show(sign=True)}" for g in self.sources]
        outside = [g for g in self.sources if self.trained[g.name] is False]
        found = []
        if len(said) > 1:
            below = [g for g in self.sources if g.gain.clear and g.gain.value < 0]
            text = f"by source, against {self.best}: {', '.join(said)}"
            found.append(Verdict("sources", "warning" if below else "ok", text))
        if outside:
            above = [g.name for g in outside if g.gain.clear and g.gain.value > 0]
            names = ", ".join(g.name for g in outside)
            text = (
                f"out of domain ({names}): above the best baseline in {len(above)} of {len(outside)} sources"
            )
            found.append(Verdict("out of domain", "ok" if len(above) == len(outside) else "note", text))
        return found

    def lines(self) -> list[str]:
        lines = group_table("source", self.sources, self.best)
        for answer, words in ((True, "Trained on"), (False, "Out of domain"), (None, "Not known")):
            of = [name for name, known in self.trained.items() if known is answer]
            if of:
                lines.append(f"{words}: {', '.join(of)}.")
        return lines


def _error(one: Estimate, other: Estimate) -> float:
    """Half the 95 % interval of the difference of two independent means, by normal approximation."""
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return float("inf")
    return math.hypot(one.high - one.low, other.high - other.low) / 2


def find_gap(
    context: DiagnosisContext,
    judged: str,
    others: Mapping[str, tuple[VectorSource, Windows]],
    *,
    windows: int = WINDOWS,
    seed: int = 0,
) -> GapSection:
    """Score the model and the best baseline on other splits beside the evaluated one.

    Args:
        evaluated: name of the split of the case.
        others: name -> vectors and windows of the other splits.
    """
    found = [] if judged in others else [_judged(context, judged)]
    for name, (vectors, every) in others.items():
        part = every.select(sample(len(every), windows, seed))
        cosine, mse = score(context.model, vectors, part)
        baseline, _ = score(context.baselines[context.best], vectors, part)
        found.append(_split(name, part, cosine, mse, baseline))
    order = (TRAIN, "validation", "test")
    found.sort(key=lambda s: order.index(s.name) if s.name in order else len(order))
    return GapSection(context.best, judged, tuple(found))


def find_sources(context: DiagnosisContext, trained: Sequence[str] | None) -> SourcesSection:
    """Group the windows by source. `trained`: the sources trained on, None where not known."""
    names = sorted(set(context.source.tolist()))
    known = {name: None if trained is None else name in trained for name in names}
    return SourcesSection(
        context.best, tuple(group(context, name, context.source == name) for name in names), known
    )


def _judged(context: DiagnosisContext, name: str) -> SplitScore:
    error = context.scores.raw - context.evaluation_set.targets
    mse = np.einsum("nd,nd->n", error, error, dtype=np.float64) / context.evaluation_set.dimension
    return _split(name, context.evaluation_set.windows, context.cosine, mse, context.best_cosine)


def _split(
    name: str, windows: Windows, cosine: np.ndarray, mse: np.ndarray, baseline: np.ndarray
) -> SplitScore:
    documents = windows.document
    return SplitScore(
        name,
        name == TRAIN,
        len(windows),
        len(np.unique(documents)),
        estimate(documents, cosine),
        float(mse.mean()),
        estimate(documents, baseline),
        estimate(documents, cosine, baseline),
    )
