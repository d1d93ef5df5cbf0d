"""The installed `nextvec` command, run in this process as the shell would, and what it says."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.metadata import entry_points
from typing import Any

import torch

from nextvec.errors import MissingDependencyError, NextvecError
from nextvec.selfcheck.faults.fault import Seen, Sign

WARNING = "nextvec: warning: "


def command(*arguments: object) -> Seen:
    """Run a verb; `--json -` makes its verdicts, checks and notes signs.

    Signs: an error or warning by its class; "verdict <name>" of what is red or a warning; "check <name>" of a
    red check; "note" of a table's notes.
    """
    run = _installed()
    out, err = io.StringIO(), io.StringIO()
    signs, code = [], 0
    with _fresh_process(), redirect_stdout(out), redirect_stderr(err):
        try:
            run([str(a) for a in arguments])
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else int(left.code is not None)
            if isinstance(left.__context__, NextvecError):
                signs.append(Sign(type(left.__context__).__name__, str(left.__context__)))
    said = err.getvalue()
    lines = [line for line in said.splitlines() if line.startswith(WARNING)]
    signs += [Sign("NextvecWarning", line.removeprefix(WARNING)) for line in lines]
    if code and not signs:
        signs.append(Sign("exit", said.strip() or out.getvalue().strip()[-200:]))
    if "--json" in arguments and out.getvalue():
        signs += _figures(json.loads(out.getvalue()))
    return Seen(code, tuple(signs))


def refused(work: Callable[[], object]) -> Seen:
    """The same for a call of a public function: its error and its warnings as signs."""
    signs, code = [], 0
    with _fresh_process(), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            work()
        except NextvecError as error:
            code, signs = error.exit_code, [Sign(type(error).__name__, str(error))]
    signs += [Sign(w.category.__name__, str(w.message)) for w in warned]
    return Seen(code, tuple(signs))


def _figures(found: dict[str, Any]) -> list[Sign]:
    verdicts = [v for v in found.get("verdicts", []) if v["level"] in ("warning", "red")]
    checks = [c for c in found.get("checks", []) if c["status"] == "RED"]
    return [
        *(Sign(f"verdict {v['name']}", v["text"]) for v in verdicts),
        *(Sign(f"check {c['name']}", c["text"]) for c in checks),
        *(Sign("note", note) for note in found.get("notes", [])),
    ]


def _installed() -> Callable[[list[str]], None]:
    """The function behind the console script: what a user starts."""
    found = [e for e in entry_points(group="console_scripts", name="nextvec") if e.dist is not None]
    if not found:
        raise MissingDependencyError(
            "the command `nextvec` is not installed here", remedy="install the package: pip install nextvec"
        )
    run: Callable[[list[str]], None] = found[0].load()
    return run


@contextmanager
def _fresh_process() -> Iterator[None]:
    """What a command sets for its whole process is put back afterwards; its log lines are not shown."""
    root, ours = logging.getLogger(), logging.getLogger("nextvec")
    handlers, level, own_level = root.handlers[:], root.level, ours.level
    threads = torch.get_num_threads()
    root.handlers = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        try:
            yield
        finally:
            root.handlers = handlers
            root.setLevel(level)
            ours.setLevel(own_level)
            torch.set_num_threads(threads)
