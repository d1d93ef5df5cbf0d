"""matrix and compare through the command line: one table of many models, failures and interruptions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from by_hand import by_hand
from nextvec.config import read_toml
from nextvec.corpus.store import Store
from nextvec.evaluation.baselines import BASELINES


def test_two_models_with_two_seeds(cli, tiny: tuple[str, ...], world: Store, tmp_path: Path) -> None:
    out = tmp_path / "matrix"
    command = ("matrix", world.path, "--models", "lstm,gru", "--seeds", "2", "--out", out, *tiny)
    done = cli(*command, "--no-speed", "--json", tmp_path / "table.json")
    assert done.code == 0
    assert [line for line in done.err.splitlines() if line.startswith("[")] == [
        "[1/4] lstm-seed0",
        "[2/4] gru-seed0",
        "[3/4] lstm-seed1",
        "[4/4] gru-seed1",
    ]
    table = json.loads(by_hand(out / "matrix.json"))
    assert json.loads((tmp_path / "table.json").read_text()) == table
    assert table["failed"] == {}
    models = [row for row in table["rows"] if row["kind"] == "model"]
    assert [(row["name"], row["seeds"]) for row in models] == [("lstm", 2), ("gru", 2)]
    assert len(table["rows"]) == len(BASELINES) + 2
    for row in models:
        seeds = row["per_seed"]
        assert [seed["seed"] for seed in seeds] == [0, 1]
        assert row["cosine"] == sum(seed["cosine"] for seed in seeds) / 2
        assert all((out / seed["model_file"]).is_file() for seed in seeds)
    again = cli("compare", out)
    assert again.code == 0
    assert again.out == done.out
    assert cli("compare", out, "--json", "-").json == table
    markdown = cli("compare", out, "--markdown").out
    assert len([line for line in markdown.splitlines() if line.startswith("| ")]) == 2 + len(BASELINES) + 2


def test_a_model_that_fails_is_reported_and_the_others_stand(
    cli, tiny: tuple[str, ...], world: Store, tmp_path: Path
) -> None:
    out = tmp_path / "matrix"
    command = ("matrix", world.path, "--models", "lstm,transformer", "--out", out, *tiny, "--no-speed")
    done = cli(*command, "--set", "model.options.ffn=32", "--set", "model.options.heads=2", "--seeds", "2")
    assert done.code == 1
    table = json.loads((out / "matrix.json").read_text())
    assert table["failed"].keys() == {"lstm-seed0", "lstm-seed1"}
    assert "unknown key" in table["failed"]["lstm-seed0"]
    assert [r["name"] for r in table["rows"] if r["kind"] == "model"] == ["transformer"]
    assert "FAILED lstm-seed0: model lstm: unknown key" in done.out
    assert "lstm-seed0 failed: " in done.err
    assert "Traceback" not in done.err
    assert cli("compare", out).out == done.out


def test_an_interrupted_matrix_goes_on(
    cli,
    tiny: tuple[str, ...],
    world: Store,
    tmp_path: Path,
    stop_training: Callable[[int], None],
) -> None:
    out = tmp_path / "matrix"
    command = ("matrix", world.path, "--models", "lstm,gru", "--out", out, *tiny, "--no-speed")
    stop_training(2)
    stopped = cli(*command)
    assert stopped.code == 143
    assert stopped.out == ""
    assert "stopped by SIGTERM" in stopped.err
    assert "give the same command again" in stopped.err
    assert "compare" not in cli("compare", out).out
    done_first = (out / "runs" / "lstm-seed0" / "model.safetensors").stat().st_mtime_ns
    done = cli(*command, "--quiet")
    assert done.code == 0
    assert (out / "runs" / "lstm-seed0" / "model.safetensors").stat().st_mtime_ns == done_first
    models = [
        r["name"] for r in json.loads((out / "matrix.json").read_text())["rows"] if r["kind"] == "model"
    ]
    assert models == ["lstm", "gru"]


def test_a_finished_matrix_takes_more_models_and_seeds_but_no_other_protocol(
    cli, tiny: tuple[str, ...], world: Store, tmp_path: Path, snapshot: Callable[[Path], dict[str, str]]
) -> None:
    out = tmp_path / "matrix"
    base = ("matrix", world.path, "--out", out, *tiny, "--no-speed", "--quiet")
    assert cli(*base, "--models", "lstm").code == 0
    before = snapshot(out)
    refused = cli(*base, "--models", "lstm", "--set", "optim.lr=0.002")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith(f"nextvec: error: {out / 'runs' / 'lstm-seed0'}: ")
    assert "optim.lr = 0.01, not 0.002" in refused.err
    assert snapshot(out) == before
    more = cli(*base, "--models", "lstm,mlp", "--seeds", "2", "--json", "-")
    assert [(r["name"], r["seeds"]) for r in more.json["rows"] if r["kind"] == "model"] == [
        ("lstm", 2),
        ("mlp", 2),
    ]
    name = "runs/lstm-seed0/model.safetensors"
    assert snapshot(out)[name] == before[name]


def test_objectives_tasks_and_keys_are_axes(cli, tiny: tuple[str, ...], world: Store, tmp_path: Path) -> None:
    out = tmp_path / "m"
    done = cli(
        "matrix", world.path, "--models", "lstm", "--objectives", "mse,cosine", "--tasks", "next,conditional",
        "--vary", "model.options.hidden=8,16", "--set", "loss.huber=0.5", "--set", "optim.max_updates=2",
        "--out", out, *tiny, "--no-speed", "--quiet", "--json", tmp_path / "t.json",
        "--baselines", "copy-last",
    )  # fmt: skip
    assert done.code == 0
    table = json.loads((tmp_path / "t.json").read_text())
    rows = [
        f"lstm-{objective}-{task}-hidden={hidden}"
        for objective in ("mse", "cosine")
        for task in ("next", "conditional")
        for hidden in (8, 16)
    ]
    assert [row["name"] for row in table["rows"]] == ["copy-last", *rows]
    output = table["others"]["next-1-with-query"]
    assert [row["name"] for row in output["rows"]] == [
        "copy-last", "weights with query", *(row for row in rows if "conditional" in row)
    ]  # fmt: skip
    assert "next-1-with-query:" in done.out
    assert "a later chunk given as query" in done.out
    for row in rows:
        held = read_toml(out / "runs" / f"{row}-seed0" / "config.toml")
        assert held["model"]["options"]["hidden"] == int(row.rpartition("=")[2])
        assert (held["loss"]["mse"], held["loss"]["cosine"]) == (float("mse" in row), float("cosine" in row))
        assert held["loss"]["huber"] == 0.5, "what is set key by key wins over the name"
        assert held["data"]["conditional"] == (0.5 if "conditional" in row else 0)
    assert cli("compare", out).out == done.out


@pytest.mark.slow
def test_runs_at_the_same_time_give_the_same_table(
    cli, tiny: tuple[str, ...], world: Store, tmp_path: Path
) -> None:
    tables = []
    for jobs in ("1", "2"):
        done = cli(
            "matrix", world.path, "--models", "lstm,mlp", "--out", tmp_path / jobs, *tiny, "--jobs", jobs,
            "--max-updates", "2", "--no-speed", "--json", tmp_path / f"{jobs}.json",
        )  # fmt: skip
        assert done.code == 0
        tables.append(json.loads((tmp_path / f"{jobs}.json").read_text())["rows"])
    output = [line for line in done.err.splitlines() if line.startswith("[")]
    assert sorted(line.split()[1] for line in output) == ["lstm-seed0", "mlp-seed0"]
    assert all(line.endswith("done") for line in output)
    assert [row["cosine"] for row in tables[0]] == [row["cosine"] for row in tables[1]]


def test_every_model_of_the_registry(cli, tiny: tuple[str, ...], world: Store, tmp_path: Path) -> None:
    listed = {row["name"] for row in cli("models", "--json", "-").json}
    done = cli(
        "matrix", world.path, "--models", "all", "--out", tmp_path / "m", *tiny, "--max-updates", "2",
        "--no-speed", "--quiet", "--json", "-", "--baselines", "copy-last",
        "--set", "model.options.hidden=32",
    )  # fmt: skip
    assert done.json["failed"] == {}
    assert done.code == 0
    assert {row["name"] for row in done.json["rows"]} == {"copy-last"} | listed


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--k", "50", "--candidates", "document"), "recall@50 among "),
        (("--split", "all"), "windows stand in training"),
        (("--vary", "data.split.test=0.1,0.3"), "the runs would differ in their split"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_anything_is_trained(
    cli, tiny: tuple[str, ...], world: Store, tmp_path: Path, flags: tuple[str, ...], says: str
) -> None:
    out = tmp_path / "matrix"
    done = cli("matrix", world.path, "--models", "gru", "--out", out, *tiny, "--no-speed", *flags)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert not out.exists()


def test_who_joins_trains_and_makes_no_table(
    cli, tiny: tuple[str, ...], world: Store, tmp_path: Path, snapshot: Callable[[Path], dict[str, str]]
) -> None:
    out = tmp_path / "matrix"
    command = ("matrix", world.path, "--out", out, *tiny, "--no-speed", "--set", "model.options.ffn=32")
    helped = cli(*command, "--models", "lstm,transformer", "--set", "model.options.heads=2", "--join")
    assert helped.code == 1
    assert helped.out.startswith(f"every run of {out} has ended\nFAILED lstm-seed0: ")
    assert not (out / "matrix.json").exists()
    refused = cli(*command, "--models", "transformer", "--set", "model.options.heads=2", "--join")
    assert (refused.code, refused.out) == (2, "")
    assert "holds a matrix of other runs; join it with the flags it was started with" in refused.err
    before = snapshot(out / "runs" / "transformer-seed0")
    done = cli(*command, "--models", "lstm,transformer", "--set", "model.options.heads=2", "--quiet")
    assert done.code == 1, "what failed is tried again, and fails again"
    assert snapshot(out / "runs" / "transformer-seed0") == before
    table = json.loads((out / "matrix.json").read_text())
    assert table["failed"].keys() == {"lstm-seed0"}
    nothing = cli(*command, "--models", "lstm", "--join", "--json", "-")
    assert "who joins makes no table" in nothing.err
