"""A run that is killed, interrupted or resumed ends as if nothing had happened."""

from __future__ import annotations

import json
import multiprocessing
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nextvec.checkpoint import FILE, read_checkpoint
from nextvec.config import write_toml
from nextvec.errors import RunError
from nextvec.interrupt import TrainingInterrupted
from nextvec.training import loop, session
from nextvec.training.loop import train
from training.resuming import Killed, assert_equal_runs, killed_and_resumed

DROPOUT = ("model.options.dropout=0.3", "optim.epochs=4", "optim.patience=0")
CHILD = """
import sys
from pathlib import Path
from nextvec.config import from_dict, read_toml
from nextvec.corpus.store import Store
from nextvec.errors import NextvecError
from nextvec.training.config import TrainConfig
from nextvec.training.loop import train
store, config, out = sys.argv[1:]
try:
    train(Store.open(store), from_dict(TrainConfig, read_toml(Path(config)), where=config), out, quiet=True)
except NextvecError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.fixture(scope="module")
def whole(store, tiny, tmp_path_factory) -> Path:
    """A run that nothing happened to."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(store, tiny(*DROPOUT), out, quiet=True)
    return out


@pytest.mark.parametrize("update", [0, 1, 7, 20, 33])
def test_death_between_updates_then_resume_changes_no_bit(store, tiny, tmp_path, monkeypatch, whole, update):
    config, out = tiny(*DROPOUT, "runtime.checkpoint_every_s=0.0"), tmp_path / "run"
    killed_and_resumed(store, config, out, monkeypatch, update)
    assert_equal_runs(out, whole)


@pytest.mark.parametrize(
    ("residual", "message"), [("ridge", {"weights", "lambda", "positions"}), ("last", set())]
)
def test_a_run_tells_what_its_residual_was_found_to_be_also_after_a_resume(
    store, tiny, tmp_path, monkeypatch, residual, message
):
    options = (f"model.options.residual={residual}", "optim.epochs=1", "runtime.checkpoint_every_s=0.0")
    config, reported = tiny(*options), []
    train(store, config, tmp_path / "whole", quiet=True)
    killed_and_resumed(store, config, tmp_path / "resumed", monkeypatch, 2)
    for run in ("whole", "resumed"):
        reported.append(json.loads((tmp_path / run / "run.json").read_text())["fitted"])
    assert reported[0] == reported[1]
    assert reported[0].keys() == ({"residual", *message} if message else set())
    assert reported[0].get("residual", "last") == residual


@pytest.mark.parametrize("victim", ["save_model", "write_history", "conclude", "validate", "finish_epoch"])
def test_death_at_the_end_of_an_epoch_then_resume_changes_no_bit(
    store, tiny, tmp_path, monkeypatch, whole, victim
):
    place = session if victim == "save_model" else loop
    config, out, real, calls = tiny(*DROPOUT), tmp_path / "run", getattr(place, victim), []

    def dying(*arguments):
        calls.append(victim)
        if len(calls) == 2 or victim == "conclude":
            raise Killed
        return real(*arguments)

    monkeypatch.setattr(place, victim, dying)
    with pytest.raises(Killed):
        train(store, config, out, quiet=True)
    monkeypatch.undo()
    train(store, config, out, resume=True, quiet=True)
    assert_equal_runs(out, whole)


def test_kill_9_at_any_moment_then_resume_changes_no_bit(store, tiny, tmp_path, whole):
    """A real process, killed at moments that only the clock decides, again and again."""
    config, out = tiny(*DROPOUT, "runtime.checkpoint_every_s=0.0"), tmp_path / "run"
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["nextvec.training.loop"])
    kills = 0
    for delay in (0.0, 0.011, 0.023, 0.037, 0.05, 0.071):
        resume = (out / "config.toml").exists()
        child = server.Process(
            target=train, args=(store, config, out), kwargs={"resume": resume, "quiet": True}
        )
        before = stamp(out)
        child.start()
        while child.is_alive() and stamp(out) == before:
            time.sleep(0.001)
        time.sleep(delay)
        child.kill()
        child.join()
        kills += child.exitcode == -signal.SIGKILL
    assert kills > 3, "the run ended before it could be killed"
    train(store, config, out, resume=True, quiet=True)
    assert_equal_runs(out, whole)


def stamp(out: Path) -> int:
    """Changes with every checkpoint."""
    return (out / FILE).stat().st_mtime_ns if (out / FILE).exists() else 0


def test_ctrl_c_saves_and_says_how_to_go_on(store, tiny, tmp_path):
    config, out = tmp_path / "config.toml", tmp_path / "run"
    write_toml(config, tiny(*DROPOUT, "optim.epochs=4000"))
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(store.path), str(config), str(out)],
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (out / "history.jsonl").exists():
        assert child.poll() is None, child.communicate()[1]
        time.sleep(0.005)
    child.send_signal(signal.SIGINT)
    message = child.communicate(timeout=900)[1]
    assert child.returncode == 130
    assert "everything is saved; go on with --resume" in message
    assert message.count("\n") == 1
    assert read_checkpoint(out).metadata["state"]["update"] > 0


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_goes_on_to_the_same_end(store, tiny, tmp_path, monkeypatch, whole, signum, code):
    config, out, real = tiny(*DROPOUT), tmp_path / "run", loop.update

    def interrupted(session, batch):
        real(session, batch)
        if session.state.update == 9:
            signal.raise_signal(signum)

    monkeypatch.setattr(loop, "update", interrupted)
    before = signal.getsignal(signum)
    with pytest.raises(TrainingInterrupted, match="after update 9") as caught:
        train(store, config, out, quiet=True)
    assert caught.value.exit_code == code
    assert signal.getsignal(signum) is before
    monkeypatch.undo()
    train(store, None, out, resume=True, quiet=True)
    assert_equal_runs(out, whole)


def test_resuming_a_finished_run_changes_nothing(store, tiny, tmp_path):
    config, out = tiny("optim.epochs=2"), tmp_path / "run"
    result = train(store, config, out, quiet=True)
    history = (out / "history.jsonl").read_text()
    again = train(store, config, out, resume=True, quiet=True)
    assert again == result
    assert (out / "history.jsonl").read_text() == history


def test_another_configuration_is_refused_by_key(store, tiny, tmp_path):
    out = tmp_path / "run"
    train(store, tiny("optim.epochs=1"), out, quiet=True)
    before = (out / "config.toml").read_text()
    with pytest.raises(RunError, match=r"started with optim.lr = 0.01, not 0.02"):
        train(store, tiny("optim.epochs=1", "optim.lr=0.02"), out, resume=True, quiet=True)
    with pytest.raises(RunError, match=r"model.options.hidden = 16, not 32"):
        train(store, tiny("optim.epochs=1", "model.options.hidden=32"), out, resume=True, quiet=True)
    assert (out / "config.toml").read_text() == before


def test_how_it_works_may_change_what_it_gives_may_not(store, tiny, tmp_path, whole):
    out = tmp_path / "run"
    train(store, tiny("optim.epochs=1"), out, quiet=True)
    train(store, tiny("optim.epochs=1", "runtime.checkpoint_every_s=7.0"), out, resume=True, quiet=True)
    assert "checkpoint_every_s = 7.0" in (out / "config.toml").read_text()


def test_another_store_is_refused(store, make_store, tiny, tmp_path):
    out = tmp_path / "run"
    train(store, tiny("optim.epochs=1"), out, quiet=True)
    with pytest.raises(RunError, match=r"store.vectors"):
        train(make_store(seed=1), tiny("optim.epochs=1"), out, resume=True, quiet=True)


def test_nothing_to_resume(store, tiny, tmp_path):
    with pytest.raises(RunError, match="holds no run to resume"):
        train(store, tiny(), tmp_path / "nowhere", resume=True, quiet=True)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("damage", ["truncated", "other", "no facts"])
def test_a_damaged_checkpoint_is_named(store, tiny, tmp_path, damage):
    out = tmp_path / "run"
    train(store, tiny("optim.epochs=1"), out, quiet=True)
    content = (out / FILE).read_bytes()
    if damage == "truncated":
        (out / FILE).write_bytes(content[: len(content) // 2])
    elif damage == "other":
        (out / FILE).write_bytes(content.replace(b"nextvec-checkpoint-1", b"nextvec-checkpoint-9"))
    else:
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        header["__metadata__"].pop("facts")
        raw = json.dumps(header).encode()
        (out / FILE).write_bytes(len(raw).to_bytes(8, "little") + raw + content[8 + size :])
    with pytest.raises(RunError, match=r"checkpoint\.safetensors: (is|has changed) "):
        train(store, None, out, resume=True, quiet=True)
