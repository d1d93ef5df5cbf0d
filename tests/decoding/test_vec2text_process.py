"""The process that vec2text runs in, played by small scripts: what it may do wrong, and that it goes."""

from __future__ import annotations

import gc
import os
import sys
import time
from pathlib import Path

import pytest

from nextvec.decoding.vec2text.setup import vec2text_process
from nextvec.errors import DecoderError
from nextvec.json_process import JsonProcess, _Running

HELLO = "import json, sys, time\nprint(json.dumps({'hello': 1}), flush=True)\n"
ECHO = HELLO + "for line in sys.stdin: print(line.strip(), flush=True)\n"
ONCE = HELLO + "sys.stdin.readline()\nprint('{}', flush=True)\ntime.sleep(60)\n"


def worker(script: str, timeout: float = 20.0) -> JsonProcess:
    return vec2text_process([sys.executable, "-I", "-S", "-c", script], timeout)


def is_running(pid: int | None) -> bool:
    assert pid is not None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_starts_with_the_first_question_and_ends_when_closed() -> None:
    with worker(ECHO) as process:
        assert process.pid is None
        assert process.ask({"text": "ü"}) == {"text": "ü"}
        pid = process.pid
        assert process.start() == {"hello": 1}
        assert process.ask({"n": 2}) == {"n": 2}
        assert process.pid == pid
        scratch = Path(f"/proc/{pid}/cwd").readlink() if Path("/proc").exists() else None
    assert not is_running(pid)
    assert scratch is None or not scratch.exists()


def test_a_large_question_passes() -> None:
    with worker(ECHO) as process:
        assert process.ask({"vectors": "a" * 2**20}) == {"vectors": "a" * 2**20}


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("import sys; sys.exit('ModuleNotFoundError: torch')", r"ended \(ModuleNotFoundError: torch\)"),
        ("", r"ended \(exit code 0, no word on it\)"),
        ("print('Hello there', flush=True)", r"wrote b'Hello there\\n'"),
        ("print('[1]', flush=True)", r"wrote b'\[1\]\\n'"),
        (
            "import json; print(json.dumps({'error': 'ValueError: no tensor'}))",
            "vec2text: ValueError: no tensor",
        ),
    ],
    ids=["dies", "ends", "no JSON", "no object", "refuses"],
)
def test_a_start_that_fails_is_told_in_a_line_and_leaves_nothing(script: str, says: str) -> None:
    process = worker(script)
    with pytest.raises(DecoderError, match=says) as caught:
        process.ask({})
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    assert process.pid is None


def test_an_error_is_passed_on_and_the_process_stays() -> None:
    script = HELLO + "print('{\"error\": \"RuntimeError: first\"}')\nprint('{}', flush=True)\ntime.sleep(60)"
    with worker(script) as process:
        process.start()
        pid = process.pid
        with pytest.raises(DecoderError, match="vec2text: RuntimeError: first"):
            process.ask({})
        assert process.ask({}) == {}
        assert process.pid == pid


def test_dying_between_questions() -> None:
    with worker(HELLO + "sys.stderr.write('Killed by the kernel\\n')") as process:
        process.start()
        with pytest.raises(DecoderError, match=r"ended \(Killed by the kernel\)"):
            process.ask({})
        assert process.start() == {"hello": 1}, "the next question starts another"


def test_silence_is_cut_short_and_the_next_question_starts_another() -> None:
    with worker(ONCE) as process:
        assert process.ask({}) == {}
        pid = process.pid
        process.timeout = 0.3
        started = time.monotonic()
        with pytest.raises(DecoderError, match=r"no answer within 0\.3 s; its process was stopped"):
            # More than a pipe holds: to write it must not block either.
            process.ask({"vectors": "a" * 2**20})
        assert time.monotonic() - started < 10
        assert not is_running(pid)
        process.timeout = 20.0
        assert process.ask({}) == {}
        assert process.pid != pid


def test_an_interrupt_stops_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with worker(ECHO) as process:
        process.start()
        pid = process.pid

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(_Running, "exchange", interrupt)
        with pytest.raises(KeyboardInterrupt):
            process.ask({})
        assert not is_running(pid)


def test_it_goes_with_its_owner() -> None:
    process = worker(ECHO)
    process.start()
    pid = process.pid
    del process
    gc.collect()
    assert not is_running(pid)
