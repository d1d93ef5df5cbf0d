"""A document as a run is surprised by it, and the picture of that."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from by_hand import by_hand
from nextvec.corpus.reading import TextReader
from nextvec.corpus.store import NewDocument, Store, StoreWriter
from nextvec.errors import (
    ConfigError,
    DocumentError,
    EncoderMismatchError,
    MissingDependencyError,
    RunError,
    StoreError,
)
from nextvec.evaluation.boundaries import Rule, surprise
from nextvec.experiments.surprise import (
    Surprises,
    next_predictor,
    surprises_of_document,
    surprises_of_text,
)
from nextvec.inference.predictor import RunPredictor
from nextvec.reporting.drawing import draw_surprise, require_figure


@pytest.fixture
def found(world: Store, trained: Path) -> Surprises:
    return surprises_of_document(RunPredictor(trained), world, "doc-3", "surprise", Rule(0.8))


def test_of_a_stored_document(found: Surprises, world: Store, trained: Path) -> None:
    document = world.find("doc-3")
    values = surprise(RunPredictor(trained), world.vectors, document)[1:]
    assert found.surprise == pytest.approx(values)
    assert list(found.texts) == world.texts(range(document.first, document.first + 12))
    heights = (values - values.mean()) / values.std()
    peaks = [i for i in range(11) if heights[i] > 0.8 and values[i] == values[max(0, i - 1) : i + 2].max()]
    assert np.flatnonzero(found.cuts).tolist() == peaks
    assert found.peaks(1).tolist() == [int(values.argmax()) + 1]
    assert len(found.peaks(0)) == 0


def test_segments_are_the_whole_document(found: Surprises) -> None:
    segments = found.segments()
    assert [i for a, b in segments for i in range(a, b + 1)] == list(range(12))
    output = json.loads(json.dumps(found.to_json(2), allow_nan=False))
    assert [i for i, chunk in enumerate(output["chunks"]) if chunk["opens_segment"]] == [
        a for a, _ in segments
    ]
    assert output["chunks"][0]["surprise"] is None
    assert output["chunks"][5]["surprise"] == pytest.approx(found.surprise[4])
    assert output["peaks"] == found.peaks(2).tolist()
    assert output["rule"] == {"threshold": 0.8, "apart": 1, "width": 1}


def test_a_text_is_read_as_the_store_was(text_store: Store, text_run: Path) -> None:
    run = RunPredictor(text_run)
    reader = TextReader(run.space)
    doc_id = "river-arden.txt"
    read = surprises_of_text(
        run, reader, text_store.document_text(doc_id), "a note", "surprise-ahead", Rule()
    )
    held = surprises_of_document(run, text_store, doc_id, "surprise-ahead", Rule())
    assert read.texts == held.texts
    assert read.surprise == pytest.approx(held.surprise, abs=0.01)
    with pytest.raises(DocumentError, match="a note: 1 chunk: nothing follows it"):
        surprises_of_text(run, reader, "The river rises.", "a note", "surprise", Rule())
    with pytest.raises(DocumentError, match="a note: no text in it"):
        surprises_of_text(run, reader, " \n ", "a note", "surprise", Rule())


def test_documents_that_cannot_be_read(
    world: Store, trained: Path, make_world: Callable[..., Store], tmp_path: Path
) -> None:
    run = RunPredictor(trained)
    with pytest.raises(StoreError, match="has no document 'doc-99'"):
        surprises_of_document(run, world, "doc-99", "surprise", Rule())
    with pytest.raises(EncoderMismatchError, match="another encoder"):
        surprises_of_document(run, make_world(tmp_path / "s", encoder="another"), "doc-3", "surprise", Rule())
    one = NewDocument.from_chunks("one", ["A chunk alone."], source="web")
    settings = {"dimension": 16, "chunker": {"kind": "sentences"}, "dtype": "float32", "normalised": True}
    with StoreWriter(tmp_path / "t", encoder=dict(world.encoder), **settings) as writer:
        writer.add_shard([one], np.asarray(world.vectors)[:1], path="test")
    with pytest.raises(DocumentError, match="one: 1 chunk: nothing follows it"):
        surprises_of_document(run, Store.open(tmp_path / "t"), "one", "surprise", Rule())


@pytest.mark.parametrize(
    ("training", "says"), [({"horizons": [3]}, "predict 3 ahead"), ({"task": "middle"}, "task middle")]
)
def test_the_next_chunk_must_be_what_it_predicts(
    trained: Path, tmp_path: Path, training: dict[str, object], says: str
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    config = tmp_path / "run" / "config.json"
    held = json.loads(by_hand(config))
    config.write_text(json.dumps({**held, "training": {**held["training"], **training}}))
    with pytest.raises(RunError, match=says):
        next_predictor(RunPredictor(tmp_path / "run"))
    assert next_predictor(RunPredictor(trained)).head == 0


def test_the_picture_is_the_same_each_time(found: Surprises, tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg", "a.png", "b.png"):
        require_figure(tmp_path / name)
        draw_surprise(found, tmp_path / name, 3)
    drawn = (tmp_path / "a.svg").read_text()
    assert drawn == (tmp_path / "b.svg").read_text()
    for label in (
        "chunk",
        "1 - cos(prediction, actual)",
        "doc-3, read by small-lstm",
        "peaks",
        "a topic ends",
    ):
        assert f">{label}</text>" in drawn
    assert drawn.count("stroke-dasharray") == found.cuts.sum() + 1, "a line a boundary, one in the legend"
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_pictures_that_cannot_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"is not an \.svg or \.png file; give FILE\.svg"):
        require_figure(tmp_path / "a.jpg")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install nextvec\[figures\]"):
        require_figure(tmp_path / "a.svg")
