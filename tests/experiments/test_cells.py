"""A matrix trained by several processes at a time is stopped like any other: everything is saved, and the
same command goes on to the table of a matrix that nobody stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nextvec.corpus.store import Store
from nextvec.training.history import HISTORY
from nextvec.training.loop import METRICS

CELLS = ("lstm-seed0", "gru-seed0", "mlp-seed0")
EPOCHS = 30
FLAGS = [
    "--models=lstm,gru,mlp", "--device=cpu", "--precision=float32", f"--epochs={EPOCHS}",
    "--batch-size=4", "--lr=0.001", "--set=model.options.hidden=16", "--set=runtime.threads=1",
    "--set=optim.patience=0", "--no-speed", "--quiet", "--baselines=copy-last",
]  # fmt: skip
PATIENCE_S = 1800.0  # only a process that hangs takes so long


def start(world: Store, out: Path, *more: str, jobs: int = 2) -> subprocess.Popen[str]:
    """The command in a process group of its own, as a terminal gives it."""
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "nextvec",
            "matrix",
            str(world.path),
            "--out",
            str(out),
            f"--jobs={jobs}",
            *FLAGS,
            *more,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code and standard error."""
    try:
        _, output = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    return process.returncode, output


def workers_of(pid: int) -> list[int]:
    """The training processes of a matrix."""
    listed = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,ppid=,command="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    return [int(row[0]) for row in rows if int(row[1]) == pid and "spawn_main" in row[2]]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.02)


def figures(out: Path) -> dict[str, Any]:
    """What the table says, without what depends on the clock."""
    table = json.loads((out / "matrix.json").read_text())
    assert table["failed"] == {}
    return {
        row["name"]: [
            {key: seed[key] for key in ("name", "cosine", "mse", "mrr")}
            for seed in row.get("per_seed", [row])
        ]
        for row in table["rows"]
    }


@pytest.fixture(scope="module")
def unstopped(world: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The figures of a matrix that nobody stops."""
    out = tmp_path_factory.mktemp("matrices") / "unstopped"
    code, output = finish(start(world, out))
    assert (code, [line for line in output.splitlines() if "training on" not in line]) == (0, [])
    found = figures(out)
    assert found.keys() == {"copy-last", "lstm", "gru", "mlp"}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_matrix_of_several_processes_goes_on_to_the_same_table(
    world: Store, tmp_path: Path, unstopped: dict[str, Any], signum: signal.Signals
) -> None:
    out = tmp_path / "m"
    process = start(world, out)
    wait_for(lambda: len(list(out.glob(f"runs/*/{HISTORY}"))) >= 2, process)
    # Ctrl-C reaches the whole group of the terminal's, SIGTERM the one process that it is sent to.
    (os.killpg if signum == signal.SIGINT else os.kill)(process.pid, signum)
    code, output = finish(process)
    assert code == 128 + signum, output
    last = output.splitlines()[-1]
    assert last == (
        f"nextvec: {out}: stopped by {signum.name}, every run is saved; "
        "give the same command again to continue"
    )
    assert "Traceback" not in output
    assert not (out / "matrix.json").exists()
    begun = [name for name in CELLS if (out / "runs" / name).exists()]
    unfinished = [name for name in begun if not (out / "runs" / name / METRICS).exists()]
    assert unfinished, "it was stopped while something was trained"
    for name in unfinished:
        assert (out / "runs" / name / "last" / "checkpoint.safetensors").is_file()
        assert not (out / "runs" / name / "error.txt").exists()
    lengths = {name: len((out / "runs" / name / HISTORY).read_text().splitlines()) for name in begun}
    code, output = finish(start(world, out))
    assert code == 0, output
    for name, length in lengths.items():
        history = (out / "runs" / name / HISTORY).read_text().splitlines()
        assert len(history) == EPOCHS
        assert length <= EPOCHS
    assert figures(out) == unstopped


@pytest.mark.slow
def test_a_worker_that_is_killed_is_told_and_the_others_are_kept(world: Store, tmp_path: Path) -> None:
    out = tmp_path / "m"
    process = start(world, out)
    wait_for(lambda: len(list(out.glob(f"runs/*/{HISTORY}"))) >= 2, process)
    workers = workers_of(process.pid)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    code, output = finish(process)
    assert code == 2
    assert output.splitlines()[-1] == (
        f"nextvec: error: {out}: a training process was killed; give it more memory or fewer --jobs"
    )


@pytest.mark.slow
def test_two_processes_share_a_matrix_and_one_is_killed(
    world: Store, tmp_path: Path, unstopped: dict[str, Any]
) -> None:
    out = tmp_path / "m"
    helper = start(world, out, "--join", jobs=1)
    wait_for(lambda: list(out.glob(f"runs/*/{HISTORY}")), helper)
    os.kill(helper.pid, signal.SIGSTOP)  # in the midst of a run, which stays locked
    (name,) = [run.name for run in (out / "runs").iterdir() if not (run / METRICS).exists()]
    owner = start(world, out, jobs=1)
    others = [other for other in CELLS if other != name]
    wait_for(lambda: all((out / "runs" / other / METRICS).exists() for other in others), owner)
    assert not (out / "runs" / name / METRICS).exists(), "it waits for what another trains"
    before = len((out / "runs" / name / HISTORY).read_text().splitlines())
    helper.kill()
    code, output = finish(owner)
    assert code == 0, output
    assert len((out / "runs" / name / HISTORY).read_text().splitlines()) == EPOCHS > before
    assert figures(out) == unstopped
    finish(helper)
