"""sweep through the command line: what it writes, what it says, going on, and training its best."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from by_hand import by_hand
from nextvec.config import read_toml
from nextvec.corpus.store import Store

FLAGS = ["--device=cpu", "--precision=float32", "--epochs=1", "--batch-size=4", "--max-updates=2"]


def sweep(world: Store, out: Path, *more: object) -> tuple[object, ...]:
    threads = "--set=runtime.threads=1"
    return (
        "sweep",
        world.path,
        "--model",
        "lstm,mlp",
        "--out",
        out,
        *FLAGS,
        threads,
        "--startup",
        "2",
        *more,
    )


def test_a_sweep_tells_of_every_model_and_its_best_can_be_trained(
    cli, world: Store, tmp_path: Path, tiny: tuple[str, ...]
) -> None:
    out = tmp_path / "s"
    done = cli(*sweep(world, out, "--trials", "4", "--json", tmp_path / "t.json"))
    assert done.code == 0
    assert [line for line in done.err.splitlines() if line.startswith("[")] == [
        f"[{n}/4] trial {n - 1}" for n in range(1, 5)
    ]
    figures = json.loads(by_hand(out / "sweep.json"))
    assert json.loads((tmp_path / "t.json").read_text()) == figures
    assert sum(row["trials"] for row in figures["models"]) == 4
    assert figures["study"] == "study.db"
    assert (out / "study.db").is_file()
    assert "tuned on the validation documents alone" in done.out
    for row in figures["models"]:
        if row["best"] is None:
            continue
        file = out / "best" / f"{row['model']}.toml"
        command = f"nextvec train STORE --config {file} --out RUN"
        assert command in done.out
        held = read_toml(file)
        assert (held["model"]["name"], held["optim"]["max_updates"]) == (row["model"], 2)
        assert held["optim"]["lr"] == pytest.approx(row["best"]["chosen"]["optim.lr"])
        run = tmp_path / f"run-{row['model']}"
        assert cli("train", world.path, "--config", file, "--out", run, "--quiet").code == 0
        again = json.loads((run / "metrics.json").read_text())
        assert again["cosine"] == pytest.approx(row["best"]["value"], abs=1e-6)


def test_a_flag_is_not_varied(cli, world: Store, tmp_path: Path) -> None:
    out = tmp_path / "s"
    done = cli(*sweep(world, out, "--trials", "2", "--lr", "0.01", "--objective", "cosine", "--quiet"))
    assert done.code == 0
    for number in ("0", "1"):
        held = read_toml(out / "trials" / number / "config.toml")
        assert (held["optim"]["lr"], held["loss"]["cosine"], held["loss"]["mse"]) == (0.01, 1.0, 0.0)


def test_a_stopped_sweep_goes_on_and_more_trials_may_be_asked_for(
    cli, world: Store, tmp_path: Path, stop_training
) -> None:
    out = tmp_path / "s"
    stop_training(2)
    stopped = cli(*sweep(world, out, "--trials", "2"))
    assert (stopped.code, stopped.out) == (128 + signal.SIGTERM, "")
    assert "give the same command again to continue" in stopped.err
    assert not (out / "sweep.json").exists()
    assert cli(*sweep(world, out, "--trials", "2", "--quiet")).code == 0
    first = json.loads((out / "sweep.json").read_text())["trials"]
    more = cli(*sweep(world, out, "--trials", "3", "--quiet", "--json", "-"))
    assert more.code == 0
    assert more.json["trials"][:2] == first
    assert [trial["folder"] for trial in more.json["trials"]][:2] == ["trials/0", "trials/1"]
    refused = cli(*sweep(world, out, "--trials", "3", "--seed", "1"))
    assert (refused.code, refused.out) == (2, "")
    assert f"{out}: holds another sweep; give another folder with --out" in refused.err
