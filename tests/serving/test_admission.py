"""Who is let in, told by a clock of the test."""

from __future__ import annotations

from typing import Any

import pytest

from nextvec.errors import ConfigError
from nextvec.serving.errors import Refusal
from nextvec.serving.served_models import ServedModel, ServedModels
from nextvec.serving.settings import AllowedHosts, ApiKeys, Settings
from nextvec.serving.work import AdmissionQueue


def busy(queue: AdmissionQueue, seconds: float, answers: int, start: float = 0.0) -> float:
    """One after the other, each taking so long, while one more waits; the time after them."""
    queue.enter(start)
    for i in range(answers):
        queue.enter(start + i * seconds)
        queue.leave(start + (i + 1) * seconds, answered=True)
    end = start + answers * seconds
    queue.leave(end, answered=False)
    return end


def test_more_than_the_limit_are_not_let_in_until_one_leaves() -> None:
    queue = AdmissionQueue(2, 10.0)
    queue.enter(0.0)
    queue.enter(0.0)
    with pytest.raises(Refusal) as found:
        queue.enter(0.0)
    assert (found.value.status, found.value.retry_after) == (429, 1)
    queue.leave(1.0, answered=True)
    queue.enter(1.0)
    assert queue.under_way == 2


def test_who_would_wait_too_long_is_refused_and_told_how_long() -> None:
    queue = AdmissionQueue(100, 4.0)
    now = busy(queue, 2.0, 5)
    for _ in range(3):
        queue.enter(now)
    assert queue.expected_wait == pytest.approx(6.0)
    with pytest.raises(Refusal) as found:
        queue.enter(now)
    assert found.value.retry_after == 6


def test_an_empty_queue_lets_one_in_however_slow_the_last_was() -> None:
    queue = AdmissionQueue(100, 0.1)
    for now in (0.0, 60.0, 120.0, 180.0):
        queue.enter(now)
        queue.leave(now + 60.0, answered=True)
    queue.enter(240.0)
    assert queue.under_way == 1
    with pytest.raises(Refusal) as found:
        queue.enter(240.0)
    assert found.value.retry_after == 60


def test_what_one_took_says_nothing_of_a_crowd_that_is_answered_together() -> None:
    queue = AdmissionQueue(100, 1.0)
    for now in range(5):
        queue.enter(float(now))
        queue.leave(now + 0.3, answered=True)
    for _ in range(32):
        queue.enter(10.0)
    assert queue.under_way == 32
    assert queue.expected_wait == pytest.approx(32 * 0.3)


def test_a_stall_counts_for_all_that_it_held_up() -> None:
    queue = AdmissionQueue(100, 1.0)
    for start in range(5):
        for _ in range(32):
            queue.enter(float(start))
        stall = 0.3 if start == 3 else 0.02
        for i in range(32):
            queue.leave(start + stall + i * 1e-5, answered=True)
    for _ in range(40):
        queue.enter(10.0)
    assert queue.expected_wait < 1.0


def test_a_pause_of_the_clients_is_not_slowness() -> None:
    queue = AdmissionQueue(100, 1.0)
    now = busy(queue, 0.01, 50)
    before = queue._seconds
    queue.enter(now + 3600)
    queue.leave(now + 3600.01, answered=True)
    busy(queue, 0.01, 50, now + 7200)
    assert queue._seconds == pytest.approx(before, rel=0.2)


def test_the_answers_of_one_batch_have_the_pace_of_the_batch() -> None:
    queue = AdmissionQueue(100, 10.0)
    for start in range(20):
        for _ in range(32):
            queue.enter(float(start))
        for i in range(32):
            queue.leave(start + 0.32 + i * 1e-6, answered=True)
    assert queue._seconds == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"Bearer",
        b"Bearer wrong-key-0123456789",
        b"Basic secret-key-0123456789",
        b"secret-key-0123456789",
    ],
)
def test_a_wrong_key_opens_nothing(given: bytes) -> None:
    keys = ApiKeys(["secret-key-0123456789"])
    with pytest.raises(Refusal) as found:
        keys.check("/v1/predict", [(b"authorization", given)])
    assert found.value.status == 401
    keys.check("/health/live", [])
    keys.check("/v1/predict", [(b"authorization", b"bearer secret-key-0123456789")])


@pytest.mark.parametrize(
    ("name", "value"),
    [("port", 65536), ("max_body", 10), ("queue", 0), ("api_keys", ("short",)), ("cors_origins", ("*",))],
)
def test_settings_that_cannot_be_meant_are_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError):
        Settings(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("default", "split", "says"),
    [
        ("c", {}, "no model 'c'"),
        (None, {"c": 1.0}, "no model 'c'"),
        (None, {"a": 0.5, "b": 0.4}, "sum to 1"),
        (None, {"a": 1.5, "b": -0.5}, "sum to 1"),
        ("a", {"a": 0.5, "b": 0.5}, "default beside a split"),
    ],
)
def test_shares_that_cannot_be_meant_are_refused(
    run: object, default: str | None, split: dict[str, float], says: str
) -> None:
    models = [ServedModel(name, run) for name in "ab"]  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=says):
        ServedModels(models, default, split)


def test_names_that_headers_cannot_carry_are_refused(run: object) -> None:
    for name in ("a b", "ä", "", "a\r\nx: y", "a/b"):
        with pytest.raises(ConfigError, match="not a name for a model"):
            ServedModels([ServedModel(name, run)])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="two models"):
        ServedModels([ServedModel("a", run), ServedModel("a", run)])  # type: ignore[arg-type]


def test_a_key_sticks_to_its_arm_and_shares_are_kept(run: object) -> None:
    models = ServedModels(
        [ServedModel(name, run) for name in "ab"],  # type: ignore[arg-type]
        split={"a": 0.8, "b": 0.2},
    )
    arms = {key: models.choose(sticky=key)[1] for key in map(str, range(2000))}
    assert all(models.choose(sticky=key)[1] == arm for key, arm in arms.items())
    assert sum(arm == "b" for arm in arms.values()) / 2000 == pytest.approx(0.2, abs=0.03)
    drawn = [models.choose()[1] for _ in range(2000)]
    assert drawn.count("b") / 2000 == pytest.approx(0.2, abs=0.05)
    assert models.choose("b", "x")[1] is None


def refused_host(named: bytes, **settings: Any) -> bool:
    try:
        AllowedHosts(Settings(**settings)).check([(b"host", named)])
    except Refusal as refusal:
        return (refusal.status, refusal.code) == (421, "host_not_allowed")
    return False


def test_a_page_cannot_make_its_own_name_the_servers() -> None:
    for host in (b"localhost", b"localhost:8000", b"127.0.0.1:8000", b"[::1]:8000", b"LOCALHOST"):
        assert not refused_host(host)
    for host in (b"evil.example", b"evil.example:8000", b"localhost.evil.example", b"", b"[::2]", b"\xff"):
        assert refused_host(host)
        assert not refused_host(host, host="0.0.0.0")  # noqa: S104
        assert not refused_host(host, api_keys=("k" * 16,))
        assert refused_host(host, host="0.0.0.0", allowed_hosts=("models.example",))  # noqa: S104
    assert not refused_host(b"Models.example:80", allowed_hosts=("models.example",))
    assert refused_host(b"localhost", allowed_hosts=("models.example",))
