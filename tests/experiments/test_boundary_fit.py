"""The finder of boundaries that is chosen on joined documents, and kept for the run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from conftest import TURN
from nextvec.corpus.store import Store
from nextvec.errors import ConfigError, RunError
from nextvec.evaluation.boundaries import CURVES, DEFAULT, Rule
from nextvec.experiments.boundary_fit import check_kept, fit_finder, keep
from nextvec.experiments.evaluating import DocumentSelection
from nextvec.experiments.segmentation import join_documents
from nextvec.experiments.surprise import FILE, chosen
from nextvec.inference.predictor import RunPredictor
from nextvec.models.saving import PRETRAINED
from nextvec.vectors import unit


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> RunPredictor:
    return RunPredictor(shutil.copytree(trained, tmp_path / "run"))


def test_who_knows_the_law_is_chosen_and_kept(
    world: Store, run: RunPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The world turns: cosines of neighbours say little there, surprise of a run that knows it says all."""

    def turned(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raw = (vectors @ TURN.T).astype(np.float32)
        return raw, unit(raw)

    monkeypatch.setattr(run, "predict_each", turned, raising=False)
    assert chosen(run) == (DEFAULT, CURVES[DEFAULT].usual)
    fitted = fit_finder(world, run, DocumentSelection(), count=20, seed=1)
    assert set(fitted.pk) == set(CURVES)
    assert CURVES[fitted.finder].predicts
    assert fitted.pk[fitted.finder] == min(fitted.pk.values()) < fitted.pk["cosine-gap"] - 0.05
    assert keep(fitted, run) == run.folder / FILE
    assert chosen(run) == (fitted.finder, fitted.rule)
    # What is asked for goes over what was fitted.
    assert chosen(run, threshold=7.0) == (fitted.finder, Rule(7.0, fitted.apart, fitted.width))
    assert chosen(run, "cosine-drop") == ("cosine-drop", CURVES["cosine-drop"].usual)


def test_segments_may_be_short(world: Store) -> None:
    lengths = set()
    for joined in join_documents(world, range(40), 40, 0, (2, 3)):
        ends = [i + 1 for i, cut in enumerate(joined.cuts) if cut]
        lengths |= {b - a for a, b in zip([0, *ends], [*ends, len(joined.rows)], strict=True)}
    assert lengths == {2, 3}
    assert min(kind.usual.apart for kind in CURVES.values()) < 5


def test_what_is_damaged_or_cannot_be_written_is_refused(run: RunPredictor) -> None:
    for text, error in (("[1]", RunError), ('{"finder": 1}', ConfigError), ("{", RunError)):
        (run.folder / FILE).write_text(text)
        with pytest.raises(error):
            chosen(run)
    with pytest.raises(RunError, match="comes with the package"):
        check_kept(RunPredictor(PRETRAINED))
