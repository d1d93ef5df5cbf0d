"""`nextvec.Predictor`, and opening whatever predicts."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import nextvec
from nextvec.corpus.store import Store
from nextvec.errors import (
    ConfigError,
    DocumentError,
    EncoderError,
    EncoderMismatchError,
    RunError,
    VectorError,
)
from nextvec.inference.predictor import RunPredictor, open_predictor
from nextvec.vectors import RawVectors


@pytest.fixture(scope="module")
def predictor(trained: Path) -> nextvec.Predictor:
    return nextvec.Predictor.load(trained)


def test_one_context(predictor: nextvec.Predictor, world: Store) -> None:
    x = np.asarray(world.vectors[:7])
    raw, unit = predictor.predict(x)
    expected, _ = predictor.run.predict(x[None], np.array([7]))
    np.testing.assert_allclose(raw.values, expected[0], atol=1e-6)
    np.testing.assert_allclose(unit.values, raw.values / np.linalg.norm(raw.values), atol=1e-5)
    assert (raw.encoder, raw.normalised, raw.values.shape) == ("world", True, (16,))
    same = predictor.predict(RawVectors(x, "world", True))
    np.testing.assert_array_equal(same.raw.values, raw.values)


def test_only_the_last_vectors_are_read(predictor: nextvec.Predictor, world: Store) -> None:
    x = np.asarray(world.vectors[:40])
    assert predictor.context == 32
    np.testing.assert_array_equal(predictor.predict(x).raw.values, predictor.predict(x[-32:]).raw.values)


def test_a_batch_of_different_lengths(predictor: nextvec.Predictor, world: Store) -> None:
    many = [np.asarray(world.vectors[12 * i : 12 * i + i + 1]) for i in range(8)]
    raw, unit = predictor.predict_batch(many)
    for i, vectors in enumerate(many):
        np.testing.assert_allclose(raw.values[i], predictor.predict(vectors).raw.values, atol=1e-5)
    assert unit.values.shape == (8, 16)


def test_many_threads_give_the_answers_of_one(predictor: nextvec.Predictor, world: Store) -> None:
    many = [np.asarray(world.vectors[i : i + 1 + i % 9]) for i in range(200)]
    alone = [predictor.predict(vectors).raw.values for vectors in many]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda vectors: predictor.predict(vectors).raw.values, many))
    np.testing.assert_array_equal(together, alone)


def test_a_rollout_and_a_stream(predictor: nextvec.Predictor, world: Store) -> None:
    x = np.asarray(world.vectors[:5])
    rolled = predictor.rollout(x, 3)
    assert len(rolled.steps) == 3
    session = predictor.stream()
    np.testing.assert_allclose(session.read(x)[-1], predictor.predict(x).raw.values, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (np.zeros((0, 16), np.float32), "a context of shape"),
        (np.zeros((3, 15), np.float32), r"give vectors \[T, 16\]"),
        (np.full((3, 16), np.nan, np.float32), "NaN or infinity"),
    ],
)
def test_what_is_no_context(predictor: nextvec.Predictor, given: np.ndarray, says: str) -> None:
    with pytest.raises(VectorError, match=says):
        predictor.predict(given)
    with pytest.raises(VectorError, match="no context to predict from"):
        predictor.predict_batch([])


def test_vectors_of_another_encoder(predictor: nextvec.Predictor) -> None:
    with pytest.raises(EncoderMismatchError):
        predictor.predict(RawVectors(np.zeros((3, 16), np.float32), "another"))
    with pytest.raises(RunError, match="requested 2"):
        predictor.ahead(2)


def test_opening(trained: Path, tmp_path: Path) -> None:
    opened = open_predictor(trained, engine="eager")
    assert isinstance(opened, RunPredictor)
    assert opened.engine.name == "eager"
    with pytest.raises(ConfigError, match="is a run, and onnx runs exports; export it first: nextvec export"):
        open_predictor(trained, engine="onnx")
    with pytest.raises(ConfigError, match="no engine 'magic'"):
        open_predictor(trained, engine="magic")
    with pytest.raises(RunError, match="no such folder"):
        open_predictor(tmp_path / "nothing")


def test_no_training_is_imported() -> None:
    code = (
        "import sys, nextvec; nextvec.Predictor; import nextvec.inference.export; "
        "print([m for m in sys.modules if m.startswith(('nextvec.training', 'nextvec.experiments'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_text_or_its_chunks_are_read_as_the_model_s_were(text_run: Path, text_store: Store) -> None:
    predictor = nextvec.Predictor.load(text_run)
    document = text_store.documents[0]
    rows = range(document.first, document.first + document.count)
    chunks = text_store.texts(rows)
    expected = predictor.predict(np.asarray(text_store.vectors[rows.start : rows.stop])).unit.values
    for given in (text_store.document_text(document.doc_id), chunks, tuple(chunks)):
        assert float(predictor.predict(given).unit.values @ expected) > 0.9999
    both = predictor.predict_batch([chunks, " ".join(chunks[:2])]).unit.values
    assert float(both[0] @ expected) > 0.9999
    with pytest.raises(DocumentError, match="no text in it"):
        predictor.predict("  ")


def test_lists_of_numbers_are_vectors_and_ragged_ones_are_not(
    predictor: nextvec.Predictor, world: Store
) -> None:
    x = np.asarray(world.vectors[:4])
    expected = predictor.predict(x).raw.values
    np.testing.assert_allclose(predictor.predict(x.tolist()).raw.values, expected, atol=1e-6)
    with pytest.raises(VectorError, match="rows of different lengths are not vectors"):
        predictor.predict([[0.5] * 16, [0.5] * 15])
    with pytest.raises(VectorError, match="are not vectors"):
        predictor.predict(["a text", 0.5])
    with pytest.raises(EncoderError, match="server's"):
        predictor.predict("A text for an encoder that is not at hand.")
