"""What TensorBoard shows of a run is its history, once, however often it was interrupted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nextvec.errors import MissingDependencyError
from nextvec.interrupt import TrainingInterrupted
from nextvec.training import loop
from nextvec.training.history import FOLDER, Scalars, read_history
from nextvec.training.loop import train

WATCHED = ("train/loss", "validation/cosine", "validation/loss.mse", "lr", "gradient_norm")


def shown(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Name -> (step, value) of every scalar in the run's folder."""
    events = EventAccumulator(str(run / FOLDER))
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def wanted(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The same of the history."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in read_history(run):
        for name in WATCHED:
            first, _, second = name.partition("/")
            value = line[first][second] if second else line[first]
            found.setdefault(name, []).append((line["update"], pytest.approx(value, rel=1e-6)))
    return found


def test_each_epoch_of_the_history_is_shown(store, tiny, tmp_path) -> None:
    run = tmp_path / "run"
    with Scalars(run) as output:
        train(store, tiny(), run, quiet=True, after_epoch=output)
    found = shown(run)
    assert {name: found[name] for name in WATCHED} == wanted(run)
    assert len(found["lr"]) == 3
    assert "update" not in found


def test_a_resumed_run_shows_each_epoch_once(store, tiny, tmp_path, monkeypatch) -> None:
    """The first epoch is told, the second is trained without TensorBoard, the third is told again."""
    run, real = tmp_path / "run", loop.validate

    def stopped_in(epoch: int) -> None:
        def validate(session, signals):
            if session.state.epoch == epoch:
                signals.received = 2
            return real(session, signals)

        monkeypatch.setattr(loop, "validate", validate)

    stopped_in(1)
    with pytest.raises(TrainingInterrupted), Scalars(run) as output:
        train(store, tiny(), run, quiet=True, after_epoch=output)
    assert len(shown(run)["lr"]) == 1
    stopped_in(2)
    with pytest.raises(TrainingInterrupted):
        train(store, None, run, resume=True, quiet=True)
    monkeypatch.undo()
    with Scalars(run) as output:
        train(store, None, run, resume=True, quiet=True, after_epoch=output)
    found = shown(run)
    assert {name: found[name] for name in WATCHED} == wanted(run)
    assert len(found["lr"]) == 3


def test_a_finished_run_can_still_be_shown(store, tiny, tmp_path) -> None:
    run = tmp_path / "run"
    train(store, tiny("optim.epochs=1"), run, quiet=True)
    with Scalars(run) as output:
        train(store, None, run, resume=True, quiet=True, after_epoch=output)
    assert shown(run)["validation/cosine"] == wanted(run)["validation/cosine"]


def test_a_refused_run_leaves_nothing(tmp_path) -> None:
    with pytest.raises(RuntimeError, match="refused"), Scalars(tmp_path / "run"):
        raise RuntimeError("refused")
    assert not (tmp_path / "run").exists()


def test_a_missing_package_is_said_before_the_work(monkeypatch, tmp_path) -> None:
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingDependencyError, match=r"pip install nextvec\[tensorboard\]"):
        Scalars(tmp_path / "run")
