"""Many models under one protocol: same data, same selection, same baselines, several seeds.

A matrix is a folder: `matrix.toml` (the plan), `runs/<row>-seed<n>/` (a run each; of a cross-validation
`...-fold<k>/`), `matrix.json` (the table), `answers.safetensors` (what every predictor answered, window by
window; of several seeds the first's).
Objectives, tasks and any other keys of the configuration are axes beside the models. It may be interrupted at
any time and started again; a run that fails does not stop the others and is reported. Predictors of another
task or another horizon answer another question, so each question has a table of its own; the first is the
main one, the others stand under `others`. What was trained with queries is evaluated both ways: without them
beside all others, and with them in a table of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from nextvec.checkpoint import CONFIG
from nextvec.config import flatten, refuse_changes, to_dict, write_toml
from nextvec.corpus.store import Store
from nextvec.data.windows import Task, Windows
from nextvec.disk import locked, write_json
from nextvec.errors import EvaluationError, NextvecError, RunError
from nextvec.evaluation.baselines import QUERY_BASELINES
from nextvec.evaluation.evaluation_set import Leaks
from nextvec.evaluation.harness import EvaluationConfig
from nextvec.evaluation.intervals import DocumentBootstrap
from nextvec.evaluation.results import KEPT, KeptPredictions, PredictorRow, Report, compare
from nextvec.evaluation.table import TABLE
from nextvec.experiments.evaluating import DocumentSelection, check_evaluation, evaluate_runs
from nextvec.experiments.plan import MatrixCell, MatrixPlan, held_plan, train_cells
from nextvec.inference.predictor import RunPredictor
from nextvec.models.saving import WEIGHTS
from nextvec.training.checks import check_config
from nextvec.training.config import TrainConfig, read_config
from nextvec.training.session import FREE_TO_CHANGE

PLAN = "matrix.toml"
Configure = Callable[[MatrixCell], TrainConfig]


@dataclass(frozen=True)
class Question:
    """What is predicted from what: predictors that answer different ones cannot stand in one table."""

    task: Task
    horizon: int
    context: int
    queries: bool = False

    @property
    def name(self) -> str:
        task = f"{self.task}-{self.horizon}" if self.task == "next" else f"{self.task}-of-{self.context}"
        return f"{task}-with-query" if self.queries else task

    def config(self, how: EvaluationConfig) -> EvaluationConfig:
        """`how`, for this question. Where something is given, the baseline that uses it is always there."""
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
    plan: MatrixPlan,
    configure: Configure,
    out: Path,
    selection: DocumentSelection,
    how: EvaluationConfig,
    *,
    beside: Sequence[RunPredictor] = (),
    jobs: int = 1,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train every cell, evaluate all that finished, and write `matrix.json`.

    Args:
        configure: the training configuration of a cell.
        how: the evaluation; its task and horizon are taken from the cells.
        beside: models that are trained already, for rows of their own.
        jobs: runs trained at the same time, in processes of their own; the cores are shared among them.
    Returns: the main report's JSON with "failed" added: run name -> what went wrong, and "others": the
        reports of the other questions by name.
    Raises:
        BusyError: another process is writing `out`. DiskError: it cannot be written to.
        RunError: `out` holds another matrix or runs of another configuration, or no model could be trained.
        TrainingInterrupted: everything is saved; call again to go on.
        ConfigError, SplitError, WindowError: nothing could be trained or evaluated; nothing is written then.
        What `evaluate_runs` raises.
    """
    configs = _configs(store, plan, configure, out, selection, how)
    with locked(out):
        _claim(out, plan)
        failed = train_cells(store, configs, out, jobs=jobs, quiet=quiet)
        lost = {cell.across for cell in configs if cell.name in failed}  # a fold less is another table
        finished = {cell: config for cell, config in configs.items() if cell.across not in lost}
        if not finished:
            first = next(iter(failed.values()))
            raise RunError(f"no model could be trained; the first: {first}", where=out)
        tables: dict[Question, Report] = {}
        for question, cells in questions(finished, how).items():
            config = question.config(replace(how, keep=not tables or bool(plan.folds)))
            parts = [
                evaluate_runs(
                    store,
                    [*(RunPredictor(out / "runs" / c.name, c.across) for c in fold), *beside],
                    selection,
                    config,
                )
                for fold in by_fold(cells).values()
            ]
            tables[question] = merged(joined(parts), plan, [c for c in cells if not c.fold], beside)
        KeptPredictions.of(next(iter(tables.values())), store.fingerprint).write(out / KEPT)
        return write_table(out, tables, plan, failed)


def join_matrix(
    store: Store,
    plan: MatrixPlan,
    configure: Configure,
    out: Path,
    selection: DocumentSelection,
    how: EvaluationConfig,
    *,
    jobs: int = 1,
    quiet: bool = False,
) -> dict[str, str]:
    """Train the cells of a matrix that nobody trains, until all have ended; `run_matrix`, in another process
    that may start before or after, makes the table. Each run is locked by who trains it.

    Returns: run name -> what went wrong, of those that failed.
    Raises: as `run_matrix`, but no BusyError.
    """
    configs = _configs(store, plan, configure, out, selection, how)
    _claim(out, plan, join=True)
    return train_cells(store, configs, out, jobs=jobs, quiet=quiet, join=True)


def by_fold(cells: Sequence[MatrixCell]) -> dict[int | None, list[MatrixCell]]:
    """The cells of each fold; without folds all of them."""
    found: dict[int | None, list[MatrixCell]] = {}
    for cell in cells:
        found.setdefault(cell.fold, []).append(cell)
    return found


def questions(
    configs: Mapping[MatrixCell, TrainConfig], how: EvaluationConfig
) -> dict[Question, list[MatrixCell]]:
    """The cells that answer each question; a cell with several horizons answers several, and one trained with
    queries each of them twice: without queries and with them."""
    found: dict[Question, list[MatrixCell]] = {}
    for cell, config in configs.items():
        data = config.data
        for horizon in data.horizons:
            # What lies on both sides of a gap is of a fixed width; before a next chunk more may be read.
            context = data.context if data.task == "middle" else how.context
            for queries in (False, True)[: 1 + (data.conditional > 0)]:
                found.setdefault(Question(data.task, horizon, context, queries), []).append(cell)
    return found


def _configs(
    store: Store,
    plan: MatrixPlan,
    configure: Configure,
    out: Path,
    selection: DocumentSelection,
    how: EvaluationConfig,
) -> dict[MatrixCell, TrainConfig]:
    """What each cell trains. Raises, before anything is written, what would stop every cell, or the
    evaluation after all of them."""
    configs = {cell: configure(cell) for cell in plan.cells}
    for cell, config in configs.items():
        path = out / "runs" / cell.name / CONFIG
        if path.is_file():
            held = flatten(to_dict(read_config(path)))
            refuse_changes(path.parent, held, flatten(to_dict(config)), FREE_TO_CHANGE)
    wrong: list[NextvecError] = []
    for config in (config for cell, config in configs.items() if cell.seed == 0):  # seeds differ in nothing
        try:
            check_config(store, config)
        except NextvecError as e:
            wrong.append(e)
    if len(wrong) == sum(cell.seed == 0 for cell in configs):
        raise wrong[0]
    several = questions(configs, how).items()
    for question, cells in ((each, part) for each, every in several for part in by_fold(every).values()):
        splits = [configs[cell].data.split for cell in cells]
        sources = [configs[cell].data.sources for cell in cells]
        if selection.division is None and any(split != splits[0] for split in splits):
            raise _differ("split")
        if selection.train_sources is None and any(each != sources[0] for each in sources):
            raise _differ("sources")
        check_evaluation(store, selection, question.config(how), splits[0], sources[0])
    return configs


def _differ(key: str) -> EvaluationError:
    return EvaluationError(
        f"the runs would differ in their {key}, so that no one table could hold them",
        where=f"data.{key}",
        remedy=f"leave data.{key} out of --vary, and make a matrix of each",
    )


def merged(
    report: Report, plan: MatrixPlan, cells: Sequence[MatrixCell], beside: Sequence[RunPredictor] = ()
) -> Report:
    """The report with the seeds of a combination in one row."""
    for cell in cells:
        report.row(cell.across).metadata |= {
            "model_file": f"runs/{cell.name}/model.safetensors",
            "seed": cell.seed,
        }
    for run in beside:
        report.row(run.name).metadata["model_file"] = str(run.folder / WEIGHTS)
    present = {row.name for row in report.rows}
    groups = {run.name: [run.name] for run in beside} | {
        row: [cell.across for cell in cells if cell.row == row and cell.across in present]
        for row in plan.rows
    }
    return merge_seeds(report, {row: names for row, names in groups.items() if names})


def write_table(
    out: Path, tables: Mapping[Question, Report], plan: MatrixPlan, failed: dict[str, str]
) -> dict[str, Any]:
    """Write `matrix.json`: the first question's table, and the others beside it."""
    (_, main), *others = tables.items()
    figures = {
        **main.to_json(),
        "failed": failed,
        "plan": asdict(plan),
        "others": {question.name: report.to_json() for question, report in others},
    }
    write_json(out / TABLE, figures, sealed=True)
    return figures


def _claim(out: Path, plan: MatrixPlan, *, join: bool = False) -> None:
    """Write the plan, or check that the one there is the same but for what may grow; to join, the same."""
    held = held_plan(out, PLAN, MatrixPlan, "matrix")
    if held is not None and held.store != plan.store:
        raise RunError(f"holds a matrix of {held.store}", where=out, remedy="give another folder with --out")
    if join and held not in (None, plan):
        message = "holds a matrix of other runs"
        raise RunError(message, where=out, remedy="join it with the flags it was started with")
    write_toml(out / PLAN, plan)


# Tables of several runs as one: of all folds of a cross-validation, in which every document is evaluated
# once by models that did not see it, and of runs that differ in their seed only: the mean is claimed then.

SPREAD = ("cosine", "mse", "recall@5", "mrr")


def joined(reports: Sequence[Report]) -> Report:
    """One table of several whose documents differ: every window counts once, intervals are over all of them.

    Figures that are means over windows are those of all windows; others (a spread, a set-level distance) are
    means of the folds', weighted by their windows. Every window keeps the candidates of its own fold.

    Args:
        reports: of the same predictors by name, made with `EvaluationConfig.keep`; one alone is returned as
            it is. A row that not all of them have is left out.
    Raises:
        EvaluationError: answers were not kept.
    """
    first = reports[0]
    if len(reports) == 1:
        return first
    windows = [report.evaluated for report in reports if report.evaluated is not None]
    if len(windows) < len(reports):
        raise EvaluationError("answers were not kept", remedy="evaluate with keep=True")
    evaluated, weights = Windows.joined(windows), [report.windows for report in reports]
    names = set.intersection(*({row.name for row in report.rows} for report in reports))
    leaks = [report.leaks for report in reports if report.leaks is not None]

    def mean(of: str) -> float:
        return float(np.average([getattr(report, of) for report in reports], weights=weights))

    made = replace(
        first,
        windows=len(evaluated),
        documents=len(np.unique(evaluated.document)),
        queries=None if first.queries is None else sum(report.queries or 0 for report in reports),
        pool=round(mean("pool")),
        eligible=mean("eligible"),
        ties=sum(report.ties for report in reports),
        chance={
            key: float(np.average([report.chance[key] for report in reports], weights=weights))
            for key in first.chance
            if all(key in report.chance for report in reports)
        },
        leaks=Leaks(**{f.name: sum(getattr(each, f.name) for each in leaks) for f in fields(Leaks)})
        if leaks
        else None,
        rows=[
            _of_folds([r.row(row.name) for r in reports], weights) for row in first.rows if row.name in names
        ],
        best={},
        evaluated=evaluated,
        squared_length=mean("squared_length"),
        folds=len(reports),
    )
    known = next((report.bootstrap for report in reports if report.bootstrap is not None), None)
    if made.documents > 1:
        drawn = {} if known is None else {"resamples": known.resamples}
        made.bootstrap = DocumentBootstrap(evaluated.document, seed=first.seed, **drawn)
    compare(made)
    return made


def _of_folds(rows: Sequence[PredictorRow], weights: Sequence[int]) -> PredictorRow:
    values = {
        key: np.concatenate([row.values[key] for row in rows])
        for key in rows[0].values
        if all(key in row.values for row in rows)
    }
    figures = {key: _mean([row.figures.get(key) for row in rows], weights) for key in rows[0].figures}
    figures |= {key: float(values[key].mean()) for key in values if figures[key] is not None}
    units = [row.units for row in rows if row.units is not None]
    metadata = dict.fromkeys(rows[0].metadata) | _common(rows)
    kept = np.concatenate(units) if len(units) == len(rows) else None
    return PredictorRow(rows[0].name, rows[0].kind, metadata, figures, values, units=kept)


def merge_seeds(report: Report, groups: Mapping[str, Sequence[str]]) -> Report:
    """A report with one row for each group of rows, in place of them.

    Figures are means over the seeds; per-window values too, so that the interval over documents is that of
    the mean. The row keeps every seed's own figures under `per_seed`, and their standard deviation
    (n - 1; nothing for one seed) under `<metric>_seed_std`. Of predictions, those of the first seed are kept.

    Args:
        groups: name of the merged row -> names of its rows. Rows in no group stay as they are.
    """
    taken = {name for names in groups.values() for name in names}
    merged = [_of_seeds(group, [report.row(name) for name in names]) for group, names in groups.items()]
    rows = [*(row for row in report.rows if row.name not in taken), *merged]
    for row in rows:
        row.versus = {}
    out = replace(report, rows=rows, best={})
    compare(out)
    return out


def _of_seeds(name: str, rows: Sequence[PredictorRow]) -> PredictorRow:
    figures = {key: _mean([row.figures[key] for row in rows]) for key in rows[0].figures}
    values = {key: np.mean([row.values[key] for row in rows], axis=0) for key in rows[0].values}
    metadata = {**_common(rows), "seeds": len(rows)}
    if len(rows) > 1:
        for key in SPREAD:
            known = [figure for row in rows if (figure := row.figures[key]) is not None]
            metadata[f"{key}_seed_std"] = float(np.std(known, ddof=1))
    metadata["per_seed"] = [
        {
            "name": row.name,
            **{k: v for k, v in row.metadata.items() if k in ("seed", "model_file", "seconds")},
            **{k: row.figures.get(k) for k in ("cosine", "mse", "recall@1", "recall@5", "mrr")},
        }
        for row in rows
    ]
    return PredictorRow(name, rows[0].kind, metadata, figures, values, units=rows[0].units)


def _common(rows: Sequence[PredictorRow]) -> dict[str, Any]:
    """What the rows' metadata say in common: of numbers that differ the mean; what else differs goes."""
    out: dict[str, Any] = {}
    for key in rows[0].metadata:
        found = [row.metadata.get(key) for row in rows]
        if all(value == found[0] for value in found):
            out[key] = found[0]
        elif all(isinstance(value, (int, float)) for value in found):
            out[key] = _mean(found)
    return out


def _mean(values: Sequence[Any], weights: Sequence[int] | None = None) -> float | None:
    """None where one of them is not known."""
    return None if None in values else float(np.average(np.asarray(values, np.float64), weights=weights))
