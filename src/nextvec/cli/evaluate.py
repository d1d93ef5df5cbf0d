"""`nextvec evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from nextvec.cli.common import JsonTarget, Quiet, names, output
from nextvec.errors import ConfigError
from nextvec.text import columns, fill

if TYPE_CHECKING:
    from nextvec.evaluation.harness import EvaluationConfig
    from nextvec.experiments.evaluating import DocumentSelection

EVALUATION = Group("Evaluation")
Wide = Annotated[
    bool, Parameter(negative=(), help="Print every column (default: those that fit into 100 characters).")
]
DEFAULT_CONTEXT = 5


@Parameter(name="*", group=EVALUATION)
@dataclass(frozen=True)
class TableFlags:
    """How a table is made; shared by the verbs that evaluate."""

    split: Annotated[str, Parameter(help="train (labelled in-sample), validation, test or all.")] = "test"
    judge_context: Annotated[
        int | None,
        Parameter(
            help="Chunks read at least before each target, and what the baselines use "
            "(default: 5; of task middle what the run reads)."
        ),
    ] = None
    candidates: Annotated[
        Literal["split", "store", "document"], Parameter(help="What the true next chunk is ranked among.")
    ] = "split"
    k: Annotated[str | None, Parameter(help="recall@k to report, e.g. 1,5,20.")] = None
    baselines: Annotated[str | None, Parameter(help="Only these baselines, separated by commas.")] = None
    leak_limit: Annotated[
        float,
        Parameter(
            help="Refuse where more than this share of the documents or different target texts stands in "
            "training; what is found is dropped either way."
        ),
    ] = 0.1
    bootstrap_seed: Annotated[int, Parameter(help="Of the resampling of documents.")] = 0
    no_speed: Annotated[bool, Parameter(negative=(), help="Do not measure latency and throughput.")] = False
    markdown: Annotated[bool, Parameter(negative=(), help="Print the table as Markdown.")] = False
    wide: Wide = False

    def judging(
        self,
        horizon: int,
        *,
        quiet: bool,
        context: int = DEFAULT_CONTEXT,
        task: Literal["next", "middle"] = "next",
        queries: bool = False,
    ) -> EvaluationConfig:
        """As the harness takes it; `context` is what --judge-context is by default."""
        from nextvec.evaluation.harness import EvaluationConfig

        try:
            ks = tuple(int(part) for part in names(self.k)) or None
        except ValueError:
            raise ConfigError(f"'{self.k}' are not ranks", where="--k", remedy="write --k 1,5,20") from None
        return EvaluationConfig(
            context=context if self.judge_context is None else self.judge_context,
            horizon=horizon,
            task=task,
            queries=queries,
            candidates=self.candidates,
            ks=ks,
            leak_limit=self.leak_limit,
            baselines=names(self.baselines) or None,
            seed=self.bootstrap_seed,
            speed=not self.no_speed,
            quiet=quiet,
        )


def evaluate(
    *runs: Annotated[
        str,
        Parameter(
            help="Folders of runs or ensembles, addresses of servers (http://HOST:PORT, or with #MODEL), or "
            "the word baselines to evaluate these alone."
        ),
    ],
    store: Annotated[Path, Parameter(help="The store to evaluate on; it may be another than trained on.")],
    flags: TableFlags | None = None,
    sources: Annotated[
        str | None, Parameter(group=EVALUATION, help="Evaluate these sources only, separated by commas.")
    ] = None,
    train_sources: Annotated[
        str | None, Parameter(group=EVALUATION, help="Fit the baselines on these (default: the runs').")
    ] = None,
    split_file: Annotated[
        Path | None, Parameter(group=EVALUATION, help="JSON of document ids (default: the runs').")
    ] = None,
    horizon: Annotated[int, Parameter(group=EVALUATION, help="How many chunks ahead the target is.")] = 1,
    task: Annotated[
        Literal["next", "middle"],
        Parameter(
            group=EVALUATION, help="What is predicted: what follows, or what is missing amid the chunks."
        ),
    ] = "next",
    queries: Annotated[
        bool,
        Parameter(
            group=EVALUATION, negative=(), help="Give conditional runs a later chunk to write towards."
        ),
    ] = False,
    device: Annotated[Literal["cpu", "cuda", "mps"], Parameter(help="Where the models predict.")] = "cpu",
    json: JsonTarget = None,
    quiet: Quiet = False,
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
    selection = _exam(flags, sources, train_sources, split_file)
    predictors = [open_evaluated(run, device) for run in runs if run != "baselines"]
    context = int(predictors[0].training["context"]) if task == "middle" and predictors else DEFAULT_CONTEXT
    how = flags.judging(horizon, quiet=quiet, context=context, task=task, queries=queries)
    report = evaluate_runs(opened, predictors, selection, how)
    output(format_report(report, markdown=flags.markdown, wide=flags.wide), report.to_json(), json)


def _exam(
    flags: TableFlags, sources: str | None, train_sources: str | None, split_file: Path | None
) -> DocumentSelection:
    from nextvec.data.splits import SplitConfig
    from nextvec.experiments.evaluating import DocumentSelection

    return DocumentSelection(
        split=flags.split,
        sources=names(sources),
        train_sources=None if train_sources is None else names(train_sources),
        division=None if split_file is None else SplitConfig(file=str(split_file.resolve())),
    )


def ensemble(
    *runs: Annotated[str, Parameter(help="Run folders.")],
    store: Annotated[Path, Parameter(help="The store whose validation documents the weights are fitted on.")],
    out: Annotated[Path, Parameter(help="Folder of the ensemble; `nextvec evaluate` takes it as a run.")],
    baselines: Annotated[
        str | None, Parameter(help="Baselines to mix in, e.g. 'exponential averages,ridge'.")
    ] = None,
    context: Annotated[
        int, Parameter(help="Chunks read at least before a target (and what baselines use).")
    ] = 5,
    horizon: Annotated[int, Parameter(help="How many chunks ahead the target is.")] = 1,
    task: Annotated[Literal["next", "middle"], Parameter(help="What the runs were trained for.")] = "next",
    queries: Annotated[
        bool, Parameter(negative=(), help="Fit the weights with what conditional runs are given.")
    ] = False,
    split_file: Annotated[Path | None, Parameter(help="JSON of document ids (default: the runs').")] = None,
) -> None:
    """Mix runs, and runs with baselines: weights that are never negative, fitted on validation only.

    Evaluate it like a run: nextvec evaluate OUT --store STORE.
    """
    from nextvec.corpus.store import Store
    from nextvec.data.splits import SplitConfig
    from nextvec.evaluation.harness import EvaluationConfig
    from nextvec.experiments.evaluating import DocumentSelection
    from nextvec.experiments.mixing import fit_ensemble

    division = None if split_file is None else SplitConfig(file=str(split_file.resolve()))
    how = EvaluationConfig(context=context, horizon=horizon, task=task, queries=queries, quiet=True)
    fitted = fit_ensemble(
        Store.open(store), runs, names(baselines), DocumentSelection(division=division), how, out
    )
    made = fitted.ensemble
    rows = [
        [member.name, f"{raw:.3f}", f"{unit:.3f}"]
        for member, raw, unit in zip(made.members, made.mixture.raw, made.mixture.unit, strict=True)
    ]
    print(f"weights fitted on {fitted.windows:,} validation windows\n")
    print(columns(["member", "raw", "unit"], rows))
    print(
        f"\nensemble: {out}\n"
        f"evaluate it beside the baselines: nextvec evaluate {out} --store {store} --split test"
    )


def metrics(*, json: JsonTarget = None) -> None:
    """Explain every figure that an evaluation prints or writes: its column in the table, its key in the JSON,
    which way is better.
    """
    from nextvec.evaluation.table import explain

    told = explain()
    figures = [dict(zip(("column", "key", "better", "says"), row, strict=True)) for row in told]
    lines = ["column (- : in the JSON alone), key, which way is better (- : neither)", ""]
    for column, key, better, says in told:
        lines.append(fill(says, f"{column or '-':12}  {key:24}  {better or '-':6}  ", " " * 8))
    output("\n".join(lines), figures, json)
