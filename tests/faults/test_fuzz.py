"""Bytes, configurations and command lines that nobody would write: a typed error or an answer."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from faults.hostile import TARGETS, attempt
from nextvec.cli.main import run
from nextvec.config import merge, parse_assignments
from nextvec.corpus.chunking import CHUNKERS, make_chunker
from nextvec.errors import NextvecError
from nextvec.training.config import make_config

HOSTILE = [
    b"",
    b"\0",
    b"\xff",
    b"[" * 3000,
    b"{" * 3000,
    b"<" * 300,
    b"9" * 5000,
    b"-1",
    b"1e999",
    b"NaN",
    b"null",
    b"\n",
]
piece = st.sampled_from(HOSTILE) | st.binary(max_size=12)
change = st.tuples(st.floats(0, 1), st.integers(0, 40), piece)
text = st.text(max_size=30) | st.sampled_from(
    ["\0", "\u2028", "A" * 5000, "9" * 5000, "-1", "1e999", "nan", "[" * 900]
)


def changed(good: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    """Some places of it overwritten, longer or shorter than before."""
    for where, length, new in changes:
        at = round(where * len(good))
        good = good[:at] + new + good[at + length :]
    return good


def read_changed(name: str, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(change, min_size=1, max_size=4))
    def search(changes: list[tuple[float, int, bytes]]) -> None:
        assert "\n" not in attempt(name, changed(TARGETS[name][0], changes))

    search()


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_changed_is_read_or_refused(name: str) -> None:
    TARGETS[name][1](TARGETS[name][0])
    read_changed(name, 25)


@pytest.mark.faults
@pytest.mark.parametrize("name", TARGETS)
def test_whatever_was_changed_is_read_or_refused(name: str, tally: Any) -> None:
    with tally(f"hostile bytes: {name}") as injections, injections.attempt(name):
        injections.tried += 1499
        read_changed(name, 1500)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([kind for kind in CHUNKERS if kind != "tokens"]), text, st.integers(-2, 50))
def test_chunkers_cut_anything(kind: str, given_text: str, size: int) -> None:
    try:
        chunks = make_chunker(kind, {} if size > 40 else {"max_words": size}).chunk(given_text)
    except NextvecError:
        return
    assert all(given_text[c.start : c.end] == c.text for c in chunks)


KEYS = ["optim.lr", "optim.epochs", "data.context", "data.horizons", "loss.mse", "model", "optim"]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["optim.lr", "optim.epochs", "data.context", "data.horizons", "loss.mse", "model", "optim"]
            )
            | text,
            text | st.integers().map(str) | st.floats().map(str),
        ),
        max_size=3,
    )
)
@example([("optim.lr", "true")])
@example([("model.name", "[]"), ("data", "3")])
def test_configurations_are_read_or_refused(given_flags: list[tuple[str, str]]) -> None:
    with contextlib.suppress(NextvecError):
        assignments = parse_assignments(f"{key}={value}" for key, value in given_flags)
        assert make_config("default", merge({"model": {"name": "lstm"}}, assignments)).optim.lr > 0


FLAGS = ["--json", "--quiet", "--seed", "--context", "--set", "-", "--", "--no-such", "a=b"]
words = st.sampled_from(["nowhere", *FLAGS]) | text.filter(lambda word: "h" not in word)  # -h is no error
VERBS = [
    "info",
    "train",
    "evaluate",
    "doctor",
    "ingest",
    "export",
    "report",
    "card",
    "verify",
    "matrix",
    "sweep",
    "prune",
]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[list[str]], tuple[object, str]]:
    """ask(arguments): exit code and standard error of a command, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.root, "handlers", [logging.NullHandler()])

    def call(arguments: list[str]) -> tuple[object, str]:
        error = io.StringIO()
        with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
            try:
                run(arguments)
            except SystemExit as left:
                return left.code, error.getvalue()
        return 0, error.getvalue()

    return call


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(VERBS), st.lists(words, max_size=4))
def test_a_command_line_is_one_line_of_error(
    ask: Callable[[list[str]], tuple[object, str]], verb: str, given_words: list[str]
) -> None:
    code, error = ask([verb, "nowhere", *given_words])
    assert code == 2, (code, error)
    assert error.startswith("nextvec: error: ")
    assert error.count("\n") == 1
