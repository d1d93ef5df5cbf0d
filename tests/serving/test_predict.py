"""`/v1/predict` and what stands around it: the same answers as the run gives, on every way in and out."""

from __future__ import annotations

import asyncio
import io
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from nextvec.evaluation.baselines import BASELINES
from nextvec.experiments.ensemble import EnsembleRun, MixtureWeights
from nextvec.serving.app import create_app
from nextvec.serving.served_models import ServedModel, ServedModels
from nextvec.serving.settings import Settings

NPY = "application/x-npy"
WINDOWS = np.random.default_rng(3).standard_normal((3, 5, 16)).astype(np.float32)


def npy(values: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values, allow_pickle=False)
    return stream.getvalue()


def post(path: str = "/v1/predict", **request: Any) -> Any:
    async def work(client: Any) -> Any:
        return await client.post(path, **request)

    return work


def send(values: Any, **query: Any) -> Any:
    return post(content=npy(values), headers={"content-type": NPY}, params=query)


@pytest.fixture(scope="module")
def expected(run: Any) -> tuple[Any, Any]:
    return run.predict(WINDOWS, np.full(3, 5))


def floats(answer: Any) -> Any:
    return np.array([d["embedding"] for d in answer.json()["data"]], np.float32)


def test_every_way_in_and_out_tells_what_the_run_tells(make_app: Any, within: Any, expected: Any) -> None:
    raw, unit = expected
    texts = [b64encode(window.tobytes()).decode() for window in WINDOWS]

    async def work(client: Any) -> None:
        binary = await send(WINDOWS)(client)
        assert binary.headers["content-type"] == NPY
        np.testing.assert_allclose(np.load(io.BytesIO(binary.content)), raw, atol=1e-6)
        cosine = await send(WINDOWS, output_type="cosine")(client)
        np.testing.assert_allclose(np.load(io.BytesIO(cosine.content)), unit, atol=1e-6)
        for sent in (WINDOWS.tolist(), texts):
            answer = await client.post("/v1/predict", json={"input": sent, "model": "small", "horizon": 1})
            np.testing.assert_allclose(floats(answer), raw, atol=1e-6)
            assert answer.json()["usage"] == {"vectors": 15}
            assert answer.json()["output_type"] == "decoder"
        coded = await client.post("/v1/predict", json={"input": texts[0], "encoding_format": "base64"})
        vector = np.frombuffer(b64decode(coded.json()["data"][0]["embedding"]), "<f4")
        np.testing.assert_allclose(vector, raw[0], atol=1e-6)
        one = await send(WINDOWS[1])(client)
        np.testing.assert_allclose(np.load(io.BytesIO(one.content)), raw[1:2], atol=1e-6)
        as_json = await client.post(
            "/v1/predict", content=npy(WINDOWS), headers={"content-type": NPY, "accept": "application/json"}
        )
        np.testing.assert_allclose(floats(as_json), raw, atol=1e-6)

    within(make_app(), work)


def test_the_briefs_path_and_field_are_other_names_of_ours(
    make_app: Any, within: Any, expected: tuple[Any, Any]
) -> None:
    raw, unit = expected
    key = {"authorization": "Bearer a-long-enough-key"}

    async def work(client: Any) -> None:
        for kind, vectors in (("decoder", raw), ("cosine", unit)):
            body = {"context_vectors": WINDOWS[0].tolist(), "output_type": kind}
            for path in ("/predict", "/v1/predict"):
                answer = await client.post(path, json=body, headers=key)
                np.testing.assert_allclose(floats(answer), vectors[:1], atol=1e-6)
        twice = await client.post("/predict", json={**body, "input": body["context_vectors"]}, headers=key)
        assert (twice.status_code, twice.json()["error"]["param"]) == (422, "context_vectors")
        assert (await client.post("/predict", json=body)).status_code == 401
        assert (await client.get("/predict")).status_code == 401
        assert (await client.get("/predict", headers=key)).status_code == 405

    within(make_app(api_keys=("a-long-enough-key",)), work)


def test_contexts_of_different_lengths_in_one_request_are_told_in_their_order(
    make_app: Any, within: Any, run: Any
) -> None:
    lengths = [4, 2, 5, 2, 1]
    requested = [WINDOWS[0, :length] for length in lengths]
    answer = within(make_app(), post(json={"input": [window.tolist() for window in requested]}))
    alone = [run.predict(window[None], np.array([len(window)]))[0][0] for window in requested]
    np.testing.assert_allclose(floats(answer), alone, atol=1e-6)


def test_many_at_once_are_batched_and_each_gets_its_own(make_app: Any, within: Any, run: Any) -> None:
    requested = np.random.default_rng(5).standard_normal((40, 1, 5, 16)).astype(np.float32)
    app = make_app()

    async def work(client: Any) -> list[Any]:
        return await asyncio.gather(*(send(windows)(client) for windows in requested))

    answers = [np.load(io.BytesIO(answer.content))[0] for answer in within(app, work)]
    np.testing.assert_allclose(answers, run.predict(requested[:, 0], np.full(40, 5))[0], atol=1e-6)
    figures = app.state.metrics.text().decode()
    batches = float(figures.split('nextvec_batch_size_count{model="small"} ')[1].split("\n")[0])
    assert batches < 40


@pytest.mark.parametrize(
    ("request_", "status", "code", "param"),
    [
        ({"json": {"input": [[1.0]]}}, 422, "wrong_dimension", "input"),
        ({"json": {}}, 422, "invalid_field", "input"),
        ({"json": {"input": [[0.0] * 16], "inputs": 1}}, 422, "invalid_field", "inputs"),
        ({"json": {"input": [[0.0] * 16], "model": "none"}}, 404, "model_not_found", "model"),
        ({"json": {"input": [[0.0] * 16], "model": 5}}, 422, "invalid_field", "model"),
        ({"json": {"input": [[0.0] * 16], "horizon": 9}}, 422, "unknown_horizon", "horizon"),
        ({"json": {"input": [[0.0] * 16], "horizon": True}}, 422, "invalid_field", "horizon"),
        ({"json": {"input": [[0.0] * 16], "output_type": "raw"}}, 422, "invalid_field", "output_type"),
        ({"json": {"input": [[0.0] * 16], "encoding_format": "x"}}, 422, "invalid_field", "encoding_format"),
        ({"json": {"input": [[0.0] * 16], "query": [0.0] * 16}}, 422, "invalid_field", "query"),
        ({"json": [1]}, 400, "invalid_json", None),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "invalid_json", None),
        ({"content": b"x", "headers": {"content-type": NPY}}, 400, "invalid_npy", None),
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "unsupported_type", None),
        (
            {"content": npy(WINDOWS), "headers": {"content-type": NPY}, "params": {"a": 1}},
            422,
            "invalid_field",
            "a",
        ),
        (
            {"content": npy(WINDOWS), "headers": {"content-type": NPY}, "params": {"horizon": "x"}},
            422,
            "invalid_field",
            "horizon",
        ),
        (
            {"json": {"input": [[0.0] * 16]}, "params": {"output_type": "cosine"}},
            422,
            "invalid_field",
            "output_type",
        ),
    ],
)
def test_refusals_have_one_shape(
    make_app: Any, within: Any, request_: Any, status: int, code: str, param: str | None
) -> None:
    answer = within(make_app(), post(**request_))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert error.keys() == {"message", "type", "param", "code", "remedy"}
    assert error["message"]
    assert error["remedy"]


def test_what_the_router_refuses_has_the_same_shape(make_app: Any, within: Any) -> None:
    async def work(client: Any) -> None:
        for method, path, status in (
            ("GET", "/v1/predict", 405),
            ("GET", "/nowhere", 404),
            ("GET", "/v1/models/none", 404),
            ("POST", "/v1/outcomes", 422),
        ):
            answer = await client.request(method, path)
            assert answer.status_code == status, path
            assert answer.json()["error"]["code"]
            assert answer.headers["x-request-id"]

    within(make_app(), work)


def test_a_failing_model_is_a_500_that_says_nothing_of_it(
    make_app: Any, within: Any, turnstile: Any, caplog: Any
) -> None:
    async def work(client: Any) -> None:
        turnstile.broken = True
        answer = await send(WINDOWS)(client)
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
        assert "machine" not in answer.text
        assert answer.headers["x-request-id"] in caplog.text
        assert "ZeroDivisionError" in caplog.text
        assert "conftest.py" in caplog.text
        assert "/a/path/of/this/machine" not in caplog.text
        turnstile.broken = False
        assert (await send(WINDOWS)(client)).status_code == 200

    within(make_app(engine=turnstile), work)


def test_a_model_that_cannot_answer_at_all_is_never_ready(make_app: Any, within: Any, turnstile: Any) -> None:
    turnstile.broken = True
    app = make_app(engine=turnstile)

    async def work(client: Any) -> None:
        assert (await client.get("/health/ready")).status_code == 503
        assert (await client.get("/health/live")).status_code == 200
        assert (await send(WINDOWS)(client)).status_code == 503

    within(app, work)
    assert isinstance(app.state.state.failure, ZeroDivisionError)


def test_request_ids_models_and_arms_are_told_in_headers(make_app: Any, within: Any) -> None:
    app = make_app(names=("a", "b"), split={"a": 0.5, "b": 0.5})

    async def work(client: Any) -> None:
        headers = {"content-type": NPY, "x-request-id": "mine-1", "x-sticky-key": "someone"}
        answers = [await client.post("/v1/predict", content=npy(WINDOWS), headers=headers) for _ in range(4)]
        assert {a.headers["x-request-id"] for a in answers} == {"mine-1"}
        assert len({a.headers["x-nextvec-arm"] for a in answers}) == 1
        assert answers[0].headers["x-nextvec-model"] == answers[0].headers["x-nextvec-arm"]
        by_user = await client.post("/v1/predict", json={"input": WINDOWS.tolist(), "user": "someone"})
        assert by_user.headers["x-nextvec-arm"] == answers[0].headers["x-nextvec-arm"]
        odd = await send(WINDOWS)(client)
        assert len(odd.headers["x-request-id"]) == 24
        named = await send(WINDOWS, model="b")(client)
        assert named.headers["x-nextvec-model"] == "b"
        assert "x-nextvec-arm" not in named.headers
        bad = await client.post("/v1/predict", headers={"x-request-id": "a b\tc" * 50}, json={"input": 1})
        assert len(bad.headers["x-request-id"]) == 24

    within(app, work)


def test_outcomes_are_counted_by_arm_and_once(make_app: Any, within: Any) -> None:
    log = io.BytesIO()
    app = make_app(names=("a", "b"), split={"a": 0.5, "b": 0.5}, log=log)

    async def work(client: Any) -> None:
        answer = await send(WINDOWS)(client)
        arm, output = answer.headers["x-nextvec-arm"], answer.headers["x-request-id"]
        outcome = {"request_id": output, "score": 0.5}
        noted = await client.post("/v1/outcomes", json=outcome)
        assert noted.json() == {"object": "outcome", "model": arm, "arm": arm}
        assert (await client.post("/v1/outcomes", json=outcome)).status_code == 404
        figures = (await client.get("/metrics")).text
        assert f'nextvec_outcomes_total{{arm="{arm}",model="{arm}"}} 1.0' in figures
        assert f'nextvec_outcome_score_sum{{arm="{arm}",model="{arm}"}} 0.5' in figures
        assert 'route="/v1/predict",status="200"} 1.0' in figures

    within(app, work)
    lines = [orjson.loads(line) for line in log.getvalue().splitlines()]
    assert [line["event"] for line in lines if line["event"] == "outcome"] == ["outcome"]


def test_the_log_has_a_line_a_request_and_none_of_its_contents(make_app: Any, within: Any) -> None:
    log = io.BytesIO()
    requested = {"input": [[0.123456789] * 16], "user": "a-name-that-is-private"}
    key = {"authorization": "Bearer a-secret-key-of-16"}
    within(make_app(log=log, api_keys=("a-secret-key-of-16",)), post(json=requested, headers=key))
    assert b"0.1234" not in log.getvalue()
    assert b"private" not in log.getvalue()
    assert b"secret" not in log.getvalue()
    [line] = map(orjson.loads, log.getvalue().splitlines())
    assert (line["route"], line["status"], line["model"], line["vectors"]) == ("/v1/predict", 200, "small", 1)


def test_a_key_opens_v1_and_metrics_and_nothing_else_needs_one(make_app: Any, within: Any) -> None:
    async def work(client: Any) -> None:
        for path in ("/v1/models", "/metrics"):
            refused = await client.get(path)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
            opened = await client.get(path, headers={"authorization": "Bearer a-long-enough-key"})
            assert opened.status_code == 200
        for path in ("/health/live", "/health/ready", "/openapi.json"):
            assert (await client.get(path)).status_code == 200

    within(make_app(api_keys=("a-long-enough-key",)), work)


def test_models_are_described(make_app: Any, within: Any, run: Any) -> None:
    async def work(client: Any) -> None:
        listed = (await client.get("/v1/models")).json()
        assert (listed["default"], listed["split"]) == ("a", {})
        assert [card["id"] for card in listed["data"]] == ["a", "b"]
        card = (await client.get("/v1/models/a")).json()
        assert card == listed["data"][0]
        assert (card["architecture"], card["dimension"], card["context"]) == ("lstm", 16, run.context)
        assert (card["engine"], card["precision"], card["horizons"]) == ("eager", "fp32", [1])
        assert card["parameters"] == run.metadata["parameters"]
        assert card["encoder"] == "world"

    within(make_app(names=("a", "b")), work)


def test_other_pages_may_not_ask_unless_they_are_named(make_app: Any, within: Any) -> None:
    origin = {"origin": "https://example.org"}
    preflight = {**origin, "access-control-request-method": "POST"}

    async def work(client: Any) -> list[Any]:
        requested = await client.options("/v1/predict", headers=preflight)
        output = await client.post("/v1/predict", json={"input": [[0.0] * 16]}, headers=origin)
        return [
            requested.headers.get("access-control-allow-origin"),
            output.headers.get("access-control-allow-origin"),
        ]

    assert within(make_app(), work) == [None, None]
    assert within(make_app(cors_origins=("https://example.org",)), work) == ["https://example.org"] * 2
    assert within(make_app(cors_origins=("https://other.org",)), work) == [None, None]


def test_ready_only_between_loading_and_draining(make_app: Any, within: Any) -> None:
    app = make_app()

    async def work(client: Any) -> None:
        for phase, status in (("loading", 503), ("ready", 200), ("draining", 503)):
            app.state.state.enter(phase)
            ready = await client.get("/health/ready")
            predicted = await send(WINDOWS)(client)
            assert (ready.status_code, predicted.status_code) == (status, status)
            assert (await client.get("/health/live")).status_code == 200
            if status == 503:
                assert ready.headers["retry-after"] == predicted.headers["retry-after"]

    within(app, work)


def test_a_request_when_the_queue_is_full_is_refused_before_its_body_is_read(
    make_app: Any, within: Any, turnstile: Any
) -> None:
    app = make_app(engine=turnstile, queue=2)

    async def never() -> Any:
        raise AssertionError("the body was read")
        yield b""

    async def work(client: Any) -> None:
        turnstile.open.clear()
        turnstile.entered.clear()
        waiting = [asyncio.create_task(send(WINDOWS)(client)) for _ in range(2)]
        while app.state.queues["vectors"].under_way < 2:
            await asyncio.sleep(0.001)
        refused = await client.post(
            "/v1/predict", headers={"content-type": NPY, "content-length": "3"}, content=never()
        )
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert (await client.get("/health/live")).status_code == 200
        turnstile.open.set()
        assert [(await task).status_code for task in waiting] == [200, 200]
        assert (await send(WINDOWS)(client)).status_code == 200
        assert 'nextvec_rejected_total{reason="overloaded"} 1.0' in (await client.get("/metrics")).text

    within(app, work)


def test_an_answer_that_takes_too_long_is_a_504_and_what_waits_is_dropped(
    make_app: Any, within: Any, turnstile: Any
) -> None:
    app = make_app(engine=turnstile, work_timeout=0.1)

    async def work(client: Any) -> None:
        turnstile.open.clear()
        turnstile.entered.clear()
        first = asyncio.create_task(send(WINDOWS)(client))
        await asyncio.to_thread(turnstile.entered.wait, 900)
        second = asyncio.create_task(send(WINDOWS)(client))
        assert [(await task).status_code for task in (first, second)] == [504, 504]
        turnstile.seen.clear()
        turnstile.open.set()
        assert (await send(WINDOWS[:1])(client)).status_code == 200

    within(app, work)
    assert turnstile.seen == [3, 1]


def test_an_ensemble_is_served_with_the_directions_that_are_evaluated(
    within: Any, run: Any, tmp_path: Path
) -> None:
    mixture = MixtureWeights(np.array([0.5, 0.5]), np.array([0.8, 0.2]))
    ensemble = EnsembleRun(tmp_path / "mixed", [run], [BASELINES["copy-last"](5)], mixture)
    app = create_app(Settings(), ServedModels([ServedModel("mixed", ensemble)]))
    raw, units = ensemble.predict(WINDOWS, np.full(3, 5))

    async def work(client: Any) -> None:
        cosine = await send(WINDOWS, output_type="cosine")(client)
        np.testing.assert_allclose(np.load(io.BytesIO(cosine.content)), units, atol=1e-5)
        decoder = np.load(io.BytesIO((await send(WINDOWS)(client)).content))
        np.testing.assert_allclose(np.linalg.norm(decoder, axis=1), np.linalg.norm(raw, axis=1), rtol=1e-4)
        (card,) = (await client.get("/v1/models")).json()["data"]
        assert (card["id"], card["engine"]) == ("mixed", "ensemble")

    within(app, work)
