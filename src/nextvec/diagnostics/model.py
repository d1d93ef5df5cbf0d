"""The whole diagnosis of a model: every part, the headline, the verdicts, JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from nextvec.data.gather import VectorSource
from nextvec.data.windows import Windows
from nextvec.diagnostics.ablations import AblationsSection, ablate
from nextvec.diagnostics.collapse import CollapseSection, MomentsSection, find_collapse, find_moments
from nextvec.diagnostics.examples import ExamplesSection, find_examples
from nextvec.diagnostics.failures import (
    FailuresSection,
    GapSection,
    SourcesSection,
    find_failures,
    find_gap,
    find_sources,
)
from nextvec.diagnostics.groups import (
    CalibrationSection,
    FactorsSection,
    ShiftSection,
    find_calibration,
    find_factors,
    find_shifts,
)
from nextvec.diagnostics.sections import DiagnosisContext, Section, Verdict
from nextvec.diagnostics.standing import (
    MarginSection,
    OffsetSection,
    RolloutSection,
    StandingSection,
    find_margin,
    find_offsets,
    find_rollout,
    find_standing,
)
from nextvec.progress import Progress


@dataclass(frozen=True)
class ModelDiagnosis:
    """What was found out about one predictor, part by part, in the order it is read."""

    model: str
    split: str
    windows: int
    documents: int
    context: int
    horizon: int
    seed: int
    standing: StandingSection
    collapse: CollapseSection
    moments: MomentsSection
    ablations: AblationsSection
    margin: MarginSection
    offsets: OffsetSection
    rollout: RolloutSection
    gap: GapSection
    sources: SourcesSection
    factors: FactorsSection
    shifts: ShiftSection
    failures: FailuresSection
    calibration: CalibrationSection
    examples: ExamplesSection

    @property
    def parts(self) -> dict[str, Section]:
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: part for name, part in found.items() if isinstance(part, Section)}

    @property
    def verdicts(self) -> list[Verdict]:
        return [verdict for part in self.parts.values() for verdict in part.verdicts()]

    @property
    def headline(self) -> str:
        """One sentence: where it stands, whether it has collapsed, whether order matters to it."""
        by_name = {verdict.name: verdict for verdict in self.verdicts}
        grave = {
            name: verdict.text for name, verdict in by_name.items() if verdict.level in ("warning", "red")
        }
        chosen = [by_name["standing"].text]
        chosen += [grave[name] for name in ("collapse", "few directions", "mean vector") if name in grave]
        chosen += [f"it {by_name[name].text}" for name in ("context", "order") if name in by_name]
        return f"{self.model} is {'; '.join(chosen)}."

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: "model", "split" and counts, "headline", "verdicts", then each part by name."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in self.parts}
        summary = {"headline": self.headline, "verdicts": [vars(verdict) for verdict in self.verdicts]}
        return {**plain, **summary, **{name: part.to_json() for name, part in self.parts.items()}}


def diagnose(
    context: DiagnosisContext,
    split: str,
    *,
    others: Mapping[str, tuple[VectorSource, Windows]] | None = None,
    sources: Sequence[str] | None = None,
    seed: int = 0,
    quiet: bool = True,
) -> ModelDiagnosis:
    """Look at a predictor from every side.

    Args:
        split: name of the case's split.
        others: name -> vectors and windows of the other splits, for the train gap.
        sources: those that the model was trained on; None where that is not known.
        seed: of samples, shuffles and random windows.
    Raises:
        EvaluationError: predictions that cannot be evaluated.
    """
    windows = context.evaluation_set.windows
    looks: dict[str, Callable[[], Section]] = {
        "standing": lambda: find_standing(context),
        "collapse": lambda: find_collapse(context.scores, context.best_scores),
        "moments": lambda: find_moments(context.scores, context.document, seed),
        "ablations": lambda: ablate(context, seed=seed),
        "margin": lambda: find_margin(context),
        "offsets": lambda: find_offsets(context),
        "rollout": lambda: find_rollout(context),
        "gap": lambda: find_gap(context, split, others or {}, seed=seed),
        "sources": lambda: find_sources(context, sources),
        "factors": lambda: find_factors(context),
        "shifts": lambda: find_shifts(context),
        "failures": lambda: find_failures(context),
        "calibration": lambda: find_calibration(context),
        "examples": lambda: find_examples(context, seed=seed),
    }
    parts: dict[str, Any] = {}
    with Progress("diagnosing", len(looks), "parts", quiet=quiet) as progress:
        for name, look in looks.items():
            parts[name] = look()
            progress.advance(note=name)
    documents = len(np.unique(windows.document))
    return ModelDiagnosis(
        context.model.name, split, len(windows), documents, windows.context, windows.horizon, seed, **parts
    )
