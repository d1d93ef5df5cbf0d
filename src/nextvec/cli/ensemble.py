"""`nextvec ensemble`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from nextvec.cli.common import columns, names


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
        bool, Parameter(negative=(), help="Fit the weights with what conditional runs are told.")
    ] = False,
    split_file: Annotated[Path | None, Parameter(help="JSON of document ids (default: the runs').")] = None,
) -> None:
    """Mix runs, and runs with baselines: weights that are never negative, fitted on validation only.

    Judge it as you judge a run: nextvec evaluate OUT --store STORE.
    """
    from nextvec.corpus.store import Store
    from nextvec.data.splits import SplitConfig
    from nextvec.evaluation.harness import EvaluationConfig
    from nextvec.experiments.ensemble import fit_ensemble
    from nextvec.experiments.evaluating import DocumentSelection

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
        f"judge it beside the baselines: nextvec evaluate {out} --store {store} --split test"
    )
