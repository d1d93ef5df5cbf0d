from __future__ import annotations

import numpy as np
import pytest

from nextvec.selfcheck.predictors import look_up
from nextvec.selfcheck.theory import LinearAnswer, Theory, best_weights, chunk, mean_error, stranger
from nextvec.selfcheck.worlds import COMMON, WORLDS, HiddenState, Rotation, World, kalman, noisy, rotation


@pytest.fixture(scope="module", params=list(WORLDS))
def world(request: pytest.FixtureRequest) -> World:
    """A large one, so that averages are near what they are averages of."""
    return WORLDS[request.param](seed=3, documents=400, length=16, D=64)


@pytest.mark.parametrize("D", [5, 6, 48])
def test_in_the_rotation_world_the_law_is_exact(D: int) -> None:
    vectors, turn = rotation(np.random.default_rng(0), 7, 30, D)
    assert turn @ turn.T == pytest.approx(np.eye(D), abs=1e-9)
    assert vectors[:, :-1] @ turn.T == pytest.approx(vectors[:, 1:], abs=1e-5)
    assert (vectors**2).mean(axis=2) == pytest.approx(1, abs=1e-5)


def test_in_the_rotation_world_cosines_depend_on_the_distance_only() -> None:
    world = Rotation(documents=9)
    for k in range(6):
        cosines = (world.evaluated[:, k:] * world.evaluated[:, : 20 - k]).mean(axis=2)
        assert cosines == pytest.approx(COMMON + (1 - COMMON) * world.correlation(k), abs=1e-5)


def test_moments_are_those_of_theory(world: World) -> None:
    x = world.evaluated.astype(np.float64)
    assert x.mean(axis=(0, 1)) @ x.mean(axis=(0, 1)) / world.D == pytest.approx(COMMON, abs=0.02)
    for k in (0, 1, 3, 5):
        found = (x[:, k:] * x[:, : 16 - k]).mean()
        assert found == pytest.approx(COMMON + (1 - COMMON) * world.correlation(k), abs=0.01)
    strangers = (x[:-1] * x[1:]).mean()
    assert strangers == pytest.approx(COMMON, abs=0.01)


def test_same_seed_same_world() -> None:
    for make in WORLDS.values():
        assert np.array_equal(make(5, documents=2).evaluated, make(5, documents=2).evaluated)
        assert not np.array_equal(make(5, documents=2).evaluated, make(6, documents=2).evaluated)


def test_the_filter_is_the_solution_of_the_normal_equations() -> None:
    world = HiddenState(documents=3)
    centre = np.sqrt(COMMON)
    contexts = np.zeros((3, 9, world.D), np.float32)
    for i, n in enumerate((2, 5, 9)):
        contexts[i, :n] = world.evaluated[i, :n]
    guess = world.law(contexts, np.array([2, 5, 9]))
    common = world._common
    assert np.linalg.norm(common) == pytest.approx(centre * 8, rel=1e-5)
    for i, n in enumerate((2, 5, 9)):
        weights = best_weights(world, n)
        by_hand = common + sum(w * (world.evaluated[i, n + k] - common) for k, w in weights.items())
        assert guess[i] == pytest.approx(by_hand, abs=1e-5)


def test_no_linear_predictor_of_the_noisy_world_is_better_than_the_filter() -> None:
    x = noisy(np.random.default_rng(0), 300, 12, 16)
    lengths = np.full(300, 11)
    best = ((kalman(x[:, :11], lengths) - x[:, 11]) ** 2).mean()
    flat = x[:, :11].transpose(0, 2, 1).reshape(-1, 11)
    fitted = np.linalg.lstsq(flat, x[:, 11].ravel(), rcond=None)[0]
    assert best == pytest.approx(((flat @ fitted - x[:, 11].ravel()) ** 2).mean(), rel=0.01)
    assert best < 0.9 * ((x[:, 10] - x[:, 11]) ** 2).mean()


def test_the_oracle_looks_the_answer_up() -> None:
    documents = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    oracle = look_up(documents)
    raw, units = oracle.predict(documents[:, :2], np.array([2, 1, 2]))
    assert np.array_equal(raw, documents[[0, 1, 2], [2, 1, 2]])
    assert np.linalg.norm(units, axis=1) == pytest.approx(1, abs=1e-6)
    ended, _ = oracle.predict(documents[:, 3:], np.array([1, 1, 1]))
    assert np.array_equal(ended, documents[:, 3])


ANSWERS = [
    chunk(-1),
    LinearAnswer(1.0, {-1: 0.4, -2: 0.3}),
    LinearAnswer(0.5, {-1: 0.2}, own=0.3),
    stranger(),
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_cosines_and_their_spread_are_those_of_a_simulation(world: World, answer: LinearAnswer) -> None:
    x = world.evaluated.astype(np.float64)
    common = x.mean(axis=(0, 1))
    common *= np.sqrt(COMMON * world.D) / np.linalg.norm(common)
    z = (x - common) / np.sqrt(1 - COMMON)
    target = x[:, 8]
    noise = np.random.default_rng(0).standard_normal(target.shape)
    moving = sum(w * z[:, 8 + k] for k, w in answer.weights.items()) * np.sqrt(1 - COMMON)
    made = answer.centre * common + moving + np.sqrt(answer.own) * noise
    theory = Theory(world)
    cosines = (made * target).sum(axis=1) / np.linalg.norm(made, axis=1) / np.linalg.norm(target, axis=1)
    assert cosines.mean() == pytest.approx(theory.cosine(answer, chunk(0)), abs=0.02)
    assert cosines.std() == pytest.approx(theory.spread(answer, chunk(0)), abs=0.015)
    assert (made**2).mean() == pytest.approx(theory.energy(answer), rel=0.03)
    # how often a chunk of the next document, and a later one of the same, is nearer than the target
    for rival, vectors in ((stranger(), np.roll(target, 1, axis=0)), (chunk(3), x[:, 11])):
        other = (made * vectors).sum(axis=1) / np.linalg.norm(made, axis=1) / np.linalg.norm(vectors, axis=1)
        assert (other > cosines).mean() == pytest.approx(theory.beats(answer, rival), abs=0.08)


def test_the_mean_of_documents_is_off_by_so_much() -> None:
    errors = []
    for seed in range(30):
        world = HiddenState(seed, documents=6, D=64)
        errors.append(((world.trained.mean(axis=(0, 1)) - world._common) ** 2).mean())
    assert np.mean(errors) == pytest.approx(mean_error(world), rel=0.1)
