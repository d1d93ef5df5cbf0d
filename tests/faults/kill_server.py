"""A process that runs commands of nextvec in children and kills them at a moment of its choice.

One JSON line in: {"args": [...], "root": folder, "at": n, "full": n, "limit": bytes}, each of the last three
or null. The child counts everything it is about to do to the disk under `root` (open a file for writing,
fsync, rename, mkdir, unlink, rmdir). At the `at`-th it dies as by kill -9: a file that was to be made durable
is cut to half before, as a crash may leave it. From the `full`-th on nothing more can be written: the disk is
full. No file may grow over `limit`. One JSON line out: {"code": exit code or -9, "events": [...], "error":
standard error}.

It imports everything once and computes nothing itself, so that a child costs a fork and not a start.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import nextvec.cli.ingest
import nextvec.cli.train
import nextvec.corpus.encoders.sentence_transformer
import nextvec.corpus.imports
import nextvec.experiments.matrix
import nextvec.inference.export
import nextvec.reporting.report
import nextvec.retrieval.faiss  # noqa: F401 - imported for the children

CALLS = ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Moments:
    """Counts what the child does to the disk under `root`, and ends it or refuses at the moment asked for."""

    def __init__(self, root: str, at: int | None, full: int | None) -> None:
        self.root, self.at, self.full = root, at, full
        self.events: list[str] = []

    def meet(self, what: str, target: Any) -> None:
        if isinstance(target, int):
            try:
                target = Path(f"/proc/self/fd/{target}").readlink()
            except OSError:
                return
        path = str(Path(os.fsdecode(target)).absolute())
        if not path.startswith(self.root):
            return
        self.events.append(f"{what} {path[len(self.root) :]}")
        if self.at is not None and len(self.events) >= self.at:
            if what == "fsync" and Path(path).is_file():
                os.truncate(path, Path(path).stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        if self.full is not None and len(self.events) >= self.full and what in ("open", "fsync", "mkdir"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def install(self) -> None:
        def hook(event: str, details: tuple[Any, ...]) -> None:
            if event == "open" and isinstance(details[2], int) and details[2] & WRITES:
                self.meet("open", details[0])

        sys.addaudithook(hook)
        for name in CALLS:
            setattr(os, name, self._before(name, getattr(os, name)))

    def _before(self, name: str, call: Any) -> Any:
        def wrapped(target: Any, *rest: Any, **options: Any) -> Any:
            self.meet(name, target)
            return call(target, *rest, **options)

        return wrapped


def child(order: dict[str, Any], result: Path, errors: Path) -> None:
    """Run the command; what it did and how it ended is written to the two files."""
    from nextvec.cli.main import run

    for fd, file in ((1, Path(os.devnull)), (2, errors)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), fd)
    torch.set_num_threads(1)
    moments = Moments(order["root"], order["at"], order["full"])
    moments.install()
    if order["limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["limit"], resource.RLIM_INFINITY))
    code = 0
    try:
        run(order["args"])
    except SystemExit as e:
        code = int(e.code or 0)
    except BaseException:  # noqa: BLE001 - a traceback is what the caller looks for
        import traceback

        traceback.print_exc()
        code = 1
    moments.root = "\0"
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    result.write_text(json.dumps({"code": code, "events": moments.events}))
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
            done["error"] = errors.read_text() if errors.exists() else ""
        sys.stdout.write(json.dumps(done) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
