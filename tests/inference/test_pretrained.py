"""The model that comes with the package: it loads by name, is small, and says what it was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import nextvec
from nextvec.inference.predictor import RunPredictor
from nextvec.models.saving import PRETRAINED, locate


def test_it_is_loaded_by_name_and_gives_both_answers() -> None:
    predictor = RunPredictor(PRETRAINED)
    assert predictor.ranking
    assert predictor.dimension == 384
    rng = np.random.default_rng(0)
    contexts = rng.standard_normal((3, 7, 384)).astype(np.float32)
    contexts /= np.linalg.norm(contexts, axis=2, keepdims=True)
    lengths = np.array([7, 5, 1])
    raw, unit, query = predictor.predict_ranking(contexts, lengths)
    assert raw.dtype == unit.dtype == query.dtype == np.float32
    for directions in (unit, query):
        np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-5)
    assert not np.allclose(unit, query, atol=1e-2)
    np.testing.assert_array_equal(predictor.predict(contexts, lengths)[0], raw)
    model = nextvec.load(PRETRAINED)
    assert model.architecture == "lcm"


def test_raw_vectors_are_read_as_directions() -> None:
    """A store of raw vectors holds the same directions, three times as long: so are the predictions."""
    predictor = RunPredictor(PRETRAINED)
    contexts = np.random.default_rng(1).standard_normal((2, 6, 384)).astype(np.float32)
    contexts /= np.linalg.norm(contexts, axis=2, keepdims=True)
    lengths = np.array([6, 4])
    raw, unit, query = predictor.predict_ranking(contexts, lengths)
    again = predictor.predict_ranking(3 * contexts, lengths)
    np.testing.assert_allclose(again[0], 3 * raw, atol=1e-4)
    np.testing.assert_allclose(again[1], unit, atol=1e-5)
    np.testing.assert_allclose(again[2], query, atol=1e-5)


def test_a_stream_of_raw_vectors_answers_as_for_directions() -> None:
    predictor = RunPredictor(PRETRAINED)
    context = np.random.default_rng(2).standard_normal((6, 384)).astype(np.float32)
    expected = predictor.predict(context[None], np.array([6]))[0][0]
    session = predictor.stream()
    session.read(context[:4])
    session.push(context[4])
    np.testing.assert_allclose(session.push(context[5]), expected, atol=1e-4)
    session.reset()
    np.testing.assert_allclose(session.read(context)[-1], expected, atol=1e-4)


def test_it_is_small_and_holds_nothing_of_the_machine_that_made_it() -> None:
    folder = locate(PRETRAINED)
    files = sorted(folder.iterdir())
    assert sum(file.stat().st_size for file in files) <= 15e6
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".md"}
    predictor = RunPredictor(PRETRAINED)
    assert predictor.training["store"] == ""
    assert predictor.described["weights_sha256"]
    for file in files:
        if file.suffix != ".safetensors":
            assert "/" + "work" not in file.read_text(encoding="utf-8")


def test_what_it_was_trained_on_travels_with_it() -> None:
    assert len(RunPredictor(PRETRAINED).trained_on.documents) > 6000


def test_a_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / PRETRAINED).mkdir()
    monkeypatch.chdir(tmp_path)
    assert locate(PRETRAINED) == Path(PRETRAINED)
