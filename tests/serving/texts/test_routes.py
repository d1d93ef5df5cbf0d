"""What the routes on texts tell, against what the parts behind them say themselves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nextvec.client import Client
from nextvec.corpus.reading import TextReader
from nextvec.corpus.store import Store
from nextvec.decoding.nearest import Library
from nextvec.decoding.pipeline import Pipeline
from nextvec.errors import ServerError
from nextvec.inference.predictor import RunPredictor
from nextvec.retrieval.strategies import Strategy
from nextvec.serving.errors import Refusal
from nextvec.serving.routes.coding import DecodeRequest, decoded
from nextvec.serving.routes.text import (
    PredictTextRequest,
    RetrieveRequest,
    RolloutRequest,
    predicted,
    retrieved,
    rolled_out,
)
from nextvec.serving.served_models import ServedModel
from nextvec.serving.settings import Settings
from passages import documents

RIVER = documents()["river-arden"]
START = ". ".join(RIVER.split(". ")[:6]) + "."


@pytest.fixture(scope="module")
def make(text_run: Path, text_store: Store, reader: TextReader) -> Callable[..., ServedModel]:
    def make(store: bool = True, texts: bool = True, strategy: str | None = None) -> ServedModel:
        predictor = RunPredictor(text_run)
        library = Library(text_store) if store else None
        pipeline = Pipeline(predictor, reader, None, library) if texts else None
        return ServedModel("gru", predictor, pipeline, strategy and Strategy.named(strategy))

    return make


def test_a_text_is_predicted_from_as_by_the_pipeline(
    client: Client, make: Callable[..., ServedModel]
) -> None:
    output = client.predict_text(START, passages=3)
    pipeline = make().pipeline
    assert pipeline is not None
    found = pipeline.next(START, n=3)
    assert (output["model"], output["horizon"], output["read"]) == ("gru", 1, found.read)
    assert [p["text"] for p in output["passages"]] == [p.decoded.text for p in found.nearest]
    cosines = [p.decoded.score for p in found.nearest]
    np.testing.assert_allclose([p["cosine"] for p in output["passages"]], cosines, atol=1e-5)
    assert all(p["source"] and p["doc_id"] for p in output["passages"])
    assert [START[c["start"] : c["end"]] for c in output["chunks"]] == [c["text"] for c in output["chunks"]]
    assert output["decoded"] is None


def test_attention_is_told_where_there_is_one(client: Client) -> None:
    output = client.predict_text(START, model="amn", attention=True)
    assert len(output["attention"]) == output["read"]
    assert sum(output["attention"]) == pytest.approx(1, abs=1e-5)
    other = client.predict_text(START, attention=True)
    assert other["attention"] is None
    assert any("attention" in note for note in other["notes"])


def test_encoded_texts_are_the_readers_vectors(client: Client, reader: TextReader) -> None:
    texts = ["The mill stood by the river.", "Then it froze."]
    raw = client.encode(texts)
    np.testing.assert_allclose(raw, reader.encode(texts).values, atol=1e-4)
    units = client.encode(texts[0], output_type="cosine")
    np.testing.assert_allclose(np.linalg.norm(units, axis=1), 1, atol=1e-5)


def test_a_chunks_own_vector_is_decoded_to_it(client: Client, text_store: Store) -> None:
    [found] = client.decode(text_store.vectors[5], n=2)
    assert found["texts"][0]["text"] == text_store.texts([5])[0]
    assert found["texts"][0]["how"] == "retrieved"
    assert found["texts"][0]["score"] == pytest.approx(1, abs=1e-4)


def test_what_was_read_is_not_retrieved(client: Client, text_store: Store) -> None:
    found = client.retrieve(START, n=20)
    assert len(found) == 20
    assert not {p["text"] for p in found} & set(START.split("\n"))
    of_vectors = client.retrieve(vectors=client.encode(text_store.texts(range(4))), n=20)
    assert not {p["text"] for p in of_vectors} & set(text_store.texts(range(4)))
    reordered = client.retrieve(START, n=3, strategy="blend+recency")
    assert [p["cosine"] for p in reordered] == [None] * 3


def test_the_servers_strategy_holds_where_a_request_names_none(make: Callable[..., ServedModel]) -> None:
    plain, request = make(strategy="last"), RetrieveRequest(text=START, n=3)
    found = retrieved(plain, request, Settings())
    named = retrieved(make(), request.model_copy(update={"strategy": "last"}), Settings())
    assert (found.strategy, found) == ("last", named)
    other = retrieved(plain, request.model_copy(update={"strategy": "mean"}), Settings())
    assert other.strategy == "mean"


def test_a_rollout_of_a_text_is_that_of_its_vectors(client: Client, make: Callable[..., ServedModel]) -> None:
    pipeline = make().pipeline
    assert pipeline is not None
    vectors = pipeline.reader.read(START)[1].values
    by_text = client.rollout(START, steps=3, max_repetition=1.0)
    by_vectors = client.rollout(vectors=vectors, steps=3, max_repetition=1.0, passages=0)
    assert [step["step"] for step in by_text["steps"]] == [1, 2, 3]
    a, b = ([step["embedding"] for step in found["steps"]] for found in (by_text, by_vectors))
    np.testing.assert_allclose(a, b, atol=1e-4)
    assert [len(step["passages"]) for step in by_vectors["steps"]] == [0, 0, 0]


def test_surprise_is_told_of_every_chunk_but_the_first(client: Client) -> None:
    output = client.surprise(RIVER + " " + documents()["bakery-bellrock"])
    values = [chunk["surprise"] for chunk in output["chunks"]]
    assert values[0] is None
    assert all(0 <= value <= 2 for value in values[1:])
    assert output["mean"] == pytest.approx(np.mean(values[1:]))
    assert output["boundaries"] == [i for i, c in enumerate(output["chunks"]) if c["opens_segment"] and i]


def test_a_session_predicts_what_the_whole_context_does(client: Client, text_store: Store) -> None:
    vectors = text_store.vectors[:6]
    with client.session() as session:
        first = session.push(vectors[0])
        rest = session.push(vectors[1:])
        output = session.describe()
        assert (output["position"], output["model"], output["streaming"]) == (6, "gru", "constant")
        assert output["state_bytes"] > 0
    assert first.shape == (384,)
    np.testing.assert_allclose(rest[-1], client.predict(vectors), atol=1e-5)
    np.testing.assert_allclose(first, client.predict(vectors[:1]), atol=1e-5)
    with pytest.raises(ServerError, match="no such session") as caught:
        session.describe()
    assert caught.value.status == 404


def test_a_session_reads_texts(client: Client, reader: TextReader) -> None:
    with client.session() as session:
        output = session.push_text(START, passages=2)
        assert output["position"] == len(output["chunks"])
        expected = client.predict(reader.read(START)[1].values)
        np.testing.assert_allclose(output["chunks"][-1]["embedding"], expected, atol=1e-4)
        assert len(output["passages"]) == 2


def test_pushes_at_the_same_time_are_taken_one_by_one(client: Client, text_store: Store) -> None:
    many = np.repeat(text_store.vectors[:64], 16, axis=0)
    outcomes: list[object] = []
    with client.session() as session:

        def push() -> None:
            try:
                outcomes.append(len(session.push(many)))
            except ServerError as error:
                outcomes.append(error.status)

        threads = [threading.Thread(target=push) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(outcomes) <= {1024, 409}
        assert session.describe()["position"] == 1024 * outcomes.count(1024) >= 1024


def test_without_a_store_the_routes_say_so(make: Callable[..., ServedModel]) -> None:
    bare, settings = make(store=False), Settings()
    vector = [[0.1] * 384]
    for answer in (
        lambda: retrieved(bare, RetrieveRequest(text=START), settings),
        lambda: decoded(bare, DecodeRequest(input=vector), settings),
        lambda: rolled_out(bare, RolloutRequest(text=START, snap=True), settings),
        lambda: predicted(bare, PredictTextRequest(text=START, passages=3), settings),
    ):
        with pytest.raises(Refusal, match="no store was given") as caught:
            answer()
        assert (caught.value.status, caught.value.code) == (409, "no_store")
    assert predicted(bare, PredictTextRequest(text=START), settings).passages == []
    with pytest.raises(Refusal, match="no encoder") as caught:
        predicted(make(texts=False), PredictTextRequest(text=START), settings)
    assert caught.value.status == 409
