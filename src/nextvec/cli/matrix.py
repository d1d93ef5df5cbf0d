"""`nextvec matrix`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from nextvec.cli.common import JsonTarget, Quiet, StorePath, names, output
from nextvec.cli.configure import DEFAULT_RECIPE, TrainingFlags
from nextvec.cli.evaluate import JUDGING, JudgingFlags
from nextvec.errors import ConfigError

if TYPE_CHECKING:
    from nextvec.experiments.matrix import Configure


def matrix(
    store: StorePath,
    *,
    models: Annotated[str, Parameter(help="Architectures separated by commas, or all.")],
    out: Annotated[Path, Parameter(help="Folder of the matrix; an interrupted one goes on.")],
    seeds: Annotated[int, Parameter(help="Runs of each model, with seeds 0, 1, ...")] = 1,
    training: TrainingFlags | None = None,
    judging: JudgingFlags | None = None,
    judge_sources: Annotated[
        str | None, Parameter(group=JUDGING, help="Judge these sources only (default: those trained on).")
    ] = None,
    json: JsonTarget = None,
    quiet: Quiet = False,
) -> None:
    """Train many models under one protocol and judge all of them beside the baselines.

    One model that fails does not stop the others: it is reported, and the exit code is 1.
    """
    from nextvec.corpus.store import Store
    from nextvec.experiments.judging import Exam
    from nextvec.experiments.matrix import Plan, run_matrix
    from nextvec.models import registry

    training, judging = training or TrainingFlags(), judging or JudgingFlags()
    chosen = registry.names() if models == "all" else names(models)
    for name in chosen:
        registry.get(name)
    if len(set(chosen)) < len(chosen) or seeds < 1:
        raise ConfigError(
            f"{len(chosen)} models with {seeds} seeds", where="--models, --seeds",
            remedy="name every model once, and give at least one seed",
        )  # fmt: skip
    configure = configurer(training)
    first = configure(chosen[0], 0)
    exam = Exam(judging.split, names(judge_sources) or first.data.sources)
    opened = Store.open(store)
    plan = Plan(str(opened.path.resolve()), tuple(chosen), seeds)
    how = judging.judging(first.data.horizon, quiet=quiet)
    table = run_matrix(opened, plan, configure, out, exam, how, quiet=quiet)
    output(show(table, markdown=judging.markdown), table, json)
    if table["failed"]:
        raise SystemExit(1)


def configurer(
    flags: TrainingFlags, recipe: str = DEFAULT_RECIPE, under: Mapping[str, Any] | None = None
) -> Configure:
    """Model and seed -> configuration, from the flags over the layer `under` over the recipe."""
    from nextvec.training.recipes import make_config

    file, given = flags.layers()

    def configure(model: str, seed: int) -> Any:
        own = {"model": {"name": model}, "runtime": {"seed": seed}}
        return make_config(
            flags.recipe or recipe, under or {}, file, given, own, where=flags.config or "flags"
        )

    return configure


def show(table: dict[str, Any], *, markdown: bool) -> str:
    """The table as text, with what failed under it."""
    from nextvec.evaluation.table import format_table

    lines = [format_table(table, markdown=markdown)]
    lines += [f"FAILED {name}: {error}" for name, error in table["failed"].items()]
    return "\n".join(lines)
