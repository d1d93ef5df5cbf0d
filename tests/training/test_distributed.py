"""Training on two processes is training on one: the same batches, losses and gradients. Two gloo processes
are started once and do everything here in turn."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import nextvec
from nextvec import checkpoint
from nextvec.errors import ConfigError, DiskError, NextvecError
from nextvec.interrupt import TrainingInterrupted
from nextvec.models.registry import build, estimated_memory
from nextvec.training import loop
from nextvec.training.build import TrainingWrapper
from nextvec.training.checks import refuse_processes
from nextvec.training.config import TrainConfig
from nextvec.training.distributed import PeerLostError, joined, shard
from nextvec.training.history import read_history
from nextvec.training.launch import launch
from nextvec.training.loop import train, train_here

STEADY = ("optim.schedule=constant", "optim.warmup=0.0", "optim.epochs=2", "optim.clip=0.5")
CONTRAST = "loss.infonce=0.1", "loss.bank=16", "loss.learn_temperature=true", "loss.hard_negatives=true"
CONTRAST += ("loss.drawn_negative=true",)
SPREAD = "loss.moment=0.1", "loss.mmd=1", "loss.variance=0.1", "loss.context=0.1", "loss.cosine=1"
pytestmark = pytest.mark.filterwarnings("ignore:the gradient of loss:nextvec.errors.NextvecWarning")
DRY = "model.options.dropout=0.0"
RECIPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "scratch": ("scratch", ("model.name=lstm", DRY, "loss.cosine=1", *STEADY)),
    "residual": ("residual", ("model.name=transformer", DRY, "optim.epochs=1")),
    "default": (
        "default",
        ("model.name=lcm", "model.preset=m7", "model.options.heads=2", "optim.epochs=1"),
    ),
    "terms": ("scratch", ("model.name=gru", DRY, *CONTRAST, *SPREAD, "optim.epochs=1")),
    "broken": (
        "scratch",
        ("model.name=mlp", DRY, "loss.continuation=1", "data.broken=0.5",
         "data.conditional=0.5", "data.horizons=[1, 2]", "optim.epochs=1"),
    ),
}  # fmt: skip
LCM = ("model.name=lcm", DRY, *STEADY)
"""Sharded, small: block by block, as the one of 1.6 billion."""


@pytest.fixture(scope="module")
def made(tiny) -> Callable[..., TrainConfig]:
    """The configuration of one of RECIPES, or of LCM, for so many processes."""

    def make(name: str, devices: int, *more: str) -> TrainConfig:
        recipe, options = RECIPES.get(name, ("scratch", LCM))
        own = ("optim.batch_size=4", f"runtime.devices={devices}", "data.context=6", "data.min_context=1")
        strategy = ("runtime.strategy=fsdp",) if name == "sharded" and devices > 1 else ()
        return tiny(*options, *own, *strategy, *more, recipe=recipe)

    return make


def stopped_at(update: int, rank: int, act: Callable[[], Any]) -> Callable[..., None]:
    """`loop.update`, but that one process does something before its update of this number."""
    real = loop.update

    def instead(session, batch) -> None:
        if session.state.update == update and session.processes.rank == rank:
            act()
        real(session, batch)

    return instead


def full(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def work(tell: Callable[[Any], None], store: Path, jobs: list[tuple[Any, ...]]) -> None:
    """Each job in turn, as one of two processes; what goes wrong as it should is written beside the run."""
    for kind, config, out, resume in jobs:
        rank, update, save = int(os.environ["RANK"]), loop.update, checkpoint.save_file
        if kind == "interrupted":
            loop.update = stopped_at(5, 1, lambda: os.kill(os.getpid(), signal.SIGINT))
        if kind == "killed":
            loop.update = stopped_at(2, 1, lambda: os.kill(os.getpid(), signal.SIGKILL))
        if kind == "full" and rank == 0:
            checkpoint.save_file = full
        try:
            if kind == "meta":
                save_file({"bytes": torch.tensor(sharded_bytes(config, out))}, out / f"{rank}.safetensors")
            else:
                train_here(tell, store, config, out, resume, None, True)
        except NextvecError as e:
            (out.parent / f"{out.name}.{rank}.error").write_text(type(e).__name__)
            if kind not in ("interrupted", "full"):
                raise
        finally:
            loop.update, checkpoint.save_file = update, save


def sharded_bytes(config: TrainConfig, out: Path) -> int:
    """What this process would hold of the parameters of the LCM of 1.6 billion."""
    with joined(config.runtime, "cpu", out):
        with torch.device("meta"):
            network = TrainingWrapper(build("lcm", "brief", 768))
        shard(network, "cpu", 2)
        return sum(p.to_local().nbytes for p in network.parameters())


@pytest.fixture(scope="module")
def runs(store, made, tmp_path_factory) -> Path:
    """A folder of runs: NAME-1 on one process, NAME-2 on two, others stopped or gone on with."""
    base = tmp_path_factory.mktemp("processes")
    (base / "meta").mkdir()
    six, twelve = "optim.max_updates=6", "optim.max_updates=12"
    jobs = [("train", made(name, 2), base / f"{name}-2", False) for name in (*RECIPES, "sharded")]
    for name in (*RECIPES, "sharded"):
        train(store, made(name, 1), base / f"{name}-1", quiet=True)
    for name in ("scratch", "sharded"):
        train(store, made(name, 1, six), base / f"{name}-one", quiet=True)
        train(store, made(name, 1, six), base / f"{name}-one-two", quiet=True)
        train(store, made(name, 1, twelve), base / f"{name}-one", resume=True, quiet=True)
        jobs += [
            ("train", made(name, 2, six), base / f"{name}-two-one", False),
            ("train", made(name, 2, twelve), base / f"{name}-one-two", True),
        ]
    jobs += [
        ("interrupted", made("scratch", 2), base / "interrupted", False),
        ("full", made("scratch", 2), base / "full", False),
        ("meta", made("sharded", 2), base / "meta", False),
        ("killed", made("scratch", 2, "runtime.checkpoint_every_s=0"), base / "killed", False),
    ]
    with pytest.raises(PeerLostError, match="process 1 of 2 was ended by SIGKILL"):
        launch(work, (store.path, jobs), 2, base)
    for name in ("scratch-two-one", "sharded-two-one"):
        train(store, made(name.split("-")[0], 1, twelve), base / name, resume=True, quiet=True)
    return base


def curve(run: Path) -> list[float]:
    """Everything that a run's history measures, but for the clock."""
    found = []
    for line in read_history(run):
        found += [*line["train"].values(), *line["validation"].values(), line["gradient_norm"]]
        found += [*line["term_gradient_norms"].values(), line["positions"], line["update"], line["lr"]]
    return found


@pytest.mark.parametrize("name", [*RECIPES, "sharded"])
def test_two_processes_have_the_curve_of_one(runs, name):
    assert curve(runs / f"{name}-2") == pytest.approx(curve(runs / f"{name}-1"), rel=1e-5, abs=1e-5)
    one, two = (load_file(runs / f"{name}-{n}" / "final" / "model.safetensors") for n in (1, 2))
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[key], two[key], rtol=1e-4, atol=1e-4) for key in one)


@pytest.mark.parametrize("name", ["scratch", "sharded"])
@pytest.mark.parametrize("way", ["one-two", "two-one"])
def test_a_run_goes_on_with_another_number_of_processes(runs, name, way):
    assert curve(runs / f"{name}-{way}") == pytest.approx(curve(runs / f"{name}-one"), rel=1e-5, abs=1e-5)


def test_a_sharded_run_is_read_back_as_any_other(runs):
    model = nextvec.load(runs / "sharded-2")
    other = nextvec.load(runs / "sharded-1")
    x = torch.randn(2, 5, model.d_embed)
    assert torch.allclose(model(x).raw, other(x).raw, atol=1e-4)


def test_a_signal_to_one_process_stops_all_at_the_same_update(store, made, runs):
    errors = [(runs / f"interrupted.{rank}.error").read_text() for rank in (0, 1)]
    assert errors == [TrainingInterrupted.__name__] * 2
    train(store, made("scratch", 1), runs / "interrupted", resume=True, quiet=True)
    assert curve(runs / "interrupted") == pytest.approx(curve(runs / "scratch-1"), rel=1e-5, abs=1e-5)


def test_a_full_disk_ends_all_and_says_so(runs):
    assert (runs / "full.0.error").read_text() == DiskError.__name__
    assert (runs / "full.1.error").read_text() == PeerLostError.__name__


def test_after_the_death_of_one_process_the_run_goes_on_from_its_last_checkpoint(store, made, runs):
    assert (runs / "killed.0.error").read_text() == PeerLostError.__name__
    train(store, made("scratch", 1), runs / "killed", resume=True, quiet=True)
    assert curve(runs / "killed") == pytest.approx(curve(runs / "scratch-1"), rel=1e-5, abs=1e-5)


def test_a_process_holds_half_of_the_large_model_and_the_estimate_says_so(runs):
    held = [int(load_file(runs / "meta" / f"{rank}.safetensors")["bytes"]) for rank in (0, 1)]
    whole = estimated_memory("lcm", "brief", 768, batch=1, time=1)
    assert sum(held) == whole.gradients == 4 * 1_647_448_832
    shared = whole.shared(2)
    assert max(held) == pytest.approx(shared.gradients, rel=1e-3)
    assert shared.moments == 2 * shared.gradients
    assert shared.weights - shared.gradients == whole.weights - whole.gradients  # buffers are not shared


@pytest.mark.parametrize(
    ("options", "device", "where"),
    [
        (("runtime.devices=3",), "cpu", "optim.batch_size"),
        (("runtime.devices=2",), "mps", "runtime.devices"),
        (("runtime.devices=4096", "optim.batch_size=4096"), "cuda", "runtime.devices"),
        (("runtime.nodes=2",), "cpu", "runtime.nodes"),
        (("runtime.strategy=fsdp",), "cpu", "runtime.strategy"),
        (("runtime.devices=2", "runtime.strategy=fsdp", "optim.optimiser=muon"), "cpu", "optim.optimiser"),
    ],
)
def test_what_cannot_be_had_is_refused(tiny, options, device, where):
    with pytest.raises(ConfigError) as e:
        refuse_processes(tiny(*options), device)
    assert e.value.where == where
    assert e.value.remedy


def test_other_processes_than_torchrun_started_are_refused(tiny, monkeypatch):
    for key, value in {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(key, value)
    refuse_processes(tiny("runtime.devices=2", "runtime.nodes=2"), "cpu")
    with pytest.raises(ConfigError, match="give --devices 2 --nodes 2"):
        refuse_processes(tiny(), "cpu")
