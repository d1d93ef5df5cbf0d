from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextvec.data.gather import read_on
from nextvec.errors import EvaluationError
from nextvec.evaluation.baselines import CopyLast, LinearAverage
from nextvec.evaluation.metrics import METRICS, Scores
from nextvec.evaluation.predictor_protocol import unit
from nextvec.evaluation.trajectory import rollable, rollout


@given(st.data())
def test_reading_on_keeps_the_last_vectors(data: st.DataObject) -> None:
    width = data.draw(st.integers(1, 6))
    lengths = data.draw(st.lists(st.integers(1, width), min_size=1, max_size=5))
    rng = np.random.default_rng(0)
    texts = [list(rng.standard_normal((n, 3)).astype(np.float32)) for n in lengths]
    contexts = np.zeros((len(texts), max(lengths), 3), np.float32)
    for row, text in zip(contexts, texts, strict=True):
        row[: len(text)] = text
    n = np.array(lengths)
    for _ in range(width + 2):
        following = rng.standard_normal((len(texts), 3)).astype(np.float32)
        contexts, n = read_on(contexts, n, following, width)
        for i, text in enumerate(texts):
            text.append(following[i])
            kept = text[-width:]
            assert n[i] == len(kept)
            assert np.array_equal(contexts[i, : n[i]], kept)
            assert not contexts[i, n[i] :].any()


@pytest.mark.parametrize("context", [1, 3, 64])
def test_a_rollout_is_that_of_a_plain_loop(worlds, context: int) -> None:
    rng = np.random.default_rng(1)
    counts = [12, 9, 15]
    vectors = rng.standard_normal((36, 5)).astype(np.float32)
    evaluation_set = worlds.evaluation_set(vectors, counts, context=2)
    mix = rng.standard_normal((5, 5)).astype(np.float32)
    predictor = worlds.FunctionPredictor(
        lambda c, n: (c.sum(axis=1) / n[:, None]) @ mix + c[np.arange(len(n)), n - 1], context=context
    )
    found = rollout(predictor, evaluation_set, steps=4)
    ends = np.repeat(np.cumsum(counts), counts)
    can = evaluation_set.windows.target + 3 < ends[evaluation_set.windows.target]
    assert found.windows.target.tolist() == evaluation_set.windows.target[can].tolist()
    for i, (target, first) in enumerate(zip(found.windows.target, found.windows.first, strict=True)):
        text, before = list(vectors[first:target]), None
        for step in range(4):
            read = np.stack(text[-context:])
            guess = read.mean(axis=0) @ mix + read[-1]
            text.append(guess)
            direction = unit(guess)
            assert found.cosine[i, step] == pytest.approx(direction @ unit(vectors[target + step]), abs=1e-4)
            assert found.drift[i, step] == pytest.approx(direction @ unit(vectors[target - 1]), abs=1e-4)
            if before is not None:
                assert found.repetition[i, step - 1] == pytest.approx(direction @ before, abs=1e-4)
            before = direction


def test_copying_stands_still_and_the_law_does_not_tire(worlds) -> None:
    vectors, turn = worlds.rotation(np.random.default_rng(0), 6, 20, 24)
    evaluation_set = worlds.evaluation_set(vectors)
    copy = rollout(CopyLast(3), evaluation_set)
    assert copy.drift == pytest.approx(1)
    assert copy.repetition == pytest.approx(1)
    law = rollout(
        worlds.FunctionPredictor(lambda c, n: c[np.arange(len(n)), n - 1] @ turn.T, context=1), evaluation_set
    )
    assert law.cosine == pytest.approx(1, abs=1e-5)
    assert rollout(LinearAverage(3), evaluation_set).cosine.mean() < 0.9


def test_the_first_step_is_the_prediction_that_is_evaluated(worlds) -> None:
    evaluation_set = worlds.evaluation_set(worlds.noisy(np.random.default_rng(0), 5, 12, 8))
    scores = Scores.of(LinearAverage(3), evaluation_set)
    assert scores.rollout.cosine[:, 0] == pytest.approx(scores.cosines[rollable(evaluation_set)], abs=1e-6)


def test_of_many_windows_some_are_rolled_out_evenly_spaced(worlds) -> None:
    evaluation_set = worlds.evaluation_set(worlds.noisy(np.random.default_rng(0), 40, 20, 4))
    found = rollout(CopyLast(3), evaluation_set, most=100)
    assert len(found.windows) == 100
    assert np.bincount(found.windows.document, minlength=40).min() >= 2


def test_documents_too_short_and_longer_horizons_cannot_be_rolled_out(worlds) -> None:
    vectors = worlds.noisy(np.random.default_rng(0), 4, 7, 4)
    for evaluation_set, steps in (
        (worlds.evaluation_set(vectors), 5),
        (worlds.evaluation_set(vectors, horizon=2), 2),
    ):
        with pytest.raises(EvaluationError, match=f"no window of horizon 1 has {steps} chunks after"):
            rollout(CopyLast(3), evaluation_set, steps)
        assert METRICS["rollout@5"].needs - Scores.of(CopyLast(3), evaluation_set).has == {"rollout"}
    assert len(rollable(worlds.evaluation_set(vectors), 4)) == 4
