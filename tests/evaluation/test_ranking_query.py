"""A predictor that gives a query is ranked by it; the rank by its unit prediction stands beside it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from nextvec.errors import EvaluationError
from nextvec.evaluation.baselines import CopyLast
from nextvec.evaluation.metrics import METRICS, Scores

D = 16


class Ranked(CopyLast):
    """Predicts the last vector and ranks by what truly comes, or by something else."""

    ranking = True

    def __init__(self, truth: dict[bytes, np.ndarray], stretch: float = 1.0) -> None:
        super().__init__(1)
        self.truth, self.stretch = truth, stretch

    def predict_ranking(self, contexts, lengths, queries=None):
        raw, units = self.predict(contexts, lengths)
        query = np.stack([self.truth[row.tobytes()] for row in raw]) * self.stretch
        return raw, units, query.astype(np.float32)


@pytest.fixture(scope="module")
def known(worlds: SimpleNamespace) -> tuple:
    documents = np.random.default_rng(0).standard_normal((6, 10, D)).astype(np.float32)
    documents /= np.linalg.norm(documents, axis=2, keepdims=True)
    truth = {d[i].tobytes(): d[i + 1] for d in documents for i in range(9)}
    return worlds.evaluation_set(documents, context=2), truth


def test_ranks_are_by_the_query_and_everything_else_is_not(known) -> None:
    evaluation_set, truth = known
    ranked, plain = Scores.of(Ranked(truth), evaluation_set), Scores.of(CopyLast(1), evaluation_set)
    assert METRICS["recall@1"].figure(ranked) == METRICS["mrr"].figure(ranked) == 1.0
    assert METRICS["recall@1"].figure(plain) < 0.5
    for by_unit, by_query in (("unit_recall@5", "recall@5"), ("unit_mrr", "mrr")):
        assert METRICS[by_unit].figure(ranked) == METRICS[by_query].figure(plain)
    for name in ("cosine", "mse", "contrastive_accuracy"):
        assert METRICS[name].figure(ranked) == METRICS[name].figure(plain)
    some = ranked.select(slice(0, 5))
    assert METRICS["mrr"].figure(some) == 1.0 > METRICS["unit_mrr"].figure(some)


def test_a_query_that_is_not_of_unit_length_is_refused(known) -> None:
    evaluation_set, truth = known
    with pytest.raises(EvaluationError, match="lengths from 2 to 2"):
        Scores.of(Ranked(truth, stretch=2.0), evaluation_set)
