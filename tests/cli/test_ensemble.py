"""ensemble through the command line: runs mixed, evaluated as a run, and told what its members are told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nextvec.corpus.store import Store
from nextvec.training.loop import train


@pytest.fixture(scope="module")
def other(world: Store, make_tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small GRU that was trained with queries."""
    folder = tmp_path_factory.mktemp("runs") / "small-gru"
    train(world, make_tiny("gru", "data.conditional=0.5"), folder, quiet=True)
    return folder


def test_an_ensemble_is_evaluated_as_a_run(
    cli, world: Store, trained: Path, other: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mixed"
    done = cli("ensemble", trained, other, "--baselines", "ridge", "--store", world.path, "--out", out)
    assert done.code == 0
    rows = [line.split() for line in done.out.splitlines() if line.startswith(("small-", "ridge"))]
    held = json.loads((out / "ensemble.json").read_text())
    assert [row[0] for row in rows] == ["small-lstm", "small-gru", "ridge"]
    assert [float(row[2]) for row in rows] == pytest.approx(held["unit_weights"], abs=6e-4)
    assert sum(held["unit_weights"]) == pytest.approx(1)
    assert "weights fitted on 28 validation windows\nof so few the weights are partly chance" in done.out
    command = done.out.splitlines()[-1].partition("nextvec ")[2]
    evaluated = cli(*command.split(), "--json", "-", "--quiet", "--no-speed")
    assert evaluated.code == 0
    row = evaluated.json["rows"][-1]
    assert (row["name"], row["members"]) == ("mixed", ["small-lstm", "small-gru", "ridge"])
    card = cli("card", out)
    assert (card.code, card.out.strip()) == (0, str(out / "README.md"))
    read = cli("predict", out, "--text", "A text.", "--nearest", "0")
    assert read.code == 2  # opened as a run is; of the world there is no encoder
    assert "server's" in read.err
    alone = cli("evaluate", trained, other, "--store", world.path, "--json", "-", "--quiet", "--no-speed")
    assert row["cosine"] >= max(r["cosine"] for r in alone.json["rows"] if r["kind"] == "model") - 0.01


def test_an_ensemble_is_told_what_its_members_are(
    cli, world: Store, trained: Path, other: Path, tmp_path: Path
) -> None:
    steered, plain = tmp_path / "steered", tmp_path / "plain"
    command = ("ensemble", trained, other, "--store", world.path)
    assert cli(*command, "--out", steered, "--queries").code == cli(*command, "--out", plain).code == 0
    weights = [json.loads((out / "ensemble.json").read_text())["raw_weights"] for out in (steered, plain)]
    assert weights[0] != weights[1]
    evaluating = ("evaluate", steered, "--store", world.path, "--json", "-", "--quiet", "--no-speed")
    with_queries, without = cli(*evaluating, "--queries"), cli(*evaluating)
    assert with_queries.code == without.code == 0
    assert with_queries.json["queries"] > 0
    assert with_queries.json["rows"][-1]["cosine"] != without.json["rows"][-1]["cosine"]


def test_an_ensemble_whose_member_was_trained_again_is_refused(
    cli, world: Store, trained: Path, make_tiny: Callable[..., Any], tmp_path: Path
) -> None:
    run, out = tmp_path / "run", tmp_path / "mixed"
    shutil.copytree(trained, run)
    made = cli("ensemble", run, "--baselines", "copy-last", "--store", world.path, "--out", out)
    assert made.code == 0
    shutil.rmtree(run)
    train(world, make_tiny("lstm", seed=1), run, quiet=True)
    done = cli("evaluate", out, "--store", world.path)
    assert (done.code, done.out) == (2, "")
    assert "has other weights than when the ensemble was fitted; fit it again" in done.err
