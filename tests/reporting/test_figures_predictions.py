"""The figures of predictions: regions of the space, maps, spread over the dimensions."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nextvec.corpus.store import NewDocument, Store, StoreWriter
from nextvec.errors import NothingToDraw
from nextvec.evaluation.metrics import moments
from nextvec.reporting.figures import chosen, predictions
from nextvec.reporting.figures.predictions import (
    dimension_mean,
    dimension_std,
    find_topics,
    prediction_map,
    prediction_map_umap,
    source_confusion,
    topic_confusion,
)
from nextvec.reporting.inputs import ReportInputs
from nextvec.reporting.predicted import PredictedWindows
from reporting.answers import of_windows, with_oracle

WORDS = ("river salmon", "oven bakery", "comet telescope")


def shares(drawn: Figure) -> dict[str, np.ndarray]:
    """First line of a panel's title -> its image."""
    return {
        axes.get_title().splitlines()[0]: np.asarray(axes.images[0].get_array())
        for axes in drawn.axes
        if axes.images and axes.get_title()
    }


def test_every_window_falls_to_one_source(inputs: ReportInputs) -> None:
    best = PredictedWindows.of(inputs).best
    panels = shares(source_confusion(with_oracle(inputs, best)))
    assert len(panels) == 3
    assert all(panel.sum(axis=1) == pytest.approx([100, 100]) for panel in panels.values())
    assert panels[best].tolist() == panels["the true vectors"].tolist()
    another = shares(source_confusion(inputs))
    assert another[best].tolist() != another["the true vectors"].tolist()


def test_a_deleted_document_shifts_no_source(inputs: ReportInputs, tmp_path: Path) -> None:
    assert inputs.answers is not None
    assert inputs.store is not None
    shutil.copytree(inputs.store.path, tmp_path / "store")
    store, place = Store.open(tmp_path / "store"), inputs.answers.document
    used = {*place.tolist(), *store.document_of(PredictedWindows.of(inputs).trained).tolist()}
    gone = min(set(range(len(store.documents))) - used)
    assert gone < max(used)
    with store.writer() as writer:
        writer.delete([store.documents[gone].doc_id])
    answers = replace(inputs.answers, document=place - (place > gone))
    less = replace(inputs, store=Store.open(tmp_path / "store"), answers=answers)
    before, after = shares(source_confusion(inputs)), shares(source_confusion(less))
    assert {name: panel.tolist() for name, panel in after.items()} == {
        name: panel.tolist() for name, panel in before.items()
    }


def test_one_source_cannot_be_confused(inputs: ReportInputs) -> None:
    assert inputs.answers is not None
    assert inputs.store is not None
    sources = np.array([inputs.store.documents[i].source for i in inputs.answers.document])
    with pytest.raises(NothingToDraw, match="every evaluated document is of one source, books"):
        source_confusion(of_windows(inputs, sources == "books"))


def test_the_truth_is_of_its_own_topic(inputs: ReportInputs) -> None:
    best = PredictedWindows.of(inputs).best
    panel = shares(topic_confusion(with_oracle(inputs, best)))[best]
    assert panel.max(axis=1) == pytest.approx(np.full(len(panel), 100))
    assert len(set(panel.argmax(axis=1))) == len(panel)
    assert shares(topic_confusion(inputs))[best].diagonal().min() < 100


@pytest.fixture
def topical(tmp_path: Path) -> Store:
    """Twelve documents on three subjects, five chunks each, the vectors of a subject in one direction."""
    rng = np.random.default_rng(0)
    documents, vectors = [], []
    for i in range(12):
        texts = [f"Here the {WORDS[i % 3]} of chunk {i} {k}." for k in range(5)]
        documents.append(NewDocument.from_chunks(f"d{i}", texts, source="web", title=""))
        vectors.append(np.eye(8)[i % 3] + 0.1 * rng.standard_normal((5, 8)))
    path, encoder = tmp_path / "store", {"name": "e", "fingerprint": "e"}
    with StoreWriter(path, encoder=encoder, dimension=8, chunker={"kind": "lines"}, dtype="float32",
                     normalised=False) as writer:  # fmt: skip
        writer.add_shard(documents, np.concatenate(vectors), path="test")
    return Store.open(path)


def test_topics_are_named_by_their_words(topical: Store) -> None:
    topics = find_topics(topical, np.arange(60), topics=3)
    assert sorted(topics.names) == sorted(", ".join(sorted(words.split())) for words in WORDS)
    subject = topics.of(np.eye(8, dtype=np.float32)[:3])
    assert [topics.names[i] for i in subject] == [", ".join(sorted(words.split())) for words in WORDS]
    assert np.linalg.norm(topics.centres, axis=1) == pytest.approx([1, 1, 1])


def test_few_chunks_make_few_topics(topical: Store) -> None:
    assert len(find_topics(topical, np.arange(25)).names) == 2
    assert find_topics(topical, np.arange(5)).names == ("no words",)  # all chunks share their words


def test_texts_without_words_have_no_name(world: Store) -> None:
    assert set(find_topics(world, np.arange(20)).names) == {"no words"}


def points(axes: Axes) -> Any:
    """The coloured ones of a map."""
    return axes.collections[-1]


def test_the_map_has_each_window_twice(inputs: ReportInputs) -> None:
    ground = PredictedWindows.of(inputs)
    drawn = prediction_map(inputs)
    truth, guess = drawn.axes[:2]
    error = 1 - ground.answers.values[ground.best]["cosine"]
    for axes in (truth, guess):
        assert len(points(axes).get_offsets()) == len(ground)
        assert np.asarray(points(axes).get_array()) == pytest.approx(error)
    assert points(truth).get_offsets().tolist() != points(guess).get_offsets().tolist()
    oracle = prediction_map(with_oracle(inputs, ground.best)).axes[:2]
    apart = [np.asarray(points(axes).get_offsets()) for axes in oracle]
    spread = apart[0].std()
    assert np.median(np.linalg.norm(apart[0] - apart[1], axis=1)) < 0.1 * spread


def test_a_map_is_bounded(inputs: ReportInputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "MAPPED", 8)
    assert len(points(prediction_map(inputs).axes[0]).get_offsets()) == 8
    with pytest.raises(NothingToDraw, match="4 windows make no map"):
        prediction_map(of_windows(inputs, np.arange(4)))


def test_umap_is_drawn_when_asked_for_and_installed(
    inputs: ReportInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "prediction_map_umap" not in {spec.name for spec in chosen()}
    assert [spec.name for spec in chosen(["prediction_map_umap"])] == ["prediction_map_umap"]
    monkeypatch.setattr(predictions, "find_spec", lambda name: None)
    with pytest.raises(NothingToDraw, match=r"pip install nextvec\[umap\]"):
        prediction_map_umap(inputs)
    requested: dict[str, Any] = {}

    class Project:
        def __init__(self, **options: Any) -> None:
            requested.update(options)

        def fit_transform(self, vectors: np.ndarray) -> np.ndarray:
            return vectors[:, :2]

    fake = ModuleType("umap")
    fake.UMAP = Project  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "umap", fake)
    monkeypatch.setattr(predictions, "find_spec", lambda name: SimpleNamespace(name=name))
    drawn = prediction_map_umap(inputs)
    assert np.asarray(points(drawn.axes[0]).get_offsets()) == pytest.approx(
        PredictedWindows.of(inputs).targets[:, :2]
    )
    assert requested["random_state"] == 0


@pytest.mark.parametrize(("draw", "which"), [(dimension_mean, 0), (dimension_std, 1)])
def test_points_are_dimensions(inputs: ReportInputs, draw: Any, which: int) -> None:
    ground = PredictedWindows.of(inputs)
    panels = {axes.get_title(): axes for axes in draw(inputs).axes}
    assert set(panels) == {"amn", "lstm"}
    for name, axes in panels.items():
        x, y = axes.lines[0].get_data()
        assert x == pytest.approx(moments(ground.targets)[which])
        assert y == pytest.approx(moments(ground.units(name))[which])


def test_without_models_there_is_nothing_to_look_at(inputs: ReportInputs) -> None:
    assert inputs.table is not None
    alone = replace(inputs, table={**inputs.table, "rows": inputs.baselines})
    for draw in (source_confusion, topic_confusion, prediction_map, dimension_std):
        with pytest.raises(NothingToDraw, match="no model was evaluated"):
            draw(alone)
