"""Where the model gains and where it loses against the best baseline: at topic shifts, or elsewhere?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nextvec.data.windows import gather_rows
from nextvec.evaluation.diagnostics.model.case import Case
from nextvec.evaluation.diagnostics.model.groups import Group, group, group_table, quantile_parts
from nextvec.evaluation.diagnostics.model.part import Estimate, Part, Values
from nextvec.evaluation.diagnostics.verdicts import Verdict, short
from nextvec.evaluation.predictor import row_dots, unit

SHIFT_NAMES = ("topic goes on", "in between", "topic shift")
UNREST_NAMES = ("steady context", "in between", "mixed context")


@dataclass(frozen=True)
class ShiftPart(Part):
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
    thirds: tuple[Group, ...]
    unrest: tuple[Group, ...]
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


def find_shifts(case: Case) -> ShiftPart:
    """Part the windows in thirds, both ways."""
    parts = quantile_parts(case.shift, len(SHIFT_NAMES))
    others = [a for name, a in case.answers.items() if name not in (case.best, case.model.name)]
    unrest = _unrest(case)
    calm = [] if unrest is None else quantile_parts(unrest, len(UNREST_NAMES))
    return ShiftPart(
        best=case.best,
        bounds=tuple(float(case.shift[p].max()) for p in parts[:-1]),
        gain=case.gain(),
        better=float((case.cosine > case.best_cosine).mean()),
        thirds=tuple(group(case, n, p) for n, p in zip(_names(SHIFT_NAMES, len(parts)), parts, strict=True)),
        unrest=tuple(group(case, n, p) for n, p in zip(_names(UNREST_NAMES, len(calm)), calm, strict=True)),
        others={a.name: [float(a.cosine[p].mean()) for p in parts] for a in others},
    )


def _unrest(case: Case) -> Values | None:
    """[N] distance of the last chunk read from the mean of the others in the context."""
    windows = case.exam.windows
    if windows.context < 2:
        return None
    rows = windows.last[:, None] - np.arange(1, windows.context)
    before = np.empty((len(windows), case.exam.dimension), dtype=np.float32)
    for start in range(0, len(windows), 1024):
        piece = slice(start, start + 1024)
        before[piece] = gather_rows(case.exam.vectors, rows[piece]).mean(axis=1)
    return 1.0 - row_dots(case.exam.last_units, unit(before))


def _names(names: tuple[str, ...], count: int) -> tuple[str, ...]:
    """Names of `count` parts: where values are equal there are fewer than three."""
    return {0: (), 1: (names[1],), 2: (names[0], names[2])}.get(count, names)


def _verb(gain: Estimate) -> str:
    if not gain.clear:
        return "is level"
    return "gains" if gain.value > 0 else "loses"


def _where(name: str) -> str:
    return {"topic goes on": "the topic goes on", "topic shift": "it shifts"}.get(name, "it is in between")
