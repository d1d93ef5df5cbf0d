from __future__ import annotations

import base64
import datetime
import email.utils
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from nextvec.corpus.encoders import EncoderConfig, load_encoder
from nextvec.corpus.encoders import http as module
from nextvec.corpus.encoders.base import encode_queries
from nextvec.corpus.encoders.http import HttpEncoder, resolve_endpoint
from nextvec.errors import EncoderError


class Server(ThreadingHTTPServer):
    """An embedding server whose vectors [4] depend on the text; `plan` holds answers to give first."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan: list[tuple[int, dict[str, str], bytes]] = []
        self.seen: list[dict[str, Any]] = []
        self.unit = False
        self.noise = 0.0
        self.shortens = True
        self.shuffle = False
        self.change: Callable[[Any], Any] = lambda answer: answer

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


def encoder_at(url: str, model: str, **options: Any) -> HttpEncoder:
    return HttpEncoder(EncoderConfig(model, url, **options))


def vector(text: str) -> np.ndarray:
    return np.random.default_rng(list(text.encode()) or [0]).standard_normal(4).astype(np.float32)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.seen.append({"path": self.path, "body": body, "headers": dict(self.headers)})
        if self.server.plan:
            self.reply(*self.server.plan.pop(0))
            return
        texts = body.get("inputs", body.get("input"))
        rows = [vector(t) + self.server.noise for t in texts]
        if self.server.shortens:
            rows = [r[: body.get("dimensions")] for r in rows]
        if self.server.unit:
            rows = [r / np.linalg.norm(r) for r in rows]
        if self.path.endswith("/embed"):
            answer: Any = [r.tolist() for r in rows]
        else:
            coded = body["encoding_format"] == "base64"
            data = [
                {"index": i, "embedding": base64.b64encode(r.tobytes()).decode() if coded else r.tolist()}
                for i, r in enumerate(rows)
            ]
            answer = {"data": data[::-1] if self.server.shuffle else data, "model": body["model"]}
        self.reply(200, {}, json.dumps(self.server.change(answer)).encode())

    def reply(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Silent: tests print nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses the client takes, which pass at once."""
    taken: list[float] = []
    monkeypatch.setattr(module.time, "sleep", taken.append)
    return taken


TEXTS = [f"text number {i}" for i in range(7)]
EXPECTED = np.stack([vector(t) for t in TEXTS])


@pytest.mark.parametrize("coded", [False, True])
def test_openai_vectors_come_in_order_whatever_order_they_are_sent(server: Server, coded: bool) -> None:
    server.shuffle = True
    encoder = encoder_at(server.address, "small", batch_size=3, base64_response=coded)
    advanced: list[int] = []
    np.testing.assert_array_equal(encoder.encode(TEXTS, advanced.append), EXPECTED)
    assert advanced == [3, 3, 1]
    assert (encoder.dimension, encoder.unit, encoder.normalises, encoder.path) == (
        4,
        False,
        False,
        "http openai",
    )
    assert encoder.count_tokens(TEXTS) is None
    assert encoder.encode([]).shape == (0, 4)
    request = server.seen[-1]
    assert request["path"] == "/v1/embeddings"
    assert request["body"] == {
        "input": [TEXTS[6]],
        "model": "small",
        "encoding_format": "base64" if coded else "float",
    }


def test_tei_is_asked_for_raw_vectors(server: Server) -> None:
    encoder = load_encoder(EncoderConfig(name="small", endpoint=f"{server.address}/embed"))
    np.testing.assert_array_equal(encoder.encode(TEXTS), EXPECTED)
    assert (encoder.unit, encoder.normalises, encoder.path) == (False, True, "http tei")
    assert server.seen[-1]["body"] == {"inputs": TEXTS, "normalize": False, "truncate": True}


def test_a_server_that_normalises_is_noticed(server: Server) -> None:
    server.unit = True
    encoder = encoder_at(server.address, "small")
    assert encoder.unit
    assert encoder.normalises


@pytest.mark.parametrize(
    ("given", "kind", "full"),
    [
        ("https://api.example.org", None, "https://api.example.org/v1/embeddings"),
        ("https://api.example.org/v1", None, "https://api.example.org/v1/embeddings"),
        ("https://api.example.org/v1/", None, "https://api.example.org/v1/embeddings"),
        ("https://api.example.org/v1/embeddings/", None, "https://api.example.org/v1/embeddings"),
        ("http://h/embed", "openai", "http://h/v1/embeddings"),
        ("http://h/v1/embeddings", "tei", "http://h/v1/embed"),
        ("http://h:80/x/embeddings?v=2", None, "http://h/x/embeddings?v=2"),
        ("http://h:8080/embed", None, "http://h:8080/embed"),
        ("http://h:8080", "tei", "http://h:8080/embed"),
    ],
)
def test_addresses(given: str, kind: str | None, full: str) -> None:
    assert str(resolve_endpoint(given, kind)[1]) == full


@pytest.mark.parametrize(
    ("given", "there"),
    [
        ("", "/embeddings"),
        ("/v1", "/embeddings"),
        ("/api/embeddings", "/api/v1/embeddings"),
        ("/v1/embed", "/embed"),
    ],
)
def test_a_404_tries_the_other_form_once_and_says_so(
    server: Server, given: str, there: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.plan = [(404, {}, b"no such page")]
    with caplog.at_level("WARNING", "nextvec.corpus"):
        encoder = encoder_at(server.address + given, "small")
    assert f"is not there, {server.address}{there} is" in caplog.text
    np.testing.assert_array_equal(encoder.encode(TEXTS), EXPECTED)
    assert [request["path"] for request in server.seen][1:] == [there, there]
    server.plan, before = [(404, {}, b"no such model"), (404, {}, b"no such page")], len(server.seen)
    with pytest.raises(EncoderError, match="answered 404: no such model; nor is there an answer at http"):
        encoder_at(server.address + given, "small")
    assert len(server.seen) == before + 2


@pytest.mark.parametrize(
    ("url", "kind", "message"),
    [
        ("ftp://host", None, "not an http address"),
        ("host:8080", None, "not an http address"),
        ("http://user:secret@host", None, "password"),
        ("http://host", "grpc", "unknown kind"),
        ("http://host:notaport", None, "not an address"),
    ],
)
def test_addresses_that_are_none(url: str, kind: str | None, message: str) -> None:
    with pytest.raises(EncoderError, match=message) as caught:
        resolve_endpoint(url, kind)
    assert "secret" not in str(caught.value)


def test_the_fingerprint_tells_models_apart_and_bears_noise(server: Server) -> None:
    def fingerprint(model: str, path: str = "") -> str:
        return str(encoder_at(server.address + path, model).fingerprint["fingerprint"])

    base = fingerprint("small")
    assert fingerprint("small") == base
    server.noise = 1e-6
    assert fingerprint("small") == base
    server.noise = 0.5
    others = {fingerprint("small"), fingerprint("large"), fingerprint("small", "/embed")}
    assert len(others | {base}) == 4


def test_the_key_is_sent_and_not_kept(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    encoder = encoder_at(server.address, "small", key_variable="MY_KEY")
    assert server.seen[-1]["headers"]["authorization"] == "Bearer sk-very-secret"
    assert "secret" not in json.dumps(encoder.fingerprint)
    encoder_at(server.address, "small")
    assert "authorization" not in {k.lower() for k in server.seen[-1]["headers"]}
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(EncoderError, match="MY_KEY is empty"):
        encoder_at(server.address, "small", key_variable="MY_KEY")


@pytest.mark.parametrize("status", [200, 401])
def test_a_key_that_the_server_sends_back_is_not_shown(
    server: Server, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    body = json.dumps({"error": {"message": "Incorrect API key provided: sk-very-secret."}}).encode()
    server.plan.append((status, {}, body))
    with pytest.raises(EncoderError, match=r"Incorrect API key provided: \[API key\]\.") as raised:
        encoder_at(server.address, "small", key_variable="MY_KEY", retries=0)
    assert "secret" not in str(raised.value)


def test_busy_servers_are_asked_again(server: Server, waits: list[float]) -> None:
    encoder = encoder_at(server.address, "small")
    server.plan = [(429, {"retry-after": "7"}, b"slow down"), (503, {}, b""), (500, {}, b"")]
    np.testing.assert_array_equal(encoder.encode(TEXTS), EXPECTED)
    assert waits == [7.0, 1.0, 2.0]


def test_retry_after_may_be_a_date(server: Server, waits: list[float]) -> None:
    encoder = encoder_at(server.address, "small")
    when = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=30)
    server.plan = [(503, {"retry-after": email.utils.format_datetime(when, usegmt=True)}, b"")]
    encoder.encode(TEXTS)
    assert waits[0] == pytest.approx(29, abs=3)


def test_tries_are_bounded_and_so_is_waiting(server: Server, waits: list[float]) -> None:
    encoder = encoder_at(server.address, "small", retries=2)
    server.plan = [(500, {}, b"")] * 9
    with pytest.raises(EncoderError, match="answered 500, 3 tries"):
        encoder.encode(TEXTS)
    assert len(server.plan) == 6
    server.plan = [(429, {"retry-after": "86400"}, b"")]
    with pytest.raises(EncoderError, match="come back in 86400 s"):
        encoder.encode(TEXTS)
    assert len(waits) == 2


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(401, "API key"), (404, "check the address"), (413, "batch_size=8"), (302, "address")],
)
def test_refusals_are_not_asked_again(server: Server, waits: list[float], status: int, remedy: str) -> None:
    encoder = encoder_at(server.address, "small")
    before = len(server.seen)
    server.plan = [(status, {"location": f"{server.address}/elsewhere"}, b"because\nof that")]
    with pytest.raises(EncoderError, match=f"answered {status}: because of that") as caught:
        encoder.encode(TEXTS)
    assert remedy in str(caught.value)
    assert len(server.seen) == before + 1
    assert waits == []


def drop(answer: Any) -> Any:
    answer["data"].pop()
    return answer


def twice(answer: Any) -> Any:
    answer["data"][0]["index"] = 1
    return answer


def fill(value: Any) -> Callable[[Any], Any]:
    def change(answer: Any) -> Any:
        answer["data"][0]["embedding"] = value
        return answer

    return change


@pytest.mark.parametrize(
    "change",
    [
        drop,
        twice,
        fill([1.0, 2.0]),
        fill([[1.0] * 4]),
        fill([]),
        fill(["a"] * 4),
        fill([1.0, 2.0, 3.0, float("nan")]),
        fill("not base64!"),
        fill(None),
        lambda answer: {"error": "odd"},
        lambda answer: [1, 2],
    ],
)
def test_answers_that_make_no_sense(server: Server, change: Callable[[Any], Any]) -> None:
    encoder = encoder_at(server.address, "small")
    server.change = change
    with pytest.raises(EncoderError) as caught:
        encoder.encode(TEXTS)
    assert server.address in str(caught.value)
    assert "\n" not in str(caught.value)


def test_answers_of_another_dimension_later_on(server: Server) -> None:
    encoder = encoder_at(f"{server.address}/embed", "small")
    server.change = lambda rows: [[*r, 1.0] for r in rows]
    with pytest.raises(EncoderError, match=r"answered \[7, 5\].* \[7, 4\] is due"):
        encoder.encode(TEXTS)


def test_an_endless_answer_is_cut_short(server: Server) -> None:
    encoder = encoder_at(server.address, "small")
    server.plan = [(200, {}, b" " * (module.MAX_BYTES_A_TEXT + 2))]
    with pytest.raises(EncoderError, match="answers more than"):
        encoder.encode(["one"])
    server.plan = [(200, {}, b"<html>")]
    with pytest.raises(EncoderError, match="not JSON"):
        encoder.encode(["one"])


def test_a_server_that_is_not_there(waits: list[float]) -> None:
    with Server() as gone:
        address = gone.address
    with pytest.raises(EncoderError, match=r"cannot be reached .*, 3 tries") as caught:
        encoder_at(address, "small", retries=2, timeout=2)
    assert caught.value.remedy
    assert waits == [0.5, 1.0]


def test_proxies_of_the_environment_are_not_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    encoder = encoder_at(server.address, "small", retries=0)
    np.testing.assert_array_equal(encoder.encode(TEXTS), EXPECTED)


def test_options_out_of_range(server: Server) -> None:
    for options in ({"batch_size": 0}, {"retries": -1}, {"timeout": 0.0}):
        with pytest.raises(EncoderError, match="out of range"):
            encoder_at(server.address, "small", **options)  # type: ignore[arg-type]


def test_shorter_vectors_can_be_asked_for(server: Server) -> None:
    assert encoder_at(server.address, "small", dimensions=2).dimension == 2
    assert server.seen[-1]["body"]["dimensions"] == 2


@pytest.mark.parametrize("path", ["/v1", "/embed"])
def test_dimensions_that_are_asked_for_and_not_given_are_an_error(server: Server, path: str) -> None:
    server.shortens = False
    with pytest.raises(EncoderError, match="2 dimensions were asked for, the server gives 4; leave"):
        encoder_at(server.address + path, "small", dimensions=2)


def test_an_error_in_a_good_answer_is_quoted(server: Server) -> None:
    body = json.dumps({"error": {"message": "model 'small' is still loading", "code": 503}}).encode()
    server.plan.append((200, {}, body))
    with pytest.raises(EncoderError, match=r"answered 200 with an error: .*'small' is still loading"):
        encoder_at(server.address, "small", retries=0)


def test_an_answer_of_another_kind_names_the_option(server: Server) -> None:
    server.change = lambda _: {"vectors": []}
    with pytest.raises(EncoderError, match="--encoder-option kind=openai, or kind=tei"):
        encoder_at(server.address, "small", retries=0)


def test_prompts_and_roles_go_to_the_server(server: Server) -> None:
    plain = encoder_at(server.address, "small")
    config = EncoderConfig(
        "small",
        endpoint=server.address,
        prompt="text: ",
        query_prompt="find: ",
        role="passage",
        query_role="query",
    )
    encoder = load_encoder(config)
    encoder.encode(["No"])
    assert server.seen[-1]["body"]["input"] == ["text: No"]
    assert server.seen[-1]["body"]["input_type"] == "passage"
    encode_queries(encoder, ["No"])
    assert server.seen[-1]["body"]["input"] == ["find: No"]
    assert server.seen[-1]["body"]["input_type"] == "query"
    described = encoder.fingerprint
    assert (described["prompt"], described["role"]) == ("text: ", "passage")
    assert described["fingerprint"] != plain.fingerprint["fingerprint"]
    assert "input_type" not in server.seen[0]["body"]
    tei = encoder_at(f"{server.address}/embed", "any", role="document")
    encode_queries(tei, ["No"])
    assert server.seen[-1]["body"]["prompt_name"] == "document"
