"""A process that runs commands of nextvec in children and injects faults at a moment of its choice.

One JSON line in: {"args": [...], "root": folder} and one of the injections, the others null. The child counts
everything it is about to do to the disk under `root` (open a file for writing, fsync, rename, mkdir, unlink,
rmdir). At the `at`-th it dies as by kill -9: a file that was to be made durable is cut to half before, as a
crash may leave it. From the `full`-th on nothing more can be written: the disk is full. The `broken`-th alone
is an input/output error. With `readonly` the file system can only be read. No file may grow over `limit`
bytes. After `after` seconds of processor time it dies wherever it is. One JSON line out: {"code": exit code
or -9, "events": [...], "error": standard error}.

It imports everything once and computes nothing itself, so that a child costs a fork and not a start; what a
child imported besides is imported for the next ones. Nothing waits for the disk: fsync is counted, not done.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import resource
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from nextvec.errors import NextvecError

CALLS = ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Moments:
    """Counts what the child does to the disk under `root`, and ends it or refuses at the moment asked for."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.root, self.at, self.full = order["root"], order["at"], order["full"]
        self.broken, self.readonly = order["broken"], order["readonly"]
        self.events: list[tuple[str, str, str]] = []

    def meet(self, what: str, target: Any, destination: Any = "") -> None:
        if isinstance(target, int):
            try:
                target = Path(f"/proc/self/fd/{target}").readlink()
            except OSError:
                return
        # As the system has it: of a descriptor the error says no name.
        named = () if what == "fsync" else (os.fsdecode(target),)
        path = str(Path(os.fsdecode(target)).absolute())
        if not path.startswith(self.root):
            return
        to = str(Path(os.fsdecode(destination)).absolute())[len(self.root) :] if destination else ""
        self.events.append((what, path[len(self.root) :], to))
        if self.at is not None and len(self.events) >= self.at:
            if what == "fsync" and Path(path).is_file():
                os.truncate(path, Path(path).stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        if self.full is not None and len(self.events) >= self.full and what in ("open", "fsync", "mkdir"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *named)
        if self.readonly:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), *named)
        if len(self.events) == self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO), *named)

    def install(self) -> None:
        def hook(event: str, details: tuple[Any, ...]) -> None:
            if event == "open" and isinstance(details[2], int) and details[2] & WRITES:
                self.meet("open", details[0])

        sys.addaudithook(hook)
        for name in CALLS:
            setattr(os, name, self._before(name, getattr(os, name)))

    def _before(self, name: str, call: Any) -> Any:
        def wrapped(target: Any, *rest: Any, **options: Any) -> Any:
            self.meet(name, target, *(rest if name in ("replace", "rename") else ()))
            return None if name == "fsync" else call(target, *rest, **options)

        return wrapped


def child(order: dict[str, Any], result: Path, errors: Path) -> None:
    """Run the command; what it did and how it ended is written to the two files."""
    from nextvec.cli.main import run
    from nextvec.corpus.store import Store
    from nextvec.retrieval.backends import open_index

    for fd, file in ((1, Path(os.devnull)), (2, errors)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), fd)
    torch.set_num_threads(1)
    imported = set(sys.modules)
    moments = Moments(order)
    moments.install()
    if order["after"] is not None:  # its signal ends a process that does not handle it, at any instruction
        signal.setitimer(signal.ITIMER_PROF, order["after"])
    if order["limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["limit"], resource.RLIM_INFINITY))
    code = 0
    try:
        verb, *given = order["args"]
        if verb == "index":  # what `nextvec retrieve` begins with, before it loads an encoder
            open_index(given[0], Store.open(given[1]))
        else:
            run(order["args"])
    except SystemExit as e:
        code = int(e.code or 0)
    except NextvecError as e:
        sys.stderr.write(f"{e}\n")
        code = e.exit_code
    except BaseException:  # noqa: BLE001 - a traceback is what the caller looks for
        import traceback

        traceback.print_exc()
        code = 1
    moments.root = "\0"
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    signal.setitimer(signal.ITIMER_PROF, 0)
    spent = resource.getrusage(resource.RUSAGE_SELF)
    output = {"code": code, "events": moments.events, "seconds": spent.ru_utime + spent.ru_stime}
    result.write_text(json.dumps({**output, "imported": sorted(set(sys.modules) - imported)}))
    sys.stderr.flush()
    os._exit(0)


def main() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        with tempfile.TemporaryDirectory() as folder:
            result, errors = Path(folder) / "result", Path(folder) / "errors"
            pid = os.fork()
            if pid == 0:
                child(json.loads(line), result, errors)
            _, status = os.waitpid(pid, 0)
            done = json.loads(result.read_text()) if result.exists() else {"code": -9, "events": []}
            done["status"] = status
            for name in done.pop("imported", ()):
                with contextlib.suppress(Exception):
                    importlib.import_module(name)
            done["error"] = errors.read_text() if errors.exists() else ""
        sys.stdout.write(json.dumps(done) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
