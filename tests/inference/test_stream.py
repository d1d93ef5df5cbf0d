"""Sessions: vector by vector gives what reading all at once gives."""

from __future__ import annotations

import threading
from typing import ClassVar

import numpy as np
import pytest
import torch

from contract.lab import MODELS, D, make, vectors
from nextvec.errors import ModelError, VectorError
from nextvec.inference.base import TrainedPredictor, WindowSession
from nextvec.inference.predictor import ModelPredictor


@pytest.mark.parametrize("name", MODELS)
def test_pushes_give_what_the_parallel_form_gives(name: str) -> None:
    model, x = make(name), vectors(1, 21)
    with torch.inference_mode():
        expected = model(x).raw[0].numpy()
    session = ModelPredictor(model, 5, "mine").stream()
    assert session.streaming == model.streaming
    for _ in range(2):
        pushed = [session.push(vector) for vector in x[0].numpy()[:13]]
        read = session.read(x[0].numpy()[13:])
        np.testing.assert_allclose(np.concatenate((pushed, read)), expected, atol=1e-5)
        assert session.position == 21
        session.reset()
        assert session.position == 0


@pytest.mark.parametrize("name", MODELS)
def test_a_constant_state_does_not_grow(name: str) -> None:
    session = ModelPredictor(make(name), 5, "mine").stream()
    x = vectors(1, 100)[0].numpy()
    for vector in x[:20]:
        session.push(vector)
    early = session.state_bytes
    for vector in x:
        session.push(vector)
    assert early > 0
    if session.streaming == "constant":
        assert session.state_bytes == early
    if session.streaming == "cache":
        assert session.state_bytes > early


def test_a_session_answers_for_its_horizon() -> None:
    model, x = make("gru", horizons=3), vectors(1, 4)
    predictor = ModelPredictor(model, 5, "mine")
    predictor.head = 2
    with torch.inference_mode():
        expected = model(x).ahead[0, :, 2].numpy()
    np.testing.assert_allclose(predictor.stream().read(x[0].numpy()), expected, atol=1e-5)


def test_a_session_is_told_what_to_write_towards() -> None:
    model, x, query = make("lstm", conditional=True), vectors(1, 4), vectors(1, 1, seed=3)[0]
    with torch.inference_mode():
        expected = model(x, query=query).raw[0].numpy()
    predictor = ModelPredictor(model, 5, "mine")
    output = predictor.stream(query[0].numpy()).read(x[0].numpy())
    np.testing.assert_allclose(output, expected, atol=1e-5)
    assert np.abs(output - predictor.stream().read(x[0].numpy())).max() > 1e-3


@pytest.mark.parametrize("bad", [np.zeros(D + 1), np.zeros((1, D)), np.float32(1.0)])
def test_what_is_no_vector_is_refused_and_not_read(bad: np.ndarray) -> None:
    session = ModelPredictor(make("gru"), 5, "mine").stream()
    with pytest.raises(ModelError, match=r"give vectors \[T, 16\]"):
        session.push(bad)
    with pytest.raises(VectorError, match="NaN or infinity"):
        session.push(np.full(D, np.nan))
    assert session.position == 0
    fresh = ModelPredictor(make("gru"), 5, "mine").stream()
    x = vectors(1, 1)[0, 0].numpy()
    np.testing.assert_array_equal(session.push(x), fresh.push(x))


class Trained(TrainedPredictor, ModelPredictor):
    """A model that says nothing of its training."""

    training: ClassVar[dict[str, object]] = {}


def test_a_window_session_reads_its_last_vectors_only() -> None:
    model, x = make("lstm"), vectors(1, 9)[0].numpy()
    predictor = Trained(model, 4, "mine")
    session = WindowSession(predictor)
    made = session.read(x)
    for i, raw in enumerate(made):
        window = x[max(0, i - 3) : i + 1]
        np.testing.assert_allclose(
            raw, predictor.predict(window[None], np.array([len(window)]))[0][0], atol=1e-6
        )
    assert session.state_bytes == 4 * D * 4
    session.reset()
    np.testing.assert_allclose(session.push(x[0]), made[0], atol=1e-6)


def test_pushes_from_many_threads_are_all_read() -> None:
    session = ModelPredictor(make("gru"), 5, "mine").stream()
    x = vectors(1, 1)[0, 0].numpy()
    threads = [threading.Thread(target=lambda: [session.push(x) for _ in range(10)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert session.position == 80
    alone = ModelPredictor(make("gru"), 5, "mine").stream()
    for _ in range(80):
        alone.push(x)
    np.testing.assert_allclose(session.push(x), alone.push(x), atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_each_prediction_is_that_of_the_beginning_before_it(name: str) -> None:
    predictor, x = ModelPredictor(make(name), 9, "mine"), vectors(1, 9)[0].numpy()
    raw, units = predictor.predict_each(x)
    for n in range(1, 10):
        alone = predictor.predict(x[None, :n], np.array([n]))
        np.testing.assert_allclose(raw[n - 1], alone[0][0], atol=1e-5)
        np.testing.assert_allclose(units[n - 1], alone[1][0], atol=1e-5)
