"""A matrix as a library call: its plan, what goes on, what is refused before anything is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nextvec.corpus.store import Store
from nextvec.errors import ConfigError, NextvecError, RunError
from nextvec.evaluation.harness import Judging
from nextvec.evaluation.table import format_table
from nextvec.experiments import matrix
from nextvec.experiments.judging import Exam
from nextvec.experiments.matrix import Plan, read_table, run_matrix

HOW = Judging(resamples=100, quiet=True, baselines=("copy-last", "linear average"))


@pytest.fixture
def run(world: Store, make_tiny: Callable[..., Any], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """run("lstm", "gru", seeds=2, set=[...]): a matrix in tmp_path/"m" with 3 updates a cell."""

    def call(*models: str, seeds: int = 1, set: tuple[str, ...] = (), how: Judging = HOW) -> dict[str, Any]:
        plan = Plan(str(world.path), models, seeds)

        def configure(model: str, seed: int) -> Any:
            return make_tiny(model, "optim.max_updates=3", *set, seed=seed)

        return run_matrix(world, plan, configure, tmp_path / "m", Exam(), how, quiet=True)

    return call


def test_a_plan_runs_every_model_before_any_twice() -> None:
    cells = Plan("store", ("a", "b"), 2).cells
    assert [cell.name for cell in cells] == ["a-seed0", "b-seed0", "a-seed1", "b-seed1"]
    for models, seeds in (((), 1), (("a", "a"), 1), (("a",), 0)):
        with pytest.raises(ValueError, match=r"a matrix needs|named twice"):
            Plan("store", models, seeds)


def test_the_table_on_disk_is_the_one_returned(run, tmp_path: Path) -> None:
    table = run("lstm", "mlp", seeds=2)
    assert read_table(tmp_path / "m") == json.loads(json.dumps(table))
    assert table["plan"] == {"store": table["store"], "models": ("lstm", "mlp"), "seeds": 2}
    rows = {row["name"]: row for row in table["rows"]}
    assert rows.keys() == {"copy-last", "linear average", "lstm", "mlp"}
    assert rows["lstm"]["seeds"] == 2
    assert rows["lstm"]["cosine_seed_std"] > 0
    assert "lstm" in format_table(read_table(tmp_path / "m"))


def test_seeds_give_other_models_and_the_same_seed_the_same(run, tmp_path: Path) -> None:
    table = run("lstm", seeds=2)
    first, second = table["rows"][-1]["per_seed"]
    assert first["cosine"] != second["cosine"]
    (tmp_path / "m").rename(tmp_path / "was")
    again = run("lstm", seeds=1)
    assert again["rows"][-1]["per_seed"][0]["cosine"] == first["cosine"]


def test_a_fault_of_ours_in_one_model_is_kept_with_its_trace(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = matrix.train

    def train(store: Store, config: Any, *arguments: Any, **options: Any) -> Any:
        if config.model.name == "lstm":
            raise ZeroDivisionError("nothing to divide by")
        return real(store, config, *arguments, **options)

    monkeypatch.setattr(matrix, "train", train)
    table = run("lstm", "mlp")
    error = tmp_path / "m" / "runs" / "lstm-seed0" / "error.txt"
    assert table["failed"] == {"lstm-seed0": f"ZeroDivisionError: nothing to divide by (see {error})"}
    assert "Traceback" in error.read_text()
    assert [row["name"] for row in table["rows"]][-1] == "mlp"
    monkeypatch.undo()
    mended = run("lstm", "mlp")
    assert mended["failed"] == {}
    assert not error.exists()


def test_when_no_model_can_be_trained(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*_: Any, **__: Any) -> Any:
        raise ConfigError("not today", remedy="come back")

    monkeypatch.setattr(matrix, "train", train)
    with pytest.raises(RunError, match="no model could be trained; the first: not today; come back"):
        run("lstm", "mlp")


@pytest.mark.parametrize(
    ("change", "how", "said"),
    [
        (("loss.mse=0", "loss.cosine=0"), HOW, "every loss weight is zero"),
        (("data.min_context=20",), HOW, "longest document has 12"),
        (("data.sources=['press']",), HOW, "no document of source 'press'"),
        (("model.preset=huge",), HOW, "unknown preset"),
        (("data.split.test=0.0",), HOW, "split 'test' has no documents"),
        ((), Judging(context=12), "use a context of at most 11"),
    ],
)
def test_what_would_stop_every_model_is_said_before_anything_is_written(
    run, tmp_path: Path, change: tuple[str, ...], how: Judging, said: str
) -> None:
    with pytest.raises(NextvecError, match=said):
        run("lstm", "mlp", set=change, how=how)
    assert not (tmp_path / "m").exists()


def test_a_folder_of_something_else(run, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="is there already and holds no matrix"):
        run("lstm")
    assert [p.name for p in (tmp_path / "m").iterdir()] == ["notes.txt"]


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"matrix\.json: not found; run `nextvec matrix`"):
        read_table(tmp_path)
