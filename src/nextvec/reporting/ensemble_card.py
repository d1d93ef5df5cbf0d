"""The model card of an ensemble."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from huggingface_hub import ModelCardData

from nextvec.experiments.ensemble import EnsembleRun, load
from nextvec.reporting.card import CARD, MARK, UNKNOWN, put_card
from nextvec.reporting.tables import render


def make_ensemble_card(ensemble: EnsembleRun, *, licence: str = UNKNOWN) -> str:
    """The card of an ensemble as Markdown: its members with their weights, and how it is used."""
    data = ModelCardData(
        license=licence,
        library_name="nextvec",
        tags=["next-vector-prediction", "sentence-embeddings", "ensemble"],
    )
    weights = zip(ensemble.members, ensemble.mixture.unit, ensemble.mixture.raw, strict=True)
    flags = [" --task middle" if ensemble.task == "middle" else ""]
    flags.append(f" --horizon {ensemble.horizon}" if ensemble.horizon > 1 else "")
    return render(
        "ensemble_card.md.j2",
        metadata=data.to_yaml(),
        mark=MARK,
        name=ensemble.name,
        encoder=ensemble.described.get("name", UNKNOWN),
        fingerprint=str(ensemble.encoder)[:16],
        context=ensemble.context,
        dimension=ensemble.dimension,
        horizon=ensemble.horizon,
        parameters=ensemble.metadata["parameters"],
        members=[(m.name, m.kind, f"{unit:.3f}", f"{raw:.3f}") for m, unit, raw in weights],
        folder=shlex.quote(ensemble.name),
        folder_python=json.dumps(ensemble.name, ensure_ascii=False),
        flags="".join(flags),
    )


def write_ensemble_card(folder: Path, path: Path | None = None, *, licence: str | None = None) -> Path:
    """Put the card of an ensemble into its folder, or elsewhere. Returns where.

    Raises:
        ConfigError, RunError: as `nextvec.reporting.card.write_card`.
    """
    ensemble = load(folder)
    path = folder / CARD if path is None else path
    return put_card(path, lambda name: make_ensemble_card(ensemble, licence=name), licence)
