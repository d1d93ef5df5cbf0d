"""Many models under one protocol: same data, same exam, same baselines, several seeds.

A matrix is a folder: `matrix.toml` (the plan), `runs/<row>-seed<n>/` (a run each), `matrix.json` (the table),
`answers.safetensors` (what every predictor answered, window by window; of several seeds the first's).
Objectives, tasks and any other keys of the configuration are axes beside the models. It may be interrupted at
any time and started again; a run that fails does not stop the others and is reported. Predictors of another
task or another horizon answer another question, so each question has a table of its own; the first is the
main one, the others stand under `others`. What was trained with queries is judged both ways: untold beside
all others, and told in a table of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nextvec.config import flatten, from_dict, read_toml, refuse_changes, to_dict, write_toml
from nextvec.corpus.store import Store
from nextvec.data.sampling import Task
from nextvec.disk import read_json, refuse_taken, write_json
from nextvec.errors import NextvecError, RunError
from nextvec.evaluation.answers import ANSWERS, Answers
from nextvec.evaluation.baselines import QUERY_BASELINES
from nextvec.evaluation.harness import Judging
from nextvec.evaluation.report import Report
from nextvec.evaluation.seeds import merge_seeds
from nextvec.experiments.cells import train_cells
from nextvec.experiments.judging import Exam, judge_runs, judged_windows
from nextvec.experiments.plan import Cell, Plan
from nextvec.inference.predictor import RunPredictor
from nextvec.training.config import TrainConfig, read_config
from nextvec.training.session import CONFIG, FREE_TO_CHANGE, check_config

PLAN, TABLE = "matrix.toml", "matrix.json"
Configure = Callable[[Cell], TrainConfig]


@dataclass(frozen=True)
class Question:
    """What is predicted from what: predictors that answer different ones cannot stand in one table."""

    task: Task
    horizon: int
    context: int
    queries: bool = False

    @property
    def name(self) -> str:
        asked = f"{self.task}-{self.horizon}" if self.task == "next" else f"{self.task}-of-{self.context}"
        return f"{asked}-with-query" if self.queries else asked

    def judging(self, how: Judging) -> Judging:
        """`how`, for this question. Where something is told, the baseline that uses it is always there."""
        baselines = how.baselines
        if self.queries and baselines is not None:
            baselines = (*baselines, *QUERY_BASELINES)
        return replace(
            how,
            task=self.task,
            horizon=self.horizon,
            context=self.context,
            queries=self.queries,
            baselines=baselines,
        )


def run_matrix(
    store: Store,
    plan: Plan,
    configure: Configure,
    out: Path,
    exam: Exam,
    how: Judging,
    *,
    jobs: int = 1,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train every cell, judge all that finished, and write `matrix.json`.

    Args:
        configure: the training configuration of a cell.
        how: the judging; its task and horizon are taken from the cells.
        jobs: runs trained at the same time, in processes of their own; the cores are shared among them.
    Returns: the main report's JSON with "failed" added: run name -> what went wrong, and "others": the
        reports of the other questions by name.
    Raises:
        RunError: `out` holds another matrix or runs of another configuration, or no model could be trained.
        TrainingInterrupted: everything is saved; call again to go on.
        ConfigError, SplitError, WindowError: nothing could be trained or judged; nothing is written then.
        What `judge_runs` raises.
    """
    configs = {cell: configure(cell) for cell in plan.cells}
    _check(store, configs, out, exam, how)
    _claim(out, plan)
    failed = train_cells(store, configs, out, jobs=jobs, quiet=quiet)
    finished = {cell: config for cell, config in configs.items() if cell.name not in failed}
    if not finished:
        first = next(iter(failed.values()))
        raise RunError(f"no model could be trained; the first: {first}", where=out)
    tables: dict[Question, Report] = {}
    for question, cells in questions(finished, how).items():
        runs = [RunPredictor(out / "runs" / cell.name) for cell in cells]
        report = judge_runs(store, runs, exam, question.judging(replace(how, keep=not tables)))
        tables[question] = merged(report, plan, cells)
    Answers.of(next(iter(tables.values())), store.fingerprint).write(out / ANSWERS)
    return write_table(out, tables, plan, failed)


def questions(configs: Mapping[Cell, TrainConfig], how: Judging) -> dict[Question, list[Cell]]:
    """The cells that answer each question; a cell with several horizons answers several, and one trained with
    queries each of them twice: untold and told."""
    found: dict[Question, list[Cell]] = {}
    for cell, config in configs.items():
        data = config.data
        for horizon in data.horizons:
            # What lies on both sides of a gap is of a fixed width; before a next chunk more may be read.
            context = data.context if data.task == "middle" else how.context
            for queries in (False, True)[: 1 + (data.conditional > 0)]:
                found.setdefault(Question(data.task, horizon, context, queries), []).append(cell)
    return found


def _check(store: Store, configs: dict[Cell, TrainConfig], out: Path, exam: Exam, how: Judging) -> None:
    """Raise, before anything is written, what would stop every cell, or the judging after all of them."""
    for cell, config in configs.items():
        _check_same(out / "runs" / cell.name, config)
    wrong: list[NextvecError] = []
    for config in (config for cell, config in configs.items() if cell.seed == 0):  # seeds differ in nothing
        try:
            check_config(store, config)
        except NextvecError as e:
            wrong.append(e)
    if len(wrong) == sum(cell.seed == 0 for cell in configs):
        raise wrong[0]
    shared = next(iter(configs.values()))
    judged = replace(exam, division=exam.division or shared.data.split)
    for question in questions(configs, how):
        judged_windows(store, [], judged, question.context, question.horizon, question.task)


def merged(report: Report, plan: Plan, cells: Sequence[Cell]) -> Report:
    """The report with the seeds of a combination in one row."""
    for cell in cells:
        report.row(cell.name).facts |= {
            "model_file": f"runs/{cell.name}/model.safetensors",
            "seed": cell.seed,
        }
    groups = {row: [cell.name for cell in cells if cell.row == row] for row in plan.rows}
    return merge_seeds(report, {row: names for row, names in groups.items() if names})


def write_table(
    out: Path, tables: Mapping[Question, Report], plan: Plan, failed: dict[str, str]
) -> dict[str, Any]:
    """Write `matrix.json`: the first question's table, and the others beside it."""
    (_, main), *others = tables.items()
    figures = {
        **main.to_json(),
        "failed": failed,
        "plan": asdict(plan),
        "others": {question.name: report.to_json() for question, report in others},
    }
    write_json(out / TABLE, figures)
    return figures


def read_table(out: Path) -> dict[str, Any]:
    """The table of a matrix. Raises RunError naming the file."""
    remedy = "run `nextvec matrix` with this folder to its end"
    table = read_json(out / TABLE, RunError, remedy=remedy)
    if not isinstance(table, dict) or not isinstance(table.get("rows"), list) or "failed" not in table:
        raise RunError("is not the table of a matrix", where=out / TABLE, remedy=remedy)
    return table


def _claim(out: Path, plan: Plan) -> None:
    """Write the plan, or check that the one there is the same but for what may grow."""
    path = out / PLAN
    if path.is_file():
        held = from_dict(Plan, read_toml(path), where=path)
        if held.store != plan.store:
            raise RunError(
                f"holds a matrix of {held.store}", where=out, remedy="give another folder with --out"
            )
    else:
        refuse_taken(
            out, RunError, "give another folder with --out", why="is there already and holds no matrix"
        )
    write_toml(path, plan)


def _check_same(folder: Path, config: TrainConfig) -> None:
    """Raise RunError when the folder holds a run of another configuration."""
    path = folder / CONFIG
    if path.is_file():
        held = read_config(path)
        refuse_changes(folder, flatten(to_dict(held)), flatten(to_dict(config)), FREE_TO_CHANGE)
