"""`nextvec evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from nextvec.cli import common
from nextvec.cli.common import flag, names, output
from nextvec.errors import ConfigError
from nextvec.text import columns, fill

if TYPE_CHECKING:
    from nextvec.evaluation.harness import EvaluationConfig

EVALUATION = Group("Evaluation")
Task = Literal["next", "middle"]
Markdown = Annotated[bool, flag("Print the table as Markdown.")]
Wide = Annotated[bool, flag("Print every column (default: those that fit into 100 characters).")]
DEFAULT_CONTEXT = 5


@Parameter(name="*", group=EVALUATION)
@dataclass(frozen=True)
class TableFlags:
    """How a table is made; shared by the verbs that evaluate."""

    split: common.Split = "test"
    judge_context: Annotated[
        int | None,
        flag(
            "Chunks read at least before each target, and what the baselines use "
            "(default: 5; of task middle what the run reads)."
        ),
    ] = None
    candidates: common.Candidates = "split"
    k: Annotated[str | None, flag("recall@k to report, e.g. 1,5,20.")] = None
    baselines: Annotated[str | None, flag("Only these baselines, separated by commas.")] = None
    leak_limit: Annotated[
        float,
        flag(
            "Refuse where more than this share of the documents or different target texts stands in "
            "training; what is found is dropped either way."
        ),
    ] = 0.1
    bootstrap_seed: Annotated[int, flag("Of the resampling of documents.")] = 0
    no_speed: Annotated[bool, flag("Do not measure latency and throughput.")] = False
    markdown: Markdown = False
    wide: Wide = False

    def config(
        self, horizon: int, *, quiet: bool, context: int = DEFAULT_CONTEXT, **question: Any
    ) -> EvaluationConfig:
        """As the harness takes it; `context` is what --judge-context is by default, `question` its task and
        queries."""
        from nextvec.evaluation.harness import EvaluationConfig

        return EvaluationConfig(
            context=context if self.judge_context is None else self.judge_context,
            horizon=horizon,
            candidates=self.candidates,
            ks=common.numbers(self.k, int, "are not ranks", "--k", "1,5,20") or None,
            leak_limit=self.leak_limit,
            baselines=names(self.baselines) or None,
            seed=self.bootstrap_seed,
            speed=not self.no_speed,
            quiet=quiet,
            **question,
        )


def evaluate(
    *runs: Annotated[
        str,
        flag(
            "Folders of runs or ensembles, addresses of servers (http://HOST:PORT, or with #MODEL), or "
            "the word baselines to evaluate these alone."
        ),
    ],
    store: Annotated[Path, flag("The store to evaluate on; it may be another than trained on.")],
    flags: TableFlags | None = None,
    sources: Annotated[
        str | None, flag("Evaluate these sources only, separated by commas.", group=EVALUATION)
    ] = None,
    train_sources: Annotated[
        str | None, flag("Fit the baselines on these (default: the runs').", group=EVALUATION)
    ] = None,
    split_file: Annotated[common.SplitFile, Parameter(group=EVALUATION)] = None,
    horizon: Annotated[int, flag("How many chunks ahead the target is.", group=EVALUATION)] = 1,
    task: Annotated[
        Task, flag("What is predicted: what follows, or what is missing amid the chunks.", group=EVALUATION)
    ] = "next",
    queries: Annotated[
        bool, flag("Give conditional runs a later chunk to write towards.", group=EVALUATION)
    ] = False,
    device: Annotated[Literal["cpu", "cuda", "mps"], flag("Where the models predict.")] = "cpu",
    json: common.JsonTarget = None,
    quiet: common.Quiet = False,
) -> None:
    """Evaluate trained runs beside the baselines on documents that they never saw.

    Every predictor faces the same windows and the same candidates. What stands in training is dropped and
    counted; more than 10 % of it is refused.
    """
    from nextvec.corpus.store import Store
    from nextvec.evaluation.table import format_report
    from nextvec.experiments.evaluating import evaluate_runs
    from nextvec.experiments.mixing import open_evaluated

    flags = flags or TableFlags()
    if not runs:
        raise ConfigError("nothing to evaluate", where="nextvec evaluate", remedy="name a run, or baselines")
    opened = Store.open(store)
    chosen = common.selection(flags.split, sources, split_file, train_sources)
    predictors = [open_evaluated(run, device) for run in runs if run != "baselines"]
    context = int(predictors[0].training["context"]) if task == "middle" and predictors else DEFAULT_CONTEXT
    how = flags.config(horizon, quiet=quiet, context=context, task=task, queries=queries)
    report = evaluate_runs(opened, predictors, chosen, how)
    output(format_report(report, markdown=flags.markdown, wide=flags.wide), report.to_json(), json)


def ensemble(
    *runs: Annotated[str, flag("Run folders.")],
    store: Annotated[Path, flag("The store whose validation documents the weights are fitted on.")],
    out: Annotated[Path, flag("Folder of the ensemble; `nextvec evaluate` takes it as a run.")],
    baselines: Annotated[str | None, flag("Baselines to mix in, e.g. 'exponential averages,ridge'.")] = None,
    context: Annotated[int, flag("Chunks read at least before a target (and what baselines use).")] = 5,
    horizon: Annotated[int, flag("How many chunks ahead the target is.")] = 1,
    task: Annotated[Task, flag("What the runs were trained for.")] = "next",
    queries: Annotated[bool, flag("Fit the weights with what conditional runs are given.")] = False,
    split_file: common.SplitFile = None,
) -> None:
    """Mix runs, and runs with baselines: weights that are never negative, fitted on validation only.

    Evaluate it like a run: nextvec evaluate OUT --store STORE.
    """
    from nextvec.corpus.store import Store
    from nextvec.evaluation.harness import EvaluationConfig
    from nextvec.experiments.mixing import fit_ensemble

    how = EvaluationConfig(context=context, horizon=horizon, task=task, queries=queries, quiet=True)
    chosen = common.selection(split_file=split_file)
    fitted = fit_ensemble(Store.open(store), runs, names(baselines), chosen, how, out)
    made = fitted.ensemble
    rows = [
        [member.name, f"{raw:.3f}", f"{unit:.3f}"]
        for member, raw, unit in zip(made.members, made.mixture.raw, made.mixture.unit, strict=True)
    ]
    print(f"weights fitted on {fitted.windows:,} validation windows")
    if fitted.few:
        print("of so few the weights are partly chance; it takes more validation documents")
    print()
    print(columns(["member", "raw", "unit"], rows))
    command = f"nextvec evaluate {out} --store {store} --split test"
    print(f"\nensemble: {out}\nevaluate it beside the baselines: {command}")


def metrics(*, json: common.JsonTarget = None) -> None:
    """Explain every figure that an evaluation prints or writes: its column in the table, its key in the JSON,
    which way is better.
    """
    from nextvec.evaluation.table import explain

    explained = explain()
    figures = [dict(zip(("column", "key", "better", "says"), row, strict=True)) for row in explained]
    lines = ["column (- : in the JSON alone), key, which way is better (- : neither)", ""]
    for column, key, better, says in explained:
        lines.append(fill(says, f"{column or '-':12}  {key:24}  {better or '-':6}  ", " " * 8))
    output("\n".join(lines), figures, json)
