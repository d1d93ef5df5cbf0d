"""A rollout reads its own predictions, stops where the guard says, and is pulled to real chunks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nextvec.corpus.store import Store
from nextvec.errors import ConfigError, EncoderMismatchError, ModelError
from nextvec.inference.predictor import RunPredictor
from nextvec.inference.rollout import Guard, NearestHit, RolloutResult, RolloutSettings, SnapToCorpus, roll
from nextvec.vectors import RawVectors, UnitVectors, unit

D = 4
FREE = Guard(min_cosine=None, max_repetition=None, rescale=False)


class Turning:
    """Predicts the last vector turned by an angle in the first two dimensions, `shrink` times as long."""

    encoder, context = "turning", 3

    def __init__(self, degrees: float, shrink: float = 1.0) -> None:
        angle = np.radians(degrees)
        self.turn = np.eye(D, dtype=np.float32) * shrink
        self.turn[:2, :2] = shrink * np.array(
            [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        )
        self.requested: list[np.ndarray] = []
        self.queries: list[Any] = []

    def predict(self, contexts: np.ndarray, lengths: np.ndarray, queries: Any = None) -> Any:
        self.requested.append(contexts[0, : lengths[0]].copy())
        self.queries.append(queries)
        raw = contexts[np.arange(len(lengths)), lengths - 1] @ self.turn.T
        return raw, unit(raw)


def start(*lengths: float) -> RawVectors:
    """Vectors along the first dimension, of these lengths."""
    return RawVectors(np.eye(D, dtype=np.float32)[:1] * np.array(lengths, np.float32)[:, None], "turning")


def go(predictor: Any, steps: int, guard: Guard = FREE, **settings: Any) -> RolloutResult:
    find = settings.pop("find", None)
    return roll(predictor, start(2.0), steps, RolloutSettings(guard=guard, **settings), find)


def test_every_step_reads_those_before_it() -> None:
    predictor = Turning(30)
    rolled = go(predictor, 4)
    np.testing.assert_allclose(
        [s.drift for s in rolled.steps], np.cos(np.radians([30, 60, 90, 120])), atol=1e-6
    )
    assert rolled.steps[0].repetition is None
    np.testing.assert_allclose([s.repetition for s in rolled.steps[1:]], np.cos(np.radians(30)), rtol=1e-6)
    assert [len(requested) for requested in predictor.requested] == [1, 2, 3, 3]
    np.testing.assert_array_equal(predictor.requested[3], np.stack([s.raw for s in rolled.steps[:3]]))
    assert rolled.objection is None


def test_no_more_than_the_context_is_read() -> None:
    predictor = Turning(10)
    roll(predictor, start(1.0, 2.0, 3.0, 4.0, 5.0), 1, RolloutSettings(guard=FREE))  # type: ignore[arg-type]
    assert predictor.requested[0][:, 0].tolist() == [3.0, 4.0, 5.0]


def test_drift_stops_it_at_the_first_step_below() -> None:
    rolled = go(Turning(30), 10, Guard(min_cosine=0.4, max_repetition=None))
    assert len(rolled.steps) == 3
    assert rolled.objection is not None
    assert rolled.objection.startswith("drifted: cosine 0.000")
    assert len(go(Turning(30), 10, FREE).steps) == 10


def test_standing_still_stops_it() -> None:
    rolled = go(Turning(0), 10, Guard())
    assert len(rolled.steps) == 2
    assert rolled.objection is not None
    assert rolled.objection.startswith("stands still")
    assert len(go(Turning(0), 10, Guard(max_repetition=1.0)).steps) == 10


def test_rescaling_keeps_the_length_of_what_was_read() -> None:
    shrinking = go(Turning(30, 0.5), 3)
    np.testing.assert_allclose([s.length for s in shrinking.steps], [1.0, 0.5, 0.25], rtol=1e-6)
    kept = roll(Turning(30, 0.5), start(1.0, 3.0), 3, RolloutSettings(Guard(max_repetition=None)))  # type: ignore[arg-type]
    assert kept.length == 2.0
    np.testing.assert_allclose(np.linalg.norm([s.raw for s in kept.steps], axis=1), 2.0, rtol=1e-6)
    np.testing.assert_allclose([s.length for s in kept.steps], [1.5, 1.0, 1.0], rtol=1e-6)


def finder(vectors: np.ndarray) -> Callable[[UnitVectors, np.ndarray], NearestHit | None]:
    def find(prediction: UnitVectors, used: np.ndarray) -> NearestHit | None:
        cosine = unit(vectors) @ prediction.values[0]
        left = [row for row in np.argsort(-cosine) if row not in used]
        return NearestHit(int(left[0]), float(cosine[left[0]]), vectors[left[0]]) if left else None

    return find


def test_snapping_mixes_in_the_chunk_from_the_threshold_on_and_none_twice() -> None:
    chunks = 2 * np.eye(D, dtype=np.float32)[[1, 2]]  # at 90 degrees from where it starts, and nowhere near
    rolled = go(Turning(40), 4, snap=SnapToCorpus(threshold=0.7, blend=0.75), find=finder(chunks))
    # 40 degrees is 50 away from the chunk (0.64), 80 is 10 away (0.98); then it is used up
    assert [s.snapped_to.row if s.snapped_to else None for s in rolled.steps] == [None, 0, None, None]
    first, second, third, _ = rolled.steps
    np.testing.assert_array_equal(first.read, first.raw)
    np.testing.assert_allclose(second.read, 0.75 * chunks[0] + 0.25 * second.raw, rtol=1e-6)
    np.testing.assert_allclose(third.raw, second.read @ Turning(40).turn.T, rtol=1e-5)


def test_a_blend_of_nothing_only_names_the_chunk() -> None:
    chunks = 2 * np.eye(D, dtype=np.float32)[[1]]
    free = go(Turning(40), 3)
    named = go(Turning(40), 3, snap=SnapToCorpus(0.7, 0.0), find=finder(chunks))
    assert named.steps[1].snapped_to is not None
    np.testing.assert_allclose([s.raw for s in named.steps], [s.raw for s in free.steps], rtol=1e-6)


def test_the_query_is_told_at_every_step() -> None:
    predictor = Turning(10)
    query = np.arange(D, dtype=np.float32)
    go(predictor, 2, query=query)
    assert [output.tolist() for output in predictor.queries] == [[query.tolist()]] * 2


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Guard(min_cosine=2), "min_cosine is 2; give -1 to 1"),
        (lambda: Guard(max_repetition=-3), "max_repetition is -3; give -1 to 1"),
        (lambda: SnapToCorpus(threshold=1.5), "threshold is 1.5; give -1 to 1"),
        (lambda: SnapToCorpus(blend=-0.1), "blend is -0.1; give 0 to 1"),
        (lambda: SnapToCorpus(blend=float("nan")), "blend is nan; give 0 to 1"),
        (lambda: RolloutSettings(seed=-1), "seed is -1; give 0 to"),
        (lambda: go(Turning(1), 0), "a rollout of 0 steps; request 1"),
        (lambda: go(Turning(1), 1, snap=SnapToCorpus()), "no chunks to snap to; name a store"),
    ],
)
def test_what_cannot_be_meant_is_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        make()
    assert says in str(error.value)


def test_vectors_of_another_encoder_are_refused() -> None:
    with pytest.raises(EncoderMismatchError):
        roll(Turning(1), RawVectors(np.ones((1, D), np.float32), "other"), 1)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"nothing to go on from in \[0, 4\]"):
        roll(Turning(1), RawVectors(np.ones((0, D), np.float32), "turning"), 1)  # type: ignore[arg-type]


def test_a_run_goes_on_as_the_world_turns(world: Store, trained: Path) -> None:
    """Steps of a real run are those that its predictor gives, asked by hand."""
    predictor = RunPredictor(trained)
    vectors = RawVectors(world.vectors[0:6], str(predictor.encoder))
    rolled = roll(predictor, vectors, 3, RolloutSettings(guard=FREE))
    read = vectors.values
    for step in rolled.steps:
        raw = predictor.predict(read[None], np.array([len(read)]))[0][0]
        np.testing.assert_allclose(step.raw, raw, atol=1e-6)
        read = np.concatenate([read, raw[None]])
    with pytest.raises(ModelError, match="no distribution to sample from"):
        roll(predictor, vectors, 1, RolloutSettings(seed=0))


@pytest.fixture(scope="module")
def generative(
    world: Store, make_tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> RunPredictor:
    from nextvec.training.loop import train

    folder = tmp_path_factory.mktemp("runs") / "energy"
    train(world, make_tiny("gru", "model.options.head=energy", "loss.generative=1"), folder, quiet=True)
    return RunPredictor(folder)


def test_draws_are_the_same_for_the_same_seed_only(world: Store, generative: RunPredictor) -> None:
    vectors = RawVectors(world.vectors[0:5], str(generative.encoder))
    drawn = [
        np.stack([s.raw for s in roll(generative, vectors, 3, RolloutSettings(FREE, seed=seed)).steps])
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.abs(drawn[0] - drawn[2]).max() > 1e-4
    assert np.abs(drawn[0][0] - drawn[0][1]).max() > 1e-4
