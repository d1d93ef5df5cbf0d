from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest

from nextvec.errors import EvaluationError, MissingDependencyError
from nextvec.evaluation import faiss_index
from nextvec.evaluation.baselines import CopyLast
from nextvec.evaluation.evaluation_set import EvaluationSet
from nextvec.evaluation.harness import EvaluationConfig
from nextvec.evaluation.metrics import METRICS, Scores
from nextvec.evaluation.predictor import unit
from nextvec.evaluation.ranking import ranks


def indexed(exam: EvaluationSet) -> EvaluationSet:
    return EvaluationSet(exam.vectors, exam.windows, exam.pool, exam.train_mean, exam.seed, index="faiss")


@pytest.mark.parametrize("kind", ["split", "store"])
@pytest.mark.parametrize("nearest", [1, 7, 60, 10**6])
def test_ranks_are_the_same(worlds, kind: str, nearest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the length of the list: what it does not decide is counted in full."""
    monkeypatch.setattr(faiss_index, "NEAREST", nearest)
    monkeypatch.setattr(faiss_index, "QUERY_BLOCK", 50)
    rng = np.random.default_rng(1)
    vectors = worlds.noisy(rng, 24, 20, 16).reshape(-1, 16)
    texts = [f"t{i}" for i in range(480)]
    vectors[200], vectors[333] = vectors[55], vectors[55]  # equal vectors, other texts
    texts[80] = texts[250] = texts[400] = "again"  # equal texts, other vectors
    near = unit(vectors[99] + 1e-7 * rng.standard_normal((5, 16)).astype(np.float32))
    vectors[120:125] = near  # nearer to each other than float32 can tell
    exam = worlds.exam(vectors, [20] * 24, kind=kind, judged=range(0, 24, 2), texts=texts)
    for noise in (0.1, 1.0, 10.0):
        units = unit(exam.targets + noise * rng.standard_normal(exam.targets.shape).astype(np.float32))
        expected = ranks(units, exam.vectors, exam.pool)
        assert indexed(exam).ranks(units).tolist() == expected.tolist()


def test_every_figure_is_the_same(worlds) -> None:
    exam = worlds.exam(worlds.noisy(np.random.default_rng(0), 30, 40, 16))
    one, other = (Scores.of(CopyLast(3), e) for e in (exam, indexed(exam)))
    assert len(exam.pool) > faiss_index.NEAREST
    assert one.ranks.max() > faiss_index.NEAREST
    for metric in METRICS.values():
        if metric.needs <= one.has:
            assert metric.figure(one) == metric.figure(other), metric.name


def test_the_index_answers_what_it_can(worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    exam = worlds.exam(worlds.noisy(np.random.default_rng(0), 30, 40, 16))
    left = []
    monkeypatch.setattr(faiss_index, "ranks", lambda u, v, p: left.append(len(u)) or ranks(u, v, p))
    indexed(exam).ranks(exam.target_units)
    assert left == []
    indexed(exam).ranks(-exam.target_units)
    assert sum(left) == len(exam)


def test_without_faiss_it_says_what_to_install(worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "faiss" else found(name))
    with pytest.raises(MissingDependencyError, match=r"needs faiss.*; pip install nextvec\[faiss\]"):
        EvaluationConfig(index="faiss")
    exam = worlds.exam(worlds.noisy(np.random.default_rng(0), 3, 8, 4))
    with pytest.raises(MissingDependencyError):
        indexed(exam).ranks(exam.target_units)


def test_choices_that_make_no_sense_are_refused() -> None:
    with pytest.raises(EvaluationError, match="no index 'annoy'; choose one of: exact, faiss"):
        EvaluationConfig(index="annoy")
    with pytest.raises(EvaluationError, match="among those of one document"):
        EvaluationConfig(index="faiss", candidates="document")
    assert replace(EvaluationConfig(), index="faiss").candidates == "split"
