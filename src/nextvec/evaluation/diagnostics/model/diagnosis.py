"""The whole diagnosis of a model: every part, the headline, the verdicts, JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from nextvec.data.windows import VectorSource, Windows
from nextvec.evaluation.diagnostics.model.ablations import AblationsPart, ablate
from nextvec.evaluation.diagnostics.model.calibration import CalibrationPart, find_calibration
from nextvec.evaluation.diagnostics.model.case import Case
from nextvec.evaluation.diagnostics.model.collapse import CollapsePart, find_collapse
from nextvec.evaluation.diagnostics.model.examples import ExamplesPart, find_examples
from nextvec.evaluation.diagnostics.model.failures import FailuresPart, find_failures
from nextvec.evaluation.diagnostics.model.generalisation import GapPart, SourcesPart, find_gap, find_sources
from nextvec.evaluation.diagnostics.model.groups import FactorsPart, find_factors
from nextvec.evaluation.diagnostics.model.moments import MomentsPart, find_moments
from nextvec.evaluation.diagnostics.model.part import Part
from nextvec.evaluation.diagnostics.model.sequence import (
    MarginPart,
    OffsetPart,
    RolloutPart,
    find_margin,
    find_offsets,
    find_rollout,
)
from nextvec.evaluation.diagnostics.model.shifts import ShiftPart, find_shifts
from nextvec.evaluation.diagnostics.model.standing import StandingPart, find_standing
from nextvec.evaluation.diagnostics.verdicts import Verdict
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
    standing: StandingPart
    collapse: CollapsePart
    moments: MomentsPart
    ablations: AblationsPart
    margin: MarginPart
    offsets: OffsetPart
    rollout: RolloutPart
    gap: GapPart
    sources: SourcesPart
    factors: FactorsPart
    shifts: ShiftPart
    failures: FailuresPart
    calibration: CalibrationPart
    examples: ExamplesPart

    @property
    def parts(self) -> dict[str, Part]:
        """Name -> part."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: part for name, part in found.items() if isinstance(part, Part)}

    @property
    def verdicts(self) -> list[Verdict]:
        """Those of every part, in order."""
        return [verdict for part in self.parts.values() for verdict in part.verdicts()]

    @property
    def headline(self) -> str:
        """One sentence: where it stands, whether it has collapsed, whether order matters to it."""
        said = {verdict.name: verdict for verdict in self.verdicts}
        chosen = [said["standing"].text]
        chosen += [
            said[name].text
            for name in ("collapse", "few directions", "mean vector")
            if _grave(said.get(name))
        ]
        chosen += [f"it {said[name].text}" for name in ("context", "order") if name in said]
        return f"{self.model} is {'; '.join(chosen)}."

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: "model", "split" and counts, "headline", "verdicts", then each part by name."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in self.parts}
        said = {"headline": self.headline, "verdicts": [vars(verdict) for verdict in self.verdicts]}
        return {**plain, **said, **{name: part.to_json() for name, part in self.parts.items()}}


def diagnose(
    case: Case,
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
        EvaluationError: predictions that cannot be judged.
    """
    windows = case.exam.windows
    looks: dict[str, Callable[[], Part]] = {
        "standing": lambda: find_standing(case),
        "collapse": lambda: find_collapse(case.judgement, case.best_judgement),
        "moments": lambda: find_moments(case.judgement, case.document, seed),
        "ablations": lambda: ablate(case, seed=seed),
        "margin": lambda: find_margin(case),
        "offsets": lambda: find_offsets(case),
        "rollout": lambda: find_rollout(case),
        "gap": lambda: find_gap(case, split, others or {}, seed=seed),
        "sources": lambda: find_sources(case, sources),
        "factors": lambda: find_factors(case),
        "shifts": lambda: find_shifts(case),
        "failures": lambda: find_failures(case),
        "calibration": lambda: find_calibration(case),
        "examples": lambda: find_examples(case, seed=seed),
    }
    parts: dict[str, Any] = {}
    with Progress("diagnosing", len(looks), "parts", quiet=quiet) as progress:
        for name, look in looks.items():
            parts[name] = look()
            progress.advance(note=name)
    documents = len(np.unique(windows.document))
    return ModelDiagnosis(
        case.model.name, split, len(windows), documents, windows.context, windows.horizon, seed, **parts
    )


def _grave(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.level in ("warning", "red")
