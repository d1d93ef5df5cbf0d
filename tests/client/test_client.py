"""The client against a transport of our own: what it sends, how long it waits, what it makes of errors."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import httpx
import numpy as np
import pytest

from nextvec.client import Client, RemotePredictor
from nextvec.client import wire as module
from nextvec.client.wire import packed, rows_of, to_npy, unpacked, waiting_time
from nextvec.errors import ServerError

D = 4
ServerResponse = Callable[[httpx.Request], httpx.Response]
CARD = {
    "id": "m/1",
    "context": 3,
    "dimension": D,
    "horizons": [1, 2],
    "encoder": "e",
    "parameters": 7,
    "capabilities": ["predict", "query"],
}


def client(answer: ServerResponse, **options: object) -> Client:
    return Client("http://server", transport=httpx.MockTransport(answer), **options)  # type: ignore[arg-type]


def last_rows(request: httpx.Request) -> httpx.Response:
    """Predicts the last vector it was sent."""
    values = np.load(io.BytesIO(request.content), allow_pickle=False)
    rows = values[:, -1] if values.ndim == 3 else values[-1:]
    return httpx.Response(200, content=to_npy(rows))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(module.time, "sleep", found.append)
    return found


def test_vectors_travel_as_npy_with_the_key() -> None:
    seen: list[httpx.Request] = []
    with client(lambda r: (seen.append(r), last_rows(r))[1], api_key="secret", model="a") as opened:
        x = np.arange(12, dtype=np.float32).reshape(3, D)
        np.testing.assert_array_equal(opened.predict(x, output_type="cosine", horizon=2, user="u"), x[-1])
        assert opened.predict(np.stack([x, x])).shape == (2, D)
    first = seen[0]
    assert first.headers["authorization"] == "Bearer secret"
    assert first.headers["content-type"] == first.headers["accept"] == "application/x-npy"
    assert first.headers["x-sticky-key"] == "u"
    assert dict(first.url.params) == {"model": "a", "output_type": "cosine", "horizon": "2"}


def test_it_waits_as_long_as_it_is_told_and_tries_again(waits: list[float]) -> None:
    plan = [httpx.Response(429, headers={"retry-after": "7"}), httpx.Response(503)]
    with client(lambda r: plan.pop(0) if plan else last_rows(r)) as opened:
        assert opened.predict(np.ones((1, D), np.float32)).shape == (D,)
    assert waits == [7.0, 1.0]


@pytest.mark.parametrize(("status", "tries"), [(422, 1), (500, 1), (504, 1), (429, 3), (503, 3)])
def test_only_what_was_refused_before_work_is_sent_again(status: int, tries: int, waits: list[float]) -> None:
    message = {"error": {"message": "no", "type": "t", "remedy": "do this"}}
    seen: list[httpx.Request] = []
    answer = httpx.Response(status, json=message)
    words = pytest.raises(ServerError, match=f"answered {status}: no; do this")
    with client(lambda r: (seen.append(r), answer)[1], retries=2) as opened, words as caught:
        opened.predict_text("x")
    assert (caught.value.status, caught.value.kind) == (status, "t")
    assert len(seen) == tries


def test_it_does_not_wait_for_an_hour(waits: list[float]) -> None:
    answer = httpx.Response(429, headers={"retry-after": "3600"}, text="later")
    with client(lambda r: answer) as opened, pytest.raises(ServerError, match="later"):
        opened.models()
    assert waits == []


def test_a_broken_connection_is_not_tried_again_but_a_refused_one_is(waits: list[float]) -> None:
    def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("reset", request=request)

    def refused(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with client(broken) as opened, pytest.raises(ServerError, match="gave no answer"):
        opened.models()
    assert waits == []
    with client(refused, retries=1) as opened, pytest.raises(ServerError, match="cannot be reached"):
        opened.models()
    assert waits == [0.5]


@pytest.mark.parametrize(
    "given", ["", "/", "/v1", "/v1/", "/v1/predict", "/v1/embeddings/", "/v1/models?x=1"]
)
@pytest.mark.parametrize("before", ["", "/behind/a/proxy"])
def test_an_address_is_the_same_with_its_version_and_with_a_route(given: str, before: str) -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return httpx.Response(200, json={"data": [CARD]})

    with Client(f"http://server{before}{given}", transport=httpx.MockTransport(answer)) as opened:
        assert opened.models() == [CARD]
        assert opened.url == f"http://server{before}"
    assert seen == [f"http://server{before}/v1/models"]


def test_a_404_is_asked_again_without_v1_once_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.path)
        if request.url.path.startswith("/v1"):
            return httpx.Response(404, text="no such page")
        return httpx.Response(200, json={"data": [CARD]})

    with client(answer) as opened, caplog.at_level("WARNING", "nextvec.client"):
        assert opened.models() == opened.models() == [CARD]
    assert seen == ["/v1/models", "/models", "/models"]
    assert caplog.text.count("http://server/v1/models is not there, http://server/models is") == 1


def test_a_404_of_our_own_server_is_not_asked_again() -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.path)
        return httpx.Response(404, json={"error": {"message": "no such model", "code": "model_not_found"}})

    with client(answer) as opened:
        for _ in range(2):
            with pytest.raises(ServerError, match="no such model"):
                opened.describe("m")
    assert seen == ["/v1/models/m"] * 2


@pytest.mark.parametrize(
    "url", ["server:80", "ftp://server", "http://", "http://me:word@server", "http://server:port"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ServerError):
        Client(url)


def test_what_is_no_answer_is_refused() -> None:
    with client(lambda r: httpx.Response(200, text="hello")) as opened:
        with pytest.raises(ServerError, match="not understood"):
            opened.models()
        with pytest.raises(ServerError, match="not understood"):
            opened.predict(np.ones((1, D), np.float32))
        with pytest.raises(ServerError, match="one of text and vectors"):
            opened.retrieve()


def test_base64_comes_back_as_it_went() -> None:
    x = np.random.default_rng(0).standard_normal((3, D)).astype(np.float32)
    np.testing.assert_array_equal(unpacked(packed(x[0])), x[0])
    data = [{"index": i, "embedding": packed(row) if i % 2 else row.tolist()} for i, row in enumerate(x)]
    np.testing.assert_array_equal(rows_of({"data": data[::-1]}), x)


def test_waiting_times() -> None:
    assert [waiting_time(None, n) for n in (0, 1, 9)] == [0.5, 1.0, 30.0]
    assert waiting_time("nonsense", 1) == 1.0
    assert waiting_time("Sun, 06 Nov 1994 08:49:37 GMT", 0) == 0.0


def test_a_session_is_deleted_in_the_end() -> None:
    seen: list[tuple[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, request.url.raw_path.decode()))
        if request.url.path.endswith("/vectors"):
            return last_rows(request)
        return httpx.Response(200, json={"id": "a/b"})

    with client(answer) as opened, opened.session() as session:
        assert session.push(np.ones(D, np.float32)).shape == (D,)
    paths = ["/v1/sessions", "/v1/sessions/a%2Fb/vectors?output_type=decoder", "/v1/sessions/a%2Fb"]
    assert [path for _, path in seen] == paths
    assert [method for method, _ in seen] == ["POST", "POST", "DELETE"]


def test_a_remote_predictor_sends_rows_of_one_length_together_and_never_padding() -> None:
    shapes: list[tuple[int, ...]] = []
    queries: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"default": "m/1", "data": [CARD]})
        if request.method == "GET":
            return httpx.Response(200, json=CARD)
        if request.headers["content-type"] == "application/json":
            body = json.loads(request.content)
            queries.append(body["query"])
            return httpx.Response(200, json={"data": [{"index": 0, "embedding": [0.0, 0.0, 0.0, 2.0]}]})
        shapes.append(np.load(io.BytesIO(request.content), allow_pickle=False).shape)
        return last_rows(request)

    with client(answer) as opened:
        predictor = RemotePredictor(opened)
        assert (predictor.name, predictor.context, predictor.conditional) == ("m/1", 3, True)
        contexts = np.random.default_rng(0).standard_normal((5, 3, D)).astype(np.float32)
        lengths = np.array([3, 1, 3, 2, 1])
        for row, length in zip(contexts, lengths, strict=True):
            row[length:] = np.nan
        raw, units = predictor.predict(contexts, lengths)
        np.testing.assert_array_equal(raw, contexts[np.arange(5), lengths - 1])
        np.testing.assert_allclose(np.linalg.norm(units, axis=1), 1, atol=1e-6)
        assert shapes == [(2, 1, D), (1, 2, D), (2, 3, D)]
        query = np.zeros((5, D), np.float32)
        query[3] = 1
        raw, _ = predictor.predict(contexts, lengths, query)
        assert queries == [packed(query[3])]
        np.testing.assert_array_equal(raw[3], [0, 0, 0, 2])
