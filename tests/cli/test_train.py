"""train through the command line: what it writes, which layer of configuration wins, going on."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import nextvec
from nextvec.config import read_toml
from nextvec.corpus.store import NewDocument, Store, StoreWriter
from nextvec.data.splits import SplitConfig
from nextvec.experiments.evaluating import wider
from nextvec.models.saving import load_model
from nextvec.training.build import build_model
from nextvec.training.config import make_config
from nextvec.training.warm import inherited, warm_start


def test_train_writes_a_run(cli, tiny: tuple[str, ...], world: Store, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = cli("train", world.path, "--model", "gru", "--out", run, *tiny)
    assert done.code == 0
    assert done.out.startswith("gru: best validation cosine ")
    assert f"nextvec evaluate {run} --store {world.path} --split test" in done.out
    assert done.err.startswith("training on cpu in float32\n")
    files = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()}
    assert files >= {
        "config.toml", "config.json", "model.safetensors", "golden.safetensors", "history.jsonl",
        "metrics.json", "trained_on.safetensors", "last/checkpoint.safetensors", "final/model.safetensors",
    }  # fmt: skip
    assert nextvec.load(run).architecture == "gru"
    assert json.loads((run / "metrics.json").read_text())["epochs"] == 1


def test_quiet_training_says_one_line(cli, tiny: tuple[str, ...], world: Store, tmp_path: Path) -> None:
    done = cli("train", world.path, "--model", "lstm", "--out", tmp_path / "run", *tiny, "--quiet")
    assert done.code == 0
    assert done.err == "training on cpu in float32\n"


def test_flags_win_over_the_file_and_the_file_over_the_recipe(
    cli, tiny: tuple[str, ...], world: Store, tmp_path: Path
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        '[model]\nname = "lstm"\n[data]\ncontext = 7\n[optim]\nepochs = 9\nclip = 0.5\nbatch_size = 16\n'
    )
    done = cli("train", world.path, "--config", file, "--out", tmp_path / "run", *tiny, "--seed", "3")
    assert done.code == 0
    held = read_toml(tmp_path / "run" / "config.toml")
    model = held["model"]
    own = {"residual": "averages", "resampled": 512, "hidden": 16}
    assert (model["name"], model["preset"], model["options"]) == ("lstm", "small", own)
    assert (held["data"]["context"], held["optim"]["clip"]) == (7, 0.5)
    assert (held["optim"]["epochs"], held["optim"]["batch_size"], held["runtime"]["seed"]) == (1, 4, 3)
    assert held["optim"]["schedule"] == "cosine"


def test_a_name_wins_over_the_file_and_a_key_over_the_name(
    cli, tiny: tuple[str, ...], world: Store, tmp_path: Path
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        "[loss]\nmse = 1.0\nvariance = 0.5\nnear_duplicate = 0.9\n"
        "[data]\ncontext = 7\nhorizons = [3]\nconditional = 0.5\n"
    )
    done = cli(
        "train", world.path, "--model", "lstm", "--config", file, "--out", tmp_path / "run", *tiny,
        "--objective", "mse-infonce", "--task", "multi", "--set", "loss.infonce=0.25", "--horizon", "1,2",
        "--residual", "last", "--head", "compact",
    )  # fmt: skip
    assert done.code == 0
    held = read_toml(tmp_path / "run" / "config.toml")
    loss = held["loss"]
    assert (loss["mse"], loss["infonce"], loss["variance"], loss["near_duplicate"]) == (1.0, 0.25, 0.0, 0.9)
    assert (held["data"]["horizons"], held["data"]["context"], held["data"]["conditional"]) == (
        [1, 2],
        7,
        0.0,
    )
    own = {"residual": "last", "head": "compact", "resampled": 512, "hidden": 16}
    assert held["model"]["options"] == own
    assert json.loads((tmp_path / "run" / "config.json").read_text())["training"]["horizons"] == [1, 2]


@pytest.mark.parametrize(
    ("task", "flags", "recall"),
    [
        ("middle", ["--context", "4"], "--task middle"),
        ("next-2", [], "--horizon 2"),
        ("conditional", [], "--queries"),
    ],
)
def test_a_task_is_trained_and_evaluated_as_the_run_says(
    cli,
    tiny: tuple[str, ...],
    world: Store,
    tmp_path: Path,
    task: str,
    flags: list[str],
    recall: str,
) -> None:
    """The command that `train` prints at its end judges the run."""
    run = tmp_path / "run"
    done = cli("train", world.path, "--model", "gru", "--task", task, "--out", run, *tiny, *flags)
    assert done.code == 0
    data = read_toml(run / "config.toml")["data"]
    assert (data["context"] == data["min_context"] == 4) == (task == "middle")
    command = done.out.splitlines()[-1].partition("nextvec ")[2]
    assert command.endswith(recall)
    evaluated = cli(*command.split(), "--json", "-", "--quiet")
    assert evaluated.code == 0
    assert (evaluated.json["task"], evaluated.json["context"]) == (
        ("middle", 4) if task == "middle" else ("next", 5)
    )
    assert evaluated.json["horizon"] == data["horizons"][0]
    assert (evaluated.json["queries"] is not None) == (task == "conditional")
    assert evaluated.json["rows"][-1]["name"] == "run"


@pytest.mark.parametrize("objective", ["cosine", "infonce", "mse-moment"])
@pytest.mark.filterwarnings("ignore::nextvec.errors.NextvecWarning")
def test_an_objective_by_name(
    cli, tiny: tuple[str, ...], world: Store, tmp_path: Path, objective: str
) -> None:
    done = cli(
        "train", world.path, "--model", "mlp", "--objective", objective, "--out", tmp_path / "run", *tiny
    )
    assert done.code == 0
    line = json.loads((tmp_path / "run" / "history.jsonl").read_text().splitlines()[0])
    loss = read_toml(tmp_path / "run" / "config.toml")["loss"]
    for term in objective.split("-"):
        assert f"loss.{term}" in line["train"]
        assert loss[term] > 0
    assert loss["mse"] == ("mse" in objective)


def test_recipe_brief_trains_on_windows_of_the_context_asked_for(
    cli, tiny: tuple[str, ...], world: Store, tmp_path: Path
) -> None:
    command = ("train", world.path, "--model", "lstm", *tiny, "--recipe", "brief")
    assert cli(*command, "--out", tmp_path / "five").code == 0
    assert cli(*command, "--out", tmp_path / "four", "--context", "4").code == 0
    shapes = [read_toml(tmp_path / name / "config.toml")["data"] for name in ("five", "four")]
    assert [(d["context"], d["min_context"]) for d in shapes] == [(5, 5), (4, 4)]


def test_a_short_context_keeps_the_lower_end_of_the_run_that_goes_on(
    cli, tiny: tuple[str, ...], world: Store, tmp_path: Path
) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    command = ("train", world.path, "--context", "3", "--out")
    assert cli(*command, run, "--model", "lstm", "--recipe", "scratch", *tiny).code == 0
    again = cli(*command, run, "--resume", "--epochs", "2")
    assert again.code == 0, again.err
    assert cli(*command, other, "--init-from", run, "--max-updates", "1").code == 0
    shapes = [read_toml(folder / "config.toml")["data"] for folder in (run, other)]
    assert [(d["context"], d["min_context"]) for d in shapes] == [(3, 1), (3, 1)]


def test_a_key_of_a_file_outside_its_sections_is_refused(cli, world: Store, tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    command = ("train", world.path, "--out", tmp_path / "run", "--context", "3", "--config", file)
    for key in ("model", "data", "context"):
        file.write_text(f"{key} = 3\n")
        refused = cli(*command)
        assert refused.code == 2
        assert f"'{key}' stands in no section" in refused.err


def test_limited_to_sources_and_divided_by_a_file(
    cli, tiny: tuple[str, ...], world: Store, tmp_path: Path
) -> None:
    web = [d.doc_id for d in world.documents if d.source == "web"]
    split = {"train": web[:14], "validation": web[14:17], "test": web[17:]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    done = cli(
        "train", world.path, "--model", "lstm", "--out", tmp_path / "run", *tiny,
        "--sources", "web", "--split-file", tmp_path / "split.json",
    )  # fmt: skip
    assert done.code == 0
    training = json.loads((tmp_path / "run" / "config.json").read_text())["training"]
    assert (training["documents"], training["sources"]) == (14, ["web"])
    assert training["split"]["file"] == str(tmp_path / "split.json")


def test_a_stopped_run_goes_on_to_the_same_weights(
    cli,
    tiny: tuple[str, ...],
    world: Store,
    tmp_path: Path,
    stop_training: Callable[[int], None],
) -> None:
    command = ("train", world.path, "--model", "lstm", *tiny, "--set", "optim.epochs=3")
    assert cli(*command, "--out", tmp_path / "whole").code == 0
    stop_training(2)
    stopped = cli(*command, "--out", tmp_path / "run", "--quiet")
    assert stopped.code == 143
    assert stopped.out == ""
    assert stopped.err.splitlines()[-1].startswith(f"nextvec: {tmp_path / 'run'}: stopped by SIGTERM after ")
    assert "--resume" in stopped.err
    assert cli("train", world.path, "--out", tmp_path / "run", "--resume").code == 0
    ours, theirs = (load_file(tmp_path / n / "final" / "model.safetensors") for n in ("run", "whole"))
    assert all((ours[name] == theirs[name]).all() for name in theirs)


def test_a_finished_run_resumed_stays_as_it_is(
    cli, world: Store, trained: Path, tmp_path: Path, snapshot: Callable[[Path], dict[str, str]]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    before = snapshot(run)
    done = cli("train", world.path, "--out", run, "--resume", "--quiet")
    assert done.code == 0
    after = snapshot(run)
    changed = {name for name in before if before[name] != after.get(name)}
    assert after.keys() == before.keys()
    assert changed <= {"run.json", "metrics.json"}


@pytest.mark.parametrize("model", ["amn", "transformer", "mlp"])
def test_every_other_architecture_trains(
    cli, tiny: tuple[str, ...], world: Store, tmp_path: Path, model: str
) -> None:
    command = ("train", world.path, "--model", model, "--out", tmp_path / "run", "--recipe", "scratch", *tiny)
    done = cli(*command, "--max-updates", "3")
    assert done.code == 0
    assert "(max_updates)" in done.out


def test_tensorboard_is_written_where_it_is_asked_for(
    cli, tiny: tuple[str, ...], world: Store, tmp_path: Path, stop_training: Callable[[int], None]
) -> None:
    command = ("train", world.path, "--out", tmp_path / "run")
    stop_training(2)
    stopped = cli(*command, "--model", "lstm", *tiny, "--set", "optim.epochs=2", "--quiet")
    assert stopped.code == 143
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert cli(*command, "--resume", "--tensorboard", "--quiet").code == 0
    assert len(list((tmp_path / "run" / "tensorboard").glob("events.out.tfevents.*"))) == 1


def test_a_run_starts_from_another_on_another_store(
    cli, tiny: tuple[str, ...], trained: Path, make_world, tmp_path: Path
) -> None:
    """After an update not worth the name its weights are the other's; what that had read counts as seen."""
    run, other = tmp_path / "run", make_world(tmp_path / "other", seed=3, prefix="new")
    flags = (*tiny[:4], "--max-updates", "1", "--lr", "1e-12", "--quiet")
    done = cli("train", other.path, "--init-from", trained, "--out", run, *flags)
    assert done.code == 0
    held = read_toml(run / "config.toml")["model"]
    assert (held["name"], held["options"]) == ("lstm", {"hidden": 16})
    before, after = load_file(trained / "model.safetensors"), load_file(run / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(np.allclose(before[name], after[name], atol=1e-6) for name in before)
    assert json.loads((run / "config.json").read_text())["origin"]["run"] == str(trained)
    seen = [set(load_file(folder / "trained_on.safetensors")["ids"].tolist()) for folder in (trained, run)]
    assert seen[0] < seen[1]
    assert cli("train", other.path, "--out", run, "--resume", "--max-updates", "2", "--epochs", "2").code == 0
    assert set(load_file(run / "trained_on.safetensors")["ids"].tolist()) == seen[1]
    both = cli("train", other.path, "--init-from", trained, "--out", run, "--resume")
    assert both.code == 2
    assert "leave --init-from out" in both.err


@pytest.mark.parametrize(
    ("encoder", "flags", "message"),
    [
        ("world", ["--model", "gru"], "is gru, and the run to start from is lstm"),
        (
            "world",
            ["--set", "model.options.hidden=24"],
            "model.options.hidden: is 24, and the run to start from has 16",
        ),
        (
            "world",
            ["--set", "loss.listwise=1"],
            "model.options.ranking: is True, and the run to start from has False; give --set loss.listwise=0",
        ),
        ("another", [], "reads vectors of 'world', the store has those of 'another'"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(
    cli, trained: Path, make_world, tmp_path: Path, encoder: str, flags: list[str], message: str
) -> None:
    other = make_world(tmp_path / "other", encoder=encoder)
    done = cli("train", other.path, "--init-from", trained, "--out", tmp_path / "run", *flags)
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "run").exists()


def test_the_model_of_the_package_is_a_start(tmp_path: Path) -> None:
    """It read unit vectors, the store has some of length 2: only the scale is another."""
    model, info = load_model("pretrained")
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((400, 384)).astype(np.float32)
    vectors *= 2 / np.linalg.norm(vectors, axis=1, keepdims=True)
    documents = [NewDocument.from_chunks(f"d{i}", [f"{i} {k}" for k in range(20)]) for i in range(20)]
    with StoreWriter(
        tmp_path / "s", encoder=info["encoder"], dimension=384, chunker={}, dtype="float32", normalised=False
    ) as writer:
        writer.add_shard(documents, vectors, path="test")
    store = Store.open(tmp_path / "s")
    config = make_config("default", inherited("pretrained", store))
    start = warm_start("pretrained", store, config)
    build_model(store, config).load_state_dict(start.weights)
    theirs = model.state_dict()
    assert start.weights["scale"] == pytest.approx(2 * float(theirs.pop("scale")), rel=1e-5)
    assert all(torch.equal(start.weights[name], theirs[name]) for name in theirs)
    assert start.trained_on is not None
    assert len(start.trained_on.documents) == info["training"]["documents"]


def test_a_run_resumed_with_its_recipe_keeps_its_network(
    cli, tiny: tuple[str, ...], world: Store, tmp_path: Path
) -> None:
    command = ("train", world.path, "--out", tmp_path / "run", "--recipe", "scratch", *tiny)
    assert cli(*command, "--model", "amn").code == 0
    again = cli(*command, "--resume")
    assert again.code == 0, again.err
    assert again.out.startswith("amn: ")
    other = cli("train", world.path, "--out", tmp_path / "run", "--recipe", "brief", "--resume")
    assert other.code == 2
    assert "the run was started with" in other.err


def test_a_finished_run_goes_on_to_a_later_end(
    cli, tiny: tuple[str, ...], world: Store, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert cli("train", world.path, "--model", "gru", "--out", run, *tiny, "--max-updates", "3").code == 0
    again = ("train", world.path, "--out", run, "--resume")
    done = cli(*again, "--max-updates", "9", "--epochs", "12")
    assert done.code == 0, done.err
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["updates"], metrics["stopped"]) == (9, "max_updates")
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines][-1] == 9
    assert read_toml(run / "config.toml")["optim"]["max_updates"] == 9
    early = cli(*again, "--max-updates", "5")
    assert early.code == 2
    assert "has made 9 updates" in early.err
    assert "give a later end" in early.err
    assert cli(*again).code == 0
    assert json.loads((run / "metrics.json").read_text())["updates"] == 9


def test_a_run_whose_epochs_end_before_its_updates_says_how_many_it_takes(
    cli, tiny: tuple[str, ...], world: Store, tmp_path: Path
) -> None:
    others = (flag for flag in tiny if not flag.startswith("--epochs"))
    command = ("train", world.path, "--model", "gru", *others, "--max-updates", "30", "--quiet", "--out")
    early = cli(*command, tmp_path / "early", "--epochs", "1")
    message = re.search(
        r"its epochs \(1\) were over, before the 30 updates asked for: --epochs (\d+)", early.out
    )
    assert message is not None
    enough = cli(*command, tmp_path / "enough", "--epochs", message[1])
    assert "(max_updates)" in enough.out
    assert "were over" not in enough.out


@pytest.mark.parametrize("share", [0.1, 0.3, 0.4])
def test_no_share_is_advised_that_is_given_already(share: float) -> None:
    output = wider(SplitConfig(test=share))
    assert ("--set data.split.test=0.3" in output) == (share < 0.3)
    assert "--folds 5" in output
