"""Text in, text out: what is read, what is told of it, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from by_hand import by_hand
from nextvec.corpus.encoders import EncoderConfig, load_encoder
from nextvec.corpus.encoders.base import Encoder
from nextvec.corpus.reading import TextReader
from nextvec.corpus.store import Store
from nextvec.decoding.base import Decoded, Decoder, How
from nextvec.decoding.nearest import Library
from nextvec.decoding.pipeline import Pipeline
from nextvec.errors import ConfigError, DocumentError, EncoderMismatchError, NextvecWarning, RunError
from nextvec.inference.predictor import RunPredictor
from nextvec.inference.rollout import Guard, RolloutSettings, SnapToCorpus
from nextvec.vectors import RawVectors
from passages import documents

RIVER = documents()["river-arden"]
START = ". ".join(RIVER.split(". ")[:3]) + "."
FREE = RolloutSettings(Guard(max_repetition=1.0))


class Says(Decoder):
    """Writes the length of each vector."""

    name, how = "says", "generated"
    how: ClassVar[How] = "generated"

    def __init__(self, encoder: str, dimension: int) -> None:
        self.encoder, self.dimension = encoder, dimension

    def texts_of(self, values: np.ndarray, n: int) -> list[list[Decoded]]:
        return [[Decoded(f"A vector of length {np.linalg.norm(v):.3f}.", 0.5, self.how)] for v in values]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder(EncoderConfig(device="cpu", precision="float32"))


@pytest.fixture(scope="module")
def library(text_store: Store) -> Library:
    return Library(text_store)


@pytest.fixture(scope="module")
def make(encoder: Encoder, library: Library) -> Callable[..., Pipeline]:
    def make(run: Path, decoder: bool = False, library: Library | None = library) -> Pipeline:
        predictor = RunPredictor(run)
        says = Says(str(predictor.encoder), predictor.dimension) if decoder else None
        return Pipeline(predictor, TextReader(predictor.space, encoder), says, library)

    return make


def test_the_prediction_is_the_runs_own(
    make: Callable[..., Pipeline], text_store: Store, text_run: Path
) -> None:
    pipeline = make(text_run)
    document = text_store.find("river-arden.txt")
    found = pipeline.next(RIVER)
    vectors = text_store.vectors[document.first : document.first + document.count]
    raw, _ = pipeline.predictor.predict(vectors[None], np.array([len(vectors)]))
    np.testing.assert_allclose(found.raw.values, raw[0], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.unit.values), 1, atol=1e-6)
    assert (found.read, found.of, found.horizon) == (8, 8, 1)
    assert found.last == text_store.texts([document.first + 7])[0]
    assert found.confidence is None


def test_passages_are_the_nearest_of_the_store_without_what_was_read(
    make: Callable[..., Pipeline], text_store: Store, text_run: Path
) -> None:
    found = make(text_run).next(START, n=4)
    document = text_store.find("river-arden.txt")
    read = set(range(document.first, document.first + found.of))
    cosine = np.asarray(text_store.vectors) @ found.unit.values
    cosine /= np.linalg.norm(np.asarray(text_store.vectors), axis=1)
    best = [int(row) for row in np.argsort(-cosine) if row not in read][:4]
    assert found.of >= 2
    assert [passage.decoded.row for passage in found.nearest] == best
    for passage in found.nearest:
        assert passage.decoded.how == "retrieved"
        row = passage.decoded.row
        assert row is not None
        assert passage.decoded.score == pytest.approx(cosine[row], abs=1e-5)
        assert passage.document is not None
        assert text_store.find(passage.document).first + (passage.position or 0) == row
        assert passage.decoded.text == text_store.texts([row])[0]
        assert passage.probability is None


def test_only_what_the_run_reads_is_encoded(
    make: Callable[..., Pipeline], text_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = make(text_run)
    monkeypatch.setattr(pipeline.predictor, "context", 3)
    seen: list[int] = []
    encode = pipeline.reader.encode
    monkeypatch.setattr(pipeline.reader, "encode", lambda texts: (seen.append(len(texts)), encode(texts))[1])
    found = pipeline.next(RIVER, n=0)
    assert (found.read, found.of, seen) == (3, 8, [3])


def test_a_decoder_writes_and_is_labelled_so(make: Callable[..., Pipeline], text_run: Path) -> None:
    found = make(text_run, decoder=True, library=None).next(START)
    assert found.decoded is not None
    assert found.decoded.decoded.text == f"A vector of length {np.linalg.norm(found.raw.values):.3f}."
    assert found.decoded.decoded.how == "generated"
    assert (found.decoded.document, found.nearest) == (None, ())
    assert json.loads(json.dumps(found.to_json()))["decoded"]["how"] == "generated"


def test_every_horizon_is_told(make: Callable[..., Pipeline], steered_run: Path) -> None:
    pipeline = make(steered_run)
    near, far = pipeline.ahead(START)
    assert (near.horizon, far.horizon) == (1, 3)
    assert np.abs(near.raw.values - far.raw.values).max() > 1e-3
    np.testing.assert_allclose(pipeline.next(START).raw.values, near.raw.values, atol=1e-6)
    # confidence is learned of the nearest horizon, and told of no other
    assert near.confidence is not None
    assert far.confidence is None
    assert {passage.probability for passage in far.nearest} == {None}


def test_confidence_is_the_models_probability(
    make: Callable[..., Pipeline], text_store: Store, steered_run: Path
) -> None:
    """By hand: the probability of `models.confidence` for every passage, and the answer's is the run's."""
    import torch

    pipeline = make(steered_run)
    model, read = pipeline.predictor.model, pipeline.read(START)
    assert model.confidence is not None
    model.confidence.temperature.fill_(10.0)  # what is learned of 20 documents is sure of itself
    found = pipeline.next(START, n=3)
    for passage in found.nearest:
        with torch.no_grad():
            prediction = model(torch.tensor(read.vectors.values[None]))
            candidate = torch.tensor(text_store.vectors[[passage.decoded.row]])[None].expand(1, 3, -1)
            logit = model.continuation(prediction, candidate[:, : found.read])
            by_hand = float(model.confidence.probability(logit)[0, -1])
        assert passage.probability == pytest.approx(by_hand, abs=1e-4)
    assert found.confidence is not None
    assert found.confidence.kind == "continuation"
    assert found.confidence.value == found.nearest[0].probability
    assert 0 < found.confidence.value < 1


def test_a_written_text_is_evaluated_as_it_reads(make: Callable[..., Pipeline], steered_run: Path) -> None:
    pipeline = make(steered_run, decoder=True)
    found = pipeline.next(START, n=1)
    assert found.decoded is not None
    vector = pipeline.reader.encode([found.decoded.decoded.text]).values
    read = pipeline.read(START)
    probability = pipeline.predictor.continuation(*read.window, vector[None])[0, 0]
    assert found.decoded.probability == pytest.approx(float(probability), abs=1e-5)
    assert found.confidence is not None
    assert found.confidence.value == found.decoded.probability


def test_samples_agree_more_or_less(
    make: Callable[..., Pipeline], text_store: Store, make_tiny: Callable[..., Any], tmp_path: Path
) -> None:
    from nextvec.training.loop import train

    tiny = make_tiny("gru", "model.options.head=energy", "loss.generative=1")
    train(text_store, tiny, tmp_path / "energy", quiet=True)
    pipeline = make(tmp_path / "energy", library=None)
    found = pipeline.next(START)
    read = pipeline.read(START)
    drawn = pipeline.predictor.sample(*read.window, 32, 0)[:, 0]
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    off = ~np.eye(32, dtype=bool)
    assert found.confidence is not None
    assert found.confidence.kind == "agreement"
    assert found.confidence.value == pytest.approx((drawn @ drawn.T)[off].mean(), abs=1e-4)


def test_a_query_steers_prediction_and_rollout(make: Callable[..., Pipeline], steered_run: Path) -> None:
    pipeline = make(steered_run)
    query = "The bridge has seven arches of grey stone."
    free, steered = pipeline.next(START), pipeline.next(START, query=query)
    vector = pipeline.reader.encode([query]).values
    read = pipeline.read(START)
    by_hand = pipeline.predictor.at_horizon(1).predict(*read.window, vector)[0][0]
    np.testing.assert_allclose(steered.raw.values, by_hand, atol=1e-5)
    assert np.abs(steered.raw.values - free.raw.values).max() > 1e-4
    rolled = pipeline.rollout(START, 2, RolloutSettings(Guard(rescale=False)), query=query)
    np.testing.assert_allclose(rolled.raw.values[0], by_hand, atol=1e-5)


def test_a_rollout_is_decoded_step_by_step(make: Callable[..., Pipeline], text_run: Path) -> None:
    found = make(text_run, decoder=True).rollout(START, 4, FREE, n=2)
    assert [step.number for step in found.steps] == [1, 2, 3, 4]
    for step, raw in zip(found.steps, found.raw.values, strict=True):
        assert step.decoded is not None
        assert step.decoded.decoded.text == f"A vector of length {np.linalg.norm(raw):.3f}."
        assert len(step.nearest) == 2
        assert step.snapped is None
    output = json.loads(json.dumps(found.to_json()))
    assert [step["drift"] for step in output["steps"]] == [step.step.drift for step in found.steps]
    assert output["objection"] is None


def test_the_guard_is_heard(make: Callable[..., Pipeline], text_run: Path) -> None:
    found = make(text_run).rollout(START, 50, RolloutSettings(Guard(max_repetition=0.9999)))
    assert 1 < len(found.steps) < 50
    assert found.objection is not None
    assert found.objection.startswith("stands still")


def test_snapping_lands_on_passages_not_read_and_none_twice(
    make: Callable[..., Pipeline], text_store: Store, text_run: Path
) -> None:
    settings = RolloutSettings(Guard(max_repetition=1.0), SnapToCorpus(threshold=0.0, blend=1.0))
    found = make(text_run).rollout(START, 5, settings, n=1)
    rows = [step.snapped.decoded.row for step in found.steps if step.snapped is not None]
    first = text_store.find("river-arden.txt").first
    assert len(rows) == len(set(rows)) == 5
    assert not set(rows) & set(range(first, first + found.of))
    for step, row in zip(found.steps, rows, strict=True):
        np.testing.assert_allclose(step.step.read, text_store.vectors[row], atol=1e-6)
        assert step.nearest[0].decoded.row not in rows[: step.number]


def test_the_library_reads_the_texts_of_its_store_once(
    text_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = text_store.texts(np.arange(len(text_store)))
    library, read = Library(text_store), list(text_store.chunk_tables())
    passes = iter([read])  # a second pass over them would be one too many
    monkeypatch.setattr(text_store, "chunk_tables", lambda: next(passes))
    for wanted in (texts[5:9], texts[::-1], [texts[3], "Nobody wrote this.", texts[3]]):
        same = [row for row, text in enumerate(texts) if text in wanted]
        assert library.rows_of(wanted).tolist() == same


def test_the_library_gives_what_it_has(library: Library, text_store: Store, text_run: Path) -> None:
    texts = text_store.texts([5, 9])
    assert set(library.rows_of(texts)) >= {5, 9}
    assert len(library.rows_of(["Nobody wrote this."])) == 0
    assert len(library.rows_of([])) == 0
    everything = np.arange(len(text_store), dtype=np.int64)
    units = RawVectors(text_store.vectors[:2], str(text_store.encoder["fingerprint"])).unit()
    found = library.search(units, 99999, [everything[3:], everything[3:]])
    assert [sorted(row for row, _ in some) for some in found] == [[0, 1, 2]] * 2
    assert library.search(units, 5, [everything, everything]) == [[], []]
    assert library.search(units, 0, [everything[:0]] * 2) == [[], []]


def test_threads_do_not_disturb_each_other(make: Callable[..., Pipeline], text_run: Path) -> None:
    pipeline = make(text_run, decoder=True)
    texts = [text for _, text in sorted(documents().items())][:6]
    alone = [pipeline.next(text, n=2).to_json() for text in texts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda text: pipeline.next(text, n=2).to_json(), texts * 2))
    assert [found["nearest"] for found in together] == [found["nearest"] for found in alone * 2]


def changed(run: Path, to: Path, **training: Any) -> Path:
    """A copy of a run that says something else of its training."""
    shutil.copytree(run, to)
    config = json.loads(by_hand(to / "config.json"))
    config["training"].update(training)
    (to / "config.json").write_text(json.dumps(config))
    return to


def test_a_text_shorter_than_any_trained_on_is_warned_of(
    make: Callable[..., Pipeline], text_run: Path, tmp_path: Path
) -> None:
    pipeline = make(changed(text_run, tmp_path / "long", min_context=5))
    with pytest.warns(NextvecWarning, match=r"note\.txt: 1 chunks; long was trained with 5"):
        found = pipeline.next("One sentence only.", where="note.txt")
    assert (found.read, found.of) == (1, 1)
    assert make(text_run).next("One sentence only.").read == 1


def test_runs_that_do_not_continue_are_refused(
    make: Callable[..., Pipeline], text_run: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="trained for the task 'middle'"):
        make(changed(text_run, tmp_path / "middle", task="middle"))
    far = make(changed(text_run, tmp_path / "far", horizons=[4]))
    assert far.next(START).horizon == 4
    with pytest.raises(RunError, match="predicts 4 ahead"):
        far.rollout(START, 2)


def test_bad_input_is_refused(make: Callable[..., Pipeline], text_run: Path, steered_run: Path) -> None:
    with pytest.raises(RunError, match=r"trained without queries.*--task conditional"):
        make(text_run).next(START, query="Bread.")
    with pytest.raises(DocumentError, match="query: no text in it"):
        make(steered_run).next(START, query=" ")
    with pytest.raises(DocumentError, match=r"note\.txt: no text in it"):
        make(text_run).next(" \n", where="note.txt")
    with pytest.raises(ConfigError, match="no chunks to snap to"):
        make(text_run, library=None).rollout(START, 1, RolloutSettings(snap=SnapToCorpus()))


def test_parts_of_other_spaces_are_refused(
    make: Callable[..., Pipeline], world: Store, text_run: Path, encoder: Encoder, text_store: Store
) -> None:
    predictor = RunPredictor(text_run)
    reader = TextReader(predictor.space, encoder)
    with pytest.raises(EncoderMismatchError):
        Pipeline(predictor, reader, library=Library(world))
    with pytest.raises(EncoderMismatchError):
        Pipeline(predictor, reader, Says("another", predictor.dimension))


def test_snapping_between_raw_and_unit_vectors_is_refused(
    make: Callable[..., Pipeline], text_store: Store, text_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(text_store.path, tmp_path / "unit")
    manifest = tmp_path / "unit" / "store.json"
    manifest.write_text(json.dumps({**json.loads(by_hand(manifest)), "normalised": True}))
    pipeline = make(text_run, library=Library(Store.open(tmp_path / "unit")))
    assert pipeline.next(START).nearest
    with pytest.raises(ConfigError, match="one are raw, one unit"):
        pipeline.rollout(START, 1, RolloutSettings(snap=SnapToCorpus()))
