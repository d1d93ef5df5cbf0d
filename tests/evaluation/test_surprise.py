from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from nextvec.errors import EvaluationError
from nextvec.evaluation.baselines import CopyLast, LinearAverage
from nextvec.evaluation.boundaries import expected, surprise
from nextvec.evaluation.metrics import METRICS, Scores
from nextvec.evaluation.predictor_protocol import unit


def document(first: int, count: int) -> SimpleNamespace:
    return SimpleNamespace(first=first, count=count)


def test_each_chunk_is_compared_with_what_was_expected_before_it(worlds) -> None:
    vectors = worlds.noisy(np.random.default_rng(0), 1, 30, 8)[0]
    found = surprise(CopyLast(5), vectors, document(10, 12))
    directions = unit(vectors[10:22])
    assert np.isnan(found[0])
    assert found[1:] == pytest.approx(1 - (directions[1:] * directions[:-1]).sum(axis=1), abs=1e-6)


def test_its_mean_is_the_metric(worlds) -> None:
    evaluation_set = worlds.evaluation_set(worlds.noisy(np.random.default_rng(0), 3, 14, 8), context=4)
    for predictor in (LinearAverage(4), worlds.FunctionPredictor(worlds.kalman)):
        parts = [surprise(predictor, evaluation_set.vectors, document(14 * i, 14), least=4) for i in range(3)]
        assert all(np.isnan(part[:4]).all() for part in parts)
        metric = METRICS["surprise"].values(Scores.of(predictor, evaluation_set))
        assert np.concatenate([part[4:] for part in parts]) == pytest.approx(metric, abs=1e-9)


def test_a_change_of_subject_is_the_largest_surprise(worlds) -> None:
    vectors, turn = worlds.rotation(np.random.default_rng(0), 2, 20, 64)
    spliced = np.concatenate([vectors[0, :11], vectors[1, 11:]])
    law = worlds.FunctionPredictor(lambda c, n: c[np.arange(len(n)), n - 1] @ turn.T, context=1)
    found = surprise(law, spliced, document(0, 20))
    assert int(np.nanargmax(found)) == 11
    assert np.nanmax(np.delete(found, 11)) < 1e-4 < 0.3 < found[11]


def test_a_document_of_one_chunk_has_no_surprise_and_nan_is_refused(worlds) -> None:
    vectors = worlds.noisy(np.random.default_rng(0), 1, 5, 4)[0]
    assert np.isnan(surprise(CopyLast(5), vectors, document(2, 1))).tolist() == [True]
    with pytest.raises(EvaluationError, match="hold NaN"):
        surprise(worlds.FunctionPredictor(lambda c, n: c[:, 0] * np.nan), vectors, document(0, 5))


def test_what_was_expected_is_the_predictors_answer(worlds) -> None:
    vectors = worlds.noisy(np.random.default_rng(0), 1, 20, 8)[0]
    found = expected(LinearAverage(3), vectors, document(4, 10), least=2)
    assert not found[:2].any()
    for t in range(2, 10):
        read = vectors[4 + max(0, t - 3) : 4 + t]
        assert found[t] == pytest.approx(unit(read.mean(axis=0)), abs=1e-6)


class OncePerDocument:
    """The mean of what was read, which can be asked for all beginnings of a document together."""

    name, kind, context = "mean", "model", 4

    def __init__(self) -> None:
        self.read: list[int] = []

    def predict(self, contexts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.read += lengths.tolist()
        raw = np.stack([rows[:n].mean(axis=0) for rows, n in zip(contexts, lengths, strict=True)])
        return raw, unit(raw)

    def predict_each(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.read.append(len(vectors))
        raw = np.cumsum(vectors, axis=0) / np.arange(1, len(vectors) + 1)[:, None]
        return raw.astype(np.float32), unit(raw.astype(np.float32))


@pytest.mark.parametrize("least", [1, 3, 6])
@pytest.mark.parametrize("count", [1, 2, 4, 5, 9])
def test_a_document_is_read_once_as_far_as_the_context_reaches(worlds, count: int, least: int) -> None:
    vectors = worlds.noisy(np.random.default_rng(0), 1, 20, 8)[0]
    found = OncePerDocument()
    output = expected(found, vectors, document(3, count), least)
    assert output == pytest.approx(expected(LinearMean(), vectors, document(3, count), least), abs=1e-6)
    if count == 5 and least == 1:
        assert found.read == [4], "four vectors, not 1 + 2 + 3 + 4"


class LinearMean:
    """The same without that gift."""

    name, kind, context = "mean", "model", 4
    predict = OncePerDocument.predict

    def __init__(self) -> None:
        self.read: list[int] = []
