"""What the tests of resuming share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nextvec.checkpoint import read_checkpoint
from nextvec.training import loop
from nextvec.training.history import read_history
from nextvec.training.loop import train


def assert_equal_runs(a: Path, b: Path) -> None:
    """Same weights, optimiser and random states, bit for bit, and the same history but for the clock."""
    first, second = read_checkpoint(a), read_checkpoint(b)
    assert first.tensors.keys() == second.tensors.keys()
    assert [name for name, t in first.tensors.items() if not torch.equal(t, second.tensors[name])] == []
    assert timeless(a) == timeless(b)
    for name in ("model.safetensors", "final/model.safetensors"):
        assert (a / name).read_bytes() == (b / name).read_bytes()


def timeless(run: Path) -> list[dict]:
    clock = {"seconds", "train_seconds", "positions_per_second"}
    return [{k: v for k, v in line.items() if k not in clock} for line in read_history(run)]


class Killed(BaseException):
    """Stands for the process's death: nothing in the package catches it."""


def killed_and_resumed(store, config, out, monkeypatch, update: int):
    """Train, die at an update in mid-epoch, go on."""
    real = loop.update

    def dying(session, batch):
        if session.state.update == update:
            raise Killed
        real(session, batch)

    monkeypatch.setattr(loop, "update", dying)
    with pytest.raises(Killed):
        train(store, config, out, quiet=True)
    monkeypatch.undo()
    torch.manual_seed(12345)
    train(store, config, out, resume=True, quiet=True)
