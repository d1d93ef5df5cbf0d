"""A matrix as a library call: its plan, what goes on, what is refused before anything is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from nextvec.config import from_dict, merge, to_dict
from nextvec.corpus.store import Store
from nextvec.data.trained import TRAINED_ON, TrainedOn
from nextvec.errors import ConfigError, NextvecError, RunError
from nextvec.evaluation.harness import EvaluationConfig
from nextvec.evaluation.table import format_table, read_table
from nextvec.experiments import plan as cells
from nextvec.experiments.evaluating import DocumentSelection, evaluate_runs
from nextvec.experiments.matrix import run_matrix
from nextvec.experiments.plan import MatrixCell, MatrixPlan, parse_axis
from nextvec.inference.predictor import RunPredictor
from nextvec.reporting.inputs import ReportInputs
from nextvec.training.config import TrainConfig, layer_names

HOW = EvaluationConfig(resamples=100, quiet=True, baselines=("copy-last", "linear average"))


@pytest.fixture
def run(world: Store, make_tiny: Callable[..., Any], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """run("lstm", "gru", seeds=2, set=[...]): a matrix in tmp_path/"m" with 3 updates a cell."""

    def call(
        *models: str,
        seeds: int = 1,
        set: tuple[str, ...] = (),
        how: EvaluationConfig = HOW,
        jobs: int = 1,
        beside: Sequence[RunPredictor] = (),
        **axes: Any,
    ) -> dict[str, Any]:
        plan = MatrixPlan(str(world.path), models, seeds, **axes)

        def configure(cell: MatrixCell) -> Any:
            tiny = make_tiny(cell.model, "optim.max_updates=3", *set, seed=cell.seed)
            return from_dict(TrainConfig, merge(to_dict(tiny), cell.named, cell.layer), where="test")

        out = tmp_path / "m"
        return run_matrix(
            world, plan, configure, out, DocumentSelection(), how, beside=beside, jobs=jobs, quiet=True
        )

    return call


def test_a_plan_runs_every_model_before_any_twice() -> None:
    planned = MatrixPlan("store", ("a", "b"), 2).cells
    assert [cell.name for cell in planned] == ["a-seed0", "b-seed0", "a-seed1", "b-seed1"]
    for models, seeds in (((), 1), (("a", "a"), 1), (("a",), 0)):
        with pytest.raises(ValueError, match=r"a matrix needs|named twice"):
            MatrixPlan("store", models, seeds)


def test_axes_are_crossed() -> None:
    vary = ("model.options.hidden=8,16",)
    plan = MatrixPlan("store", ("a",), 1, objectives=("mse", "infonce"), tasks=("next",), vary=vary)
    assert plan.rows == [
        "a-mse-next-hidden=8",
        "a-mse-next-hidden=16",
        "a-infonce-next-hidden=8",
        "a-infonce-next-hidden=16",
    ]
    last = plan.cells[-1]
    assert {term: weight for term, weight in last.named["loss"].items() if weight} == {"infonce": 1.0}
    assert last.named["data"]["conditional"] == 0
    assert last.layer == {"model": {"options": {"hidden": 16}}}
    for text in ("data.context", "data.context=", "=5", "data.context=5,5", "data.context=5,,6"):
        with pytest.raises(ConfigError, match="is not an axis"):
            parse_axis(text)
    labels = [
        label for label, _ in parse_axis("data.context+optim.lr+optim.clip=8+1e-3+1,8+1e-4+1,16+1e-4+0")
    ]
    assert labels == ["context=8-lr=1e-3", "context=8-lr=1e-4", "context=16-lr=1e-4"]
    (one, first), (two, second) = parse_axis("data.context+optim.batch_size=1+64,8+8")
    assert (one, two) == ("context=1", "context=8")
    assert first == {"data": {"context": 1}, "optim": {"batch_size": 64}}
    assert second == {"data": {"context": 8}, "optim": {"batch_size": 8}}
    with pytest.raises(ConfigError, match="joins 2 keys"):
        parse_axis("data.context+optim.batch_size=1,2")
    with pytest.raises(ConfigError, match="did you mean 'infonce'"):
        MatrixPlan("store", ("a",), 1, objectives=("infonc",))
    with pytest.raises(ValueError, match="at most"):
        MatrixPlan("store", ("a",), 10_000, objectives=("mse", "infonce"))


# The brief's weights of 1e-3 have no say beside InfoNCE, as the warning tells whoever trains with them.
@pytest.mark.filterwarnings("ignore::nextvec.errors.NextvecWarning")
def test_every_objective_can_be_trained_beside_every_other(run) -> None:
    objectives = layer_names("objectives")
    assert len(objectives) > 5
    table = run("mlp", objectives=objectives)
    assert table["failed"] == {}
    trained = [row["name"] for row in table["rows"] if row["kind"] == "model"]
    assert trained == [f"mlp-{name}" for name in objectives]


def test_each_question_has_a_table_of_its_own(run, tmp_path: Path) -> None:
    table = run("lstm", tasks=("next", "multi", "middle", "conditional"))
    assert table["failed"] == {}
    models = {
        name: [row["name"] for row in each["rows"] if row["kind"] == "model"]
        for name, each in {"main": table, **table["others"]}.items()
    }
    assert models == {
        "main": ["lstm-next", "lstm-multi", "lstm-conditional"],
        "next-1-with-query": ["lstm-conditional"],
        "next-2": ["lstm-multi"],
        "next-5": ["lstm-multi"],
        "middle-of-6": ["lstm-middle"],
    }
    assert table["others"]["next-5"]["horizon"] == 5
    output = table["others"]["next-1-with-query"]
    assert [row["name"] for row in output["rows"]][:3] == [
        "copy-last",
        "linear average",
        "weights with query",
    ]
    assert 0 < output["queries"] < output["windows"] == table["windows"]
    assert table["queries"] is None
    assert all(row["cosine"] is not None for other in table["others"].values() for row in other["rows"])


def test_runs_side_by_side_give_what_runs_in_turn_give(run, tmp_path: Path) -> None:
    table = run("lstm", "mlp", jobs=2)
    (tmp_path / "m").rename(tmp_path / "was")
    assert [row["cosine"] for row in run("lstm", "mlp")["rows"]] == [row["cosine"] for row in table["rows"]]


def test_the_table_on_disk_is_the_one_returned(run, tmp_path: Path) -> None:
    table = run("lstm", "mlp", seeds=2)
    assert read_table(tmp_path / "m") == json.loads(json.dumps(table))
    assert table["plan"]["models"] == ("lstm", "mlp")
    assert table["plan"]["seeds"] == 2
    assert table["others"] == {}
    rows = {row["name"]: row for row in table["rows"]}
    assert rows.keys() == {"copy-last", "linear average", "lstm", "mlp"}
    assert rows["lstm"]["seeds"] == 2
    assert rows["lstm"]["cosine_seed_std"] > 0
    assert "lstm" in format_table(read_table(tmp_path / "m"))


def test_a_model_that_is_trained_already_has_a_row_beside_them(run, trained: Path, tmp_path: Path) -> None:
    table = run("mlp", beside=[RunPredictor(trained)])
    rows = {row["name"]: row for row in table["rows"] if row["kind"] == "model"}
    assert rows.keys() == {"mlp", "small-lstm"}
    assert RunPredictor(tmp_path / "m" / Path(rows["small-lstm"]["per_seed"][0]["model_file"]).parent)
    assert rows["small-lstm"]["versus_best_baseline"]
    assert {row["name"] for row in ReportInputs.of(tmp_path / "m").models} == rows.keys()


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
    real = cells.train

    def train(store: Store, config: Any, *arguments: Any, **options: Any) -> Any:
        if config.model.name == "lstm":
            raise ZeroDivisionError("nothing to divide by")
        return real(store, config, *arguments, **options)

    monkeypatch.setattr(cells, "train", train)
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

    monkeypatch.setattr(cells, "train", train)
    with pytest.raises(RunError, match="no model could be trained; the first: not today; come back"):
        run("lstm", "mlp")


@pytest.mark.parametrize(
    ("change", "how", "message"),
    [
        (("loss.mse=0", "loss.cosine=0"), HOW, "every loss weight is zero"),
        (("data.min_context=20",), HOW, "longest document has 12"),
        (("data.sources=['press']",), HOW, "no document of source 'press'"),
        (("model.preset=huge",), HOW, "unknown preset"),
        (("data.split.test=0.0",), HOW, "split 'test' has no documents"),
        ((), EvaluationConfig(context=12), "use a context of at most 11"),
    ],
)
def test_what_would_stop_every_model_is_said_before_anything_is_written(
    run, tmp_path: Path, change: tuple[str, ...], how: EvaluationConfig, message: str
) -> None:
    with pytest.raises(NextvecError, match=message):
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


def test_folds_judge_every_document_once_with_intervals_over_all(run, world: Store, tmp_path: Path) -> None:
    table = run("lstm", folds=3, set=("data.split.near_duplicate=1.0",))
    names = sorted(path.name for path in (tmp_path / "m" / "runs").iterdir())
    assert names == ["lstm-seed0-fold0", "lstm-seed0-fold1", "lstm-seed0-fold2"]
    assert [row["name"] for row in table["rows"]] == ["copy-last", "linear average", "lstm"]
    assert (table["folds"], table["documents"]) == (3, len(world.documents))
    assert table["notes"][0].startswith("Cross-validation in 3 folds: every document is evaluated once")
    whole = evaluate_runs(world, [], DocumentSelection(split="all"), HOW)
    assert table["windows"] == whole.windows
    first = table["rows"][0]
    assert first["cosine"] == pytest.approx(whole.row("copy-last").figures["cosine"], abs=1e-6)
    (lstm,) = (row for row in table["rows"] if row["name"] == "lstm")
    assert {"difference", "low", "high"} <= lstm["versus_best_baseline"]["cosine"].keys()
    seen = [
        TrainedOn.load(tmp_path / "m" / "runs" / name / TRAINED_ON).among(world.documents) for name in names
    ]
    for number, document in enumerate(world.documents):
        assert sum(number in fold for fold in seen) == 1, document  # one fold tests it, one validates on it
    assert [found.name for found in ReportInputs.of(tmp_path / "m").runs] == names
    again = run("lstm", folds=3, set=("data.split.near_duplicate=1.0",))
    assert again["rows"][-1]["cosine"] == lstm["cosine"]


def test_a_fold_that_fails_takes_its_row_out_of_the_table(run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = cells.train

    def failing(store: Store, config: Any, folder: Path, **options: Any) -> Any:
        if folder.name == "gru-seed0-fold1":
            raise RunError("broken")
        return real(store, config, folder, **options)

    monkeypatch.setattr(cells, "train", failing)
    table = run("lstm", "gru", folds=3)
    assert list(table["failed"]) == ["gru-seed0-fold1"]
    assert [row["name"] for row in table["rows"] if row["kind"] == "model"] == ["lstm"]
