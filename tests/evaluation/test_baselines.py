from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from nextvec.data import least_squares as linear
from nextvec.data.gather import gather_contexts, gather_rows
from nextvec.data.least_squares import DECAYS
from nextvec.evaluation.baselines import (
    BASELINES,
    AveragesWithResiduals,
    ExponentialAverages,
    LastAndMean,
    ListwiseAverages,
    MeanVector,
    NeighbourSuccessor,
    PositionWeights,
    Random,
    Ridge,
    RidgeOnAverages,
)
from nextvec.evaluation.baselines import simple as neighbour

D = 6


@pytest.fixture(scope="module")
def weighted(worlds: SimpleNamespace):
    """Each vector is .6 of the last, .3 of the one before, -.2 of the one before that, and a little noise."""
    rng = np.random.default_rng(0)
    steps = [rng.standard_normal((40, D)) for _ in range(3)]
    for _ in range(20):
        steps.append(0.6 * steps[-1] + 0.3 * steps[-2] - 0.2 * steps[-3] + 0.1 * rng.standard_normal((40, D)))
    return worlds.evaluation_set(np.stack(steps, axis=1).astype(np.float32), context=3)


def fit(cls, evaluation_set, context: int = 3, validation=None):
    made = cls(context)
    made.fit(evaluation_set.vectors, evaluation_set.windows, validation)
    return made


def test_position_weights_find_the_weights_the_world_was_made_with(weighted) -> None:
    made = fit(PositionWeights, weighted)
    assert made.weights == pytest.approx([-0.2, 0.3, 0.6], abs=0.05)
    contexts, lengths = gather_contexts(weighted.vectors, weighted.windows, 3)
    x = contexts.transpose(0, 2, 1).reshape(-1, 3).astype(np.float64)
    direct = np.linalg.lstsq(x, gather_rows(weighted.vectors, weighted.windows.target).ravel(), rcond=None)[0]
    assert made.weights == pytest.approx(direct, abs=1e-9)
    raw, units = made.predict(contexts[:5], lengths[:5])
    assert raw == pytest.approx((contexts[:5] * direct[:, None]).sum(axis=1), abs=1e-5)
    assert np.linalg.norm(units, axis=1) == pytest.approx(1, abs=1e-6)


def test_exponential_averages_are_averages_of_what_was_read() -> None:
    made = ExponentialAverages(3)
    contexts = np.zeros((2, 4, 1), dtype=np.float32)
    contexts[0, :4, 0], contexts[1, :2, 0] = [1, 2, 4, 8], [1, 3]
    got = made.features(contexts, np.array([4, 2]))[:, :, 0]
    for row, values in ((0, [1, 2, 4, 8]), (1, [1, 3])):
        for k, decay in enumerate(DECAYS):
            w = np.array([decay ** (len(values) - 1 - t) for t in range(len(values))])
            assert got[row, k] == pytest.approx((w * values).sum() / w.sum(), rel=1e-6)


def test_exponential_averages_reach_sixty_four_back(worlds: SimpleNamespace) -> None:
    rng = np.random.default_rng(1)
    # The document's own centre plus noise: only a long average finds it.
    vectors = (rng.standard_normal((40, 1, D)) + rng.standard_normal((40, 90, D))).astype(np.float32)
    evaluation_set = worlds.evaluation_set(vectors, context=5)
    made, short = fit(ExponentialAverages, evaluation_set, 5), fit(PositionWeights, evaluation_set, 5)
    assert made.context == 64
    errors = [
        float(
            (
                (
                    p.predict(*gather_contexts(evaluation_set.vectors, evaluation_set.windows, p.context))[0]
                    - evaluation_set.targets
                )
                ** 2
            ).mean()
        )
        for p in (made, short)
    ]
    assert errors[0] < 0.95 * errors[1]


def test_ridge_between_the_anchor_and_least_squares(weighted, monkeypatch: pytest.MonkeyPatch) -> None:
    contexts, lengths = gather_contexts(weighted.vectors, weighted.windows, 3)
    x = contexts.reshape(len(weighted), -1).astype(np.float64)
    scale = float((weighted.targets.astype(np.float64) ** 2).sum(axis=1).mean())
    anchor = np.kron(fit(PositionWeights, weighted).weights[:, None], np.eye(D))
    for penalty in (1e-6, 3.0, 1e9):
        monkeypatch.setattr(linear, "LAMBDAS", (penalty,))
        made = fit(Ridge, weighted, validation=weighted.windows)
        pull = penalty * scale * np.eye(3 * D)
        direct = np.linalg.solve(x.T @ x + pull, x.T @ weighted.targets + pull @ anchor)
        assert made.weights == pytest.approx(direct, abs=1e-4)
        assert made.predict(contexts, lengths)[0] == pytest.approx(x @ direct, abs=1e-3)


def test_ridge_chooses_by_validation(worlds: SimpleNamespace) -> None:
    rng = np.random.default_rng(0)
    turning, _ = worlds.rotation(rng, 60, 12, D)
    learned = fit(Ridge, worlds.evaluation_set(turning, context=2), 2)
    assert learned.metadata["lambda"] == min(linear.LAMBDAS)
    assert learned.metadata["parameters"] == 2 * D * D
    noise = worlds.evaluation_set(rng.standard_normal((60, 12, D)).astype(np.float32), context=2)
    assert fit(Ridge, noise, 2).metadata["lambda"] >= 10 * learned.metadata["lambda"]
    one = worlds.evaluation_set(rng.standard_normal((1, 30, D)).astype(np.float32), context=2)
    assert np.isfinite(fit(Ridge, one, 2).weights).all()


def test_ridge_error_from_sums_is_the_error(weighted) -> None:
    sums = linear.MapSums.over(weighted.vectors, weighted.windows, 3)
    weights = np.random.default_rng(0).standard_normal((3 * D, D))
    contexts, _ = gather_contexts(weighted.vectors, weighted.windows, 3)
    direct = ((contexts.reshape(len(weighted), -1) @ weights - weighted.targets) ** 2).mean()
    assert sums.squared_error(weights) == pytest.approx(direct, rel=1e-6)


def test_ridge_keeps_to_the_positions_that_fit(weighted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "MAX_FEATURES", 2 * D + 1)
    made = fit(Ridge, weighted)
    assert (made.context, made.metadata["positions"], made.weights.shape) == (2, 2, (2 * D, D))


def test_the_mean_vector_counts_each_chunk_once(worlds: SimpleNamespace) -> None:
    vectors = np.random.default_rng(0).standard_normal((4, 7, D)).astype(np.float32)
    evaluation_set = worlds.evaluation_set(vectors, [7, 2, 12, 7], context=3)
    mean = fit(MeanVector, evaluation_set).predict(np.zeros((2, 1, D), np.float32), np.ones(2, np.int64))[0]
    used = np.r_[0:7, 9:28]  # the document of two chunks has no window
    assert mean == pytest.approx(np.tile(evaluation_set.vectors[used].mean(axis=0), (2, 1)), abs=1e-6)


def test_the_neighbours_successor_is_what_a_plain_search_finds(
    worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbour, "KEY_BLOCK", 17)
    monkeypatch.setattr(neighbour, "QUERY_BLOCK", 5)
    rng = np.random.default_rng(0)
    train = worlds.evaluation_set(rng.standard_normal((12, 9, D)).astype(np.float32))
    made = fit(NeighbourSuccessor, train)
    queries = rng.standard_normal((13, 3, D)).astype(np.float32)
    raw, _ = made.predict(queries, np.full(13, 3))
    keys = gather_contexts(train.vectors, train.windows, 3)[0].mean(axis=1)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    best = (queries.mean(axis=1) @ keys.T).argmax(axis=1)
    assert np.array_equal(raw, train.targets[best])
    monkeypatch.setattr(neighbour, "MAX_KEY_BYTES", 4 * D * 20)
    assert fit(NeighbourSuccessor, train).metadata["contexts_searched"] == 18  # of 72, at most 20


def test_random_depends_on_seed_and_vector_and_not_on_the_batch() -> None:
    contexts = np.random.default_rng(0).standard_normal((8, 1, D)).astype(np.float32)
    lengths = np.ones(8, dtype=np.int64)
    whole = Random(5, seed=1).predict(contexts, lengths)[0]
    assert np.array_equal(whole[3:5], Random(5, seed=1).predict(contexts[3:5], lengths[3:5])[0])
    assert not np.allclose(whole, Random(5, seed=2).predict(contexts, lengths)[0])
    assert np.linalg.norm(whole, axis=1) == pytest.approx(np.linalg.norm(contexts[:, 0], axis=1), rel=1e-5)


@pytest.mark.parametrize("name", BASELINES)
def test_padding_does_not_matter_and_blocks_do_not_either(name: str, weighted, monkeypatch) -> None:
    made = fit(BASELINES[name], weighted)
    monkeypatch.setattr(linear, "BLOCK_BYTES", 4 * 3 * D * 7)
    again = fit(BASELINES[name], weighted)
    contexts, lengths = gather_contexts(weighted.vectors, weighted.windows.select(slice(0, 40)), 3)
    lengths[::3] = 2
    contexts[::3, 2] = 0.0
    expected = made.predict(contexts, lengths)[0]
    padded = np.concatenate([contexts, np.zeros((40, 4, D), np.float32)], axis=1)
    assert made.predict(padded, lengths)[0] == pytest.approx(expected, abs=1e-5)
    assert again.predict(contexts, lengths)[0] == pytest.approx(expected, abs=1e-4)
    assert made.kind == "baseline"
    assert made.metadata["parameters"] > 0 or not made.needs_training


def test_last_and_mean() -> None:
    contexts = np.array([[[1.0], [2.0], [6.0]], [[4.0], [8.0], [0.0]]], dtype=np.float32)
    raw = LastAndMean(3).predict(contexts, np.array([3, 2]))[0]
    assert raw[:, 0] == pytest.approx([(6 + 3) / 2, (8 + 6) / 2])


@pytest.fixture(scope="module")
def turned(worlds: SimpleNamespace):
    """What follows is the mean of all that was read, turned by a fixed map: no scalars can say that."""
    rng = np.random.default_rng(3)
    turn = np.linalg.qr(rng.standard_normal((D, D)))[0]
    steps = [rng.standard_normal((60, D))]
    for _ in range(24):
        steps.append(np.mean(steps, axis=0) @ turn + 0.5 * rng.standard_normal((60, D)))
    return worlds.evaluation_set(np.stack(steps, axis=1).astype(np.float32), context=3)


def test_ridge_on_averages_finds_a_map_of_the_mean(turned) -> None:
    made, scalars = fit(RidgeOnAverages, turned), fit(ExponentialAverages, turned)
    assert made.metadata["parameters"] == len(DECAYS) * D * D
    contexts, lengths = gather_contexts(turned.vectors, turned.windows, made.context)
    targets = gather_rows(turned.vectors, turned.windows.target)
    error, other = (((b.predict(contexts, lengths)[0] - targets) ** 2).mean() for b in (made, scalars))
    assert error == pytest.approx(0.25, rel=0.05)  # the noise that was added
    assert other > 1.1 * error


def test_listwise_averages_rank_better_than_the_best_point(worlds: SimpleNamespace) -> None:
    """All chunks share a direction that says nothing of what comes next: least squares keeps it, ranking
    turns away from it."""
    rng = np.random.default_rng(5)
    steps = [rng.standard_normal((60, D))]
    for _ in range(20):
        steps.append(0.8 * steps[-1] + 0.6 * rng.standard_normal((60, D)))
    common = np.zeros(D)
    common[0] = 3.0
    made = worlds.evaluation_set((np.stack(steps, axis=1) + common).astype(np.float32), context=3)
    ranker, point = fit(ListwiseAverages, made), fit(ExponentialAverages, made)
    contexts, lengths = gather_contexts(made.vectors, made.windows, ranker.context)
    ranks = {b.name: made.ranks(b.predict(contexts, lengths)[1]) for b in (ranker, point)}
    assert (1 / ranks["listwise averages"]).mean() > 1.05 * (1 / ranks["exponential averages"]).mean()
    assert ranker.weights[-1] < 0  # of the mean vector


def test_residuals_are_those_of_training_and_a_window_draws_none_twice(weighted) -> None:
    made, plain = fit(AveragesWithResiduals, weighted), fit(RidgeOnAverages, weighted)
    contexts, lengths = gather_contexts(weighted.vectors, weighted.windows, made.context)
    points = plain.predict(contexts, lengths)[0]
    missed = gather_rows(weighted.vectors, weighted.windows.target) - points
    drawn = made.sample(contexts[:7], lengths[:7], 16, seed=4) - points[:7]
    for one in drawn.transpose(1, 0, 2):
        which = [int(np.abs(missed - residual).sum(axis=1).argmin()) for residual in one]
        assert missed[which] == pytest.approx(one, abs=1e-5)
        assert len(set(which)) == 16
    assert (made.sample(contexts[:7], lengths[:7], 16, seed=5) - points[:7] != drawn).any()
