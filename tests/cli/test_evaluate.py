"""evaluate through the command line: the JSON contract, the evaluation sets, the leak guard."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from by_hand import by_hand
from nextvec.corpus.store import Store
from nextvec.disk import sha256_file, write_json
from nextvec.evaluation.baselines import BASELINES

WITHOUT_PARAMETERS = [name for name, made in BASELINES.items() if not made.needs_training]


def test_the_json_contract(cli, world: Store, trained: Path) -> None:
    done = cli("evaluate", trained, "--store", world.path, "--json", "-", "--quiet")
    assert (done.code, done.err) == (0, "")
    report = done.json
    assert report["store"] == str(world.path)
    assert (report["split"], report["context"]) == ("test", 5)
    assert report["windows"] == report["documents"] * 7
    assert report["pool"] == report["documents"] * 12
    assert [row["name"] for row in report["rows"]] == [*BASELINES, "small-lstm"]
    for row in report["rows"]:
        assert row["kind"] == ("model" if row["name"] == "small-lstm" else "baseline")
        figures = ["cosine", "cosine_std", "mse", "recall@1", "recall@5", "recall@10", "recall@20", "mrr"]
        assert all(isinstance(row[name], float) for name in figures)
        assert all(0 <= row[name] <= 1 for name in figures[3:])
        assert isinstance(row["parameters"], int)
        assert isinstance(row["seconds"], float)
    model = report["rows"][-1]
    metrics = json.loads((trained / "metrics.json").read_text())
    assert model["parameters"] == metrics["parameters"]
    assert model["seconds"] == metrics["seconds"]
    assert model["bytes"] == (trained / "model.safetensors").stat().st_size
    assert model["latency_p50_ms"] > 0
    assert model["throughput"] > 0


def test_the_table_and_the_json_file_say_the_same(cli, world: Store, trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "new" / "figures.json"
    done = cli("evaluate", trained, "--store", world.path, "--no-speed", "--json", file)
    assert done.code == 0
    report = json.loads(file.read_text())
    assert (
        f"{report['windows']} windows of {report['documents']} documents, context 5, horizon 1." in done.out
    )
    for row in report["rows"]:
        line = next(line for line in done.out.splitlines() if line.startswith(f"{row['name']}  "))
        assert f"{row['cosine']:.4f}" in line
        assert f"{row['mrr']:.4f}" in line
    assert "small-lstm is " in done.out
    count = len(BASELINES) + 1
    assert f"evaluating: {count}/{count} predictors" in done.err


def test_baselines_alone(cli, world: Store) -> None:
    for split in ("train", "validation", "test"):
        command = ("evaluate", "baselines", "--store", world.path, "--split", split, "--no-speed")
        report = cli(*command, "--json", "-").json
        assert [row["name"] for row in report["rows"]] == [*BASELINES]
        assert (report["split"], report["left_out"]) == (split, [])
        assert report["in_sample"] is (split == "train")
        if split != "train":  # where the nearest neighbour is the window itself
            # The world turns by one matrix, which ridge regression finds.
            assert report["best_baseline"]["cosine"] == "ridge"


def test_baselines_on_everything_say_which_were_left_out(cli, world: Store) -> None:
    command = ("evaluate", "baselines", "--store", world.path, "--split", "all", "--no-speed")
    report = cli(*command, "--json", "-").json
    assert [row["name"] for row in report["rows"]] == WITHOUT_PARAMETERS
    assert report["left_out"] == [name for name in BASELINES if name not in WITHOUT_PARAMETERS]
    assert (report["documents"], report["windows"]) == (40, 280)
    table = cli(*command).out
    assert "only baselines without parameters; left out: mean vector, position weights, ridge" in table


def test_a_run_on_another_store(cli, make_world: Callable[..., Store], trained: Path, tmp_path: Path) -> None:
    other = make_world(tmp_path / "other", documents=9, seed=5, prefix="new")
    command = ("evaluate", trained, "--store", other.path, "--split", "all", "--no-speed", "--json", "-")
    done = cli(*command)
    assert done.code == 0
    report = done.json
    assert [row["name"] for row in report["rows"]] == [*WITHOUT_PARAMETERS, "small-lstm"]
    assert report["documents"] == 9
    assert report["dropped"] == {
        "windows": 0, "of": 63, "same_document_id": 0, "same_document_text": 0, "same_target_text": 0,
        "causes": 0,
    }  # fmt: skip


def test_what_was_trained_on_is_refused(cli, world: Store, trained: Path) -> None:
    done = cli("evaluate", trained, "--store", world.path, "--split", "all", "--quiet")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"nextvec: error: split all of {world.path}: ")
    assert "windows stand in training" in done.err
    assert "evaluate documents that were not trained on" in done.err


def test_trained_documents_under_other_names_are_refused(
    cli, make_world: Callable[..., Store], trained: Path, tmp_path: Path
) -> None:
    """The same texts in a store of its own, and every id another."""
    renamed = make_world(tmp_path / "again")
    for shard in renamed.info["shards"]:
        rename_documents(renamed, shard["name"])
    done = cli("evaluate", trained, "--store", renamed.path, "--split", "all", "--quiet")
    assert done.code == 2
    assert "0 by document id" in done.err
    assert "stand in training" in done.err


def rename_documents(store: Store, shard: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    manifest = json.loads(by_hand(store.path / "store.json"))
    (entry,) = (entry for entry in manifest["shards"] if entry["name"] == shard)
    for part in ("documents", "chunks"):
        file = store.path / part / f"{shard}.parquet"
        table = pq.read_table(file)
        ids = pa.array([f"other-{i}" for i in table["doc_id"].to_pylist()], pa.string())
        pq.write_table(table.set_column(table.schema.get_field_index("doc_id"), "doc_id", ids), file)
        entry[f"{part}_sha256"] = sha256_file(file)
    write_json(store.path / "store.json", manifest)


def test_two_runs_beside_each_other_limited_to_a_source(
    cli, tiny: tuple[str, ...], world: Store, trained: Path, tmp_path: Path
) -> None:
    second = tmp_path / "gru"
    assert cli("train", world.path, "--model", "gru", "--out", second, *tiny, "--quiet").code == 0
    done = cli(
        "evaluate", trained, second, "--store", world.path, "--split", "validation", "--sources", "web",
        "--baselines", "copy-last,ridge", "--k", "1,5", "--candidates", "store", "--no-speed", "--json", "-",
    )  # fmt: skip
    assert done.code == 0
    assert [row["name"] for row in done.json["rows"]] == ["copy-last", "ridge", "small-lstm", "gru"]
    assert done.json["pool"] == len(world)
    assert done.json["rows"][0]["recall@10"] is None
    assert done.json["rows"][0]["recall@5"] is not None


def test_markdown(cli, world: Store) -> None:
    done = cli("evaluate", "baselines", "--store", world.path, "--no-speed", "--markdown")
    rows = [line for line in done.out.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(BASELINES)
    assert len({line.count("|") for line in rows}) == 1


@pytest.mark.parametrize("horizon", [2, 3])
def test_a_run_is_evaluated_at_the_horizon_it_was_trained_for(
    cli, tiny: tuple[str, ...], world: Store, tmp_path: Path, horizon: int
) -> None:
    run = tmp_path / "run"
    done = cli("train", world.path, "--model", "lstm", "--out", run, *tiny, "--horizon", horizon, "--quiet")
    assert done.code == 0
    refused = cli("evaluate", run, "--store", world.path, "--quiet")
    assert refused.code == 2
    assert f"--horizon {horizon}" in refused.err
    done = cli("evaluate", run, "--store", world.path, "--horizon", horizon, "--no-speed", "--json", "-")
    assert done.json["horizon"] == horizon
    assert done.json["windows"] == done.json["documents"] * (8 - horizon)


def test_every_column_is_explained(cli) -> None:
    output = cli("metrics", "--json", "-")
    assert output.code == 0
    assert {"column": "R@5", "key": "recall@5", "better": "higher"}.items() <= next(
        row.items() for row in output.json if row["key"] == "recall@5"
    )
    text = cli("metrics").out
    assert all(row["key"] in text for row in output.json)
