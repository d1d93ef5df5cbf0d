"""Starting the processes of a run on one machine: as torchrun would, but from anywhere `train` is called,
with the errors of this package, and with one Ctrl-C for all."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from logging import INFO, LogRecord, getLogger
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from nextvec.errors import NextvecError, NextvecWarning
from nextvec.interrupt import TrainingInterrupted
from nextvec.training.distributed import PeerLostError

GRACE_S, END_S = 20.0, 5.0
"""How long processes have to end by themselves when one has failed, and how long after they were told to."""


def launch(
    work: Callable[..., Any],
    arguments: tuple[Any, ...],
    count: int,
    out: Path,
    hear: Callable[[Any], None] | None = None,
) -> Any:
    """Run work(tell, *arguments) in `count` new processes, and return what the first returns.

    All end when one fails or this process does; a signal that it receives is handed to each.

    Args:
        work: a function of a module. What it tells is heard by `hear`, here.
        out: the run, for errors.
    Raises:
        NextvecError: what the first of them to fail raised.
        PeerLostError: one was killed.
    """
    context = multiprocessing.get_context("spawn")
    meeting = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    children: dict[Connection, SpawnProcess] = {}
    received: list[int] = []

    def forward(signum: int, frame: FrameType | None = None) -> None:
        received.append(signum)
        for child in children.values():
            if child.pid is not None and child.is_alive():
                os.kill(child.pid, signum)

    kinds = (signal.SIGINT, signal.SIGTERM)
    main = threading.current_thread() is threading.main_thread()
    before = {kind: signal.signal(kind, forward) for kind in kinds if main}
    reports: dict[str, list[Any]] = {"result": [], "stopped": [], "error": [], "lost": []}
    try:
        for rank in range(count):
            ours, theirs = context.Pipe(duplex=False)
            child = context.Process(target=_child, args=(rank, count, meeting.port, theirs, work, arguments))
            child.start()
            theirs.close()
            children[ours] = child
        _listen(children, reports, hear)
    finally:
        _end(list(children.values()))
        for kind, handler in before.items():
            signal.signal(kind, handler)
    return _outcome(reports, list(children.values()), received, out)


def _listen(
    children: Mapping[Connection, SpawnProcess],
    reports: dict[str, list[Any]],
    hear: Callable[[Any], None] | None,
) -> None:
    """Until all have ended, or some have not although one failed a while ago."""
    open_, until = dict(children), None
    while open_:
        left = None if until is None else max(until - time.monotonic(), 0)
        ready = wait(list(open_), left)
        if not ready:
            return
        for pipe in ready:
            assert isinstance(pipe, Connection)
            try:
                kind, what = pipe.recv()
            except (EOFError, OSError):
                child = open_.pop(pipe)
                child.join()
                if child.exitcode and not reports["stopped"]:
                    until = until or time.monotonic() + GRACE_S
                continue
            if kind == "log":
                if (log := getLogger(what.name)).isEnabledFor(what.levelno):
                    log.handle(what)
            elif kind == "warning":
                warnings.warn(what, NextvecWarning, stacklevel=2)
            elif kind == "message":
                if hear is not None:
                    hear(what)
            else:
                reports[kind].append(what)


def _end(children: Sequence[SpawnProcess]) -> None:
    for act in (SpawnProcess.terminate, SpawnProcess.kill):
        for child in children:
            if child.is_alive():
                act(child)
        until = time.monotonic() + END_S
        for child in children:
            child.join(max(until - time.monotonic(), 0))


def _outcome(
    reports: Mapping[str, list[Any]], children: Sequence[SpawnProcess], received: Sequence[int], out: Path
) -> Any:
    for kind in ("error", "stopped"):
        if reports[kind]:
            raise _rebuilt(*reports[kind][0])
    if reports["result"] and not any(child.exitcode for child in children):
        return reports["result"][0]
    if received:  # before any of them was ready to be asked to stop
        raise KeyboardInterrupt if received[0] == signal.SIGINT else SystemExit(128 + received[0])
    failed = [(rank, child.exitcode) for rank, child in enumerate(children) if child.exitcode not in (0, 2)]
    for rank, code in failed:
        how = f"was ended by {signal.Signals(-code).name}" if code and code < 0 else "failed"
        raise PeerLostError(
            f"process {rank} of {len(children)} {how}", where=out, remedy="go on with --resume"
        )
    raise _rebuilt(*reports["lost"][0])


def _rebuilt(kind: type[NextvecError], message: str, where: str, remedy: str, code: int) -> NextvecError:
    error = kind.__new__(kind)
    NextvecError.__init__(error, message, where=where, remedy=remedy)
    error.exit_code = code
    return error


class _Forwarded(QueueHandler):
    """Log records go through the pipe."""

    def enqueue(self, record: LogRecord) -> None:
        self.queue.send(("log", record))  # type: ignore[attr-defined]


def _child(
    rank: int, count: int, port: int, pipe: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    """One process: its place among the others, as torchrun would tell it, and then the work."""
    os.setpgid(0, 0)  # a terminal's Ctrl-C comes to the parent alone, which hands it on once
    threading.Thread(target=_end_with_parent, daemon=True).start()
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": True}
    torchrun = {"TORCHELASTIC_RUN_ID": "nextvec", "TORCHELASTIC_RESTART_COUNT": 0, "GROUP_RANK": 0}
    os.environ.update({key: str(value) for key, value in {**places, **meeting, **torchrun}.items()})
    torch.set_num_threads(max(1, torch.get_num_threads() // count))
    getLogger("nextvec").setLevel(INFO)
    getLogger("nextvec").addHandler(_Forwarded(pipe))  # type: ignore[arg-type]
    getLogger("nextvec").propagate = False
    if rank == 0:
        warnings.showwarning = lambda message, *_, **__: pipe.send(("warning", str(message)))
    try:
        result = work(lambda what: pipe.send(("message", what)), *arguments)
    except NextvecError as e:
        kind = {PeerLostError: "lost", TrainingInterrupted: "stopped"}.get(type(e), "error")
        pipe.send((kind, (type(e), e.message, e.where, e.remedy, e.exit_code)))
        raise SystemExit(e.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    if rank == 0:
        pipe.send(("result", result))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
