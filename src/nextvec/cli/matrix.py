"""`nextvec matrix`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from nextvec.cli.common import JsonTarget, Quiet, StorePath, names, output
from nextvec.cli.configure import DEFAULT_RECIPE, TrainingFlags
from nextvec.cli.evaluate import JUDGING, JudgingFlags
from nextvec.errors import ConfigError

if TYPE_CHECKING:
    from nextvec.corpus.store import Store
    from nextvec.experiments.matrix import Configure
    from nextvec.experiments.plan import MatrixCell, MatrixPlan

AXES = Group("Axes")


@Parameter(name="*", group=AXES)
@dataclass(frozen=True)
class AxisFlags:
    """What differs between the runs of one architecture, but for the seed."""

    objectives: Annotated[str | None, Parameter(help="Objectives by name, separated by commas.")] = None
    tasks: Annotated[str | None, Parameter(help="Tasks by name, separated by commas.")] = None
    vary: Annotated[
        tuple[str, ...],
        Parameter(negative=(), help="Any key as an axis, KEY=VALUE,VALUE: --vary model.options.layers=1,2"),
    ] = ()

    def plan(self, store: Store, models: str, seeds: int, training: TrainingFlags) -> MatrixPlan:
        """The combinations asked for. Raises ConfigError, ModelError."""
        from nextvec.experiments.plan import MatrixPlan
        from nextvec.models import registry

        for axis, given in (("objective", self.objectives), ("task", self.tasks)):
            if given is not None and getattr(training, axis) is not None:
                raise ConfigError(
                    f"both --{axis} and --{axis}s are given", where="nextvec matrix", remedy=f"keep --{axis}s"
                )
        chosen = registry.names() if models == "all" else names(models)
        for name in chosen:
            registry.get(name)
        place, axes = str(store.path.resolve()), (names(self.objectives), names(self.tasks), self.vary)
        try:
            return MatrixPlan(place, tuple(chosen), seeds, *axes)
        except ValueError as e:
            raise ConfigError(str(e), where="nextvec matrix", remedy="correct the flag") from None


def matrix(
    store: StorePath,
    *,
    models: Annotated[str, Parameter(help="Architectures separated by commas, or all.")],
    out: Annotated[Path, Parameter(help="Folder of the matrix; an interrupted one goes on.")],
    seeds: Annotated[int, Parameter(help="Runs of each combination, with seeds 0, 1, ...")] = 1,
    axes: AxisFlags | None = None,
    top: Annotated[
        int,
        Parameter(
            help="Diagnose so many of the best by validation too, into OUT/top (the PRD's later phases)."
        ),
    ] = 0,
    jobs: Annotated[int, Parameter(help="Runs trained at the same time; they share the cores.")] = 1,
    training: TrainingFlags | None = None,
    judging: JudgingFlags | None = None,
    judge_sources: Annotated[
        str | None, Parameter(group=JUDGING, help="Judge these sources only (default: those trained on).")
    ] = None,
    json: JsonTarget = None,
    quiet: Quiet = False,
) -> None:
    """Train many models under one protocol and judge all of them beside the baselines.

    Objectives, tasks and any keys of the configuration may be axes too: every combination is trained. One run
    that fails does not stop the others: it is reported, and the exit code is 1.
    """
    from nextvec.corpus.store import Store
    from nextvec.experiments.evaluating import DocumentSelection
    from nextvec.experiments.matrix import run_matrix

    training, judging = training or TrainingFlags(), judging or JudgingFlags()
    opened = Store.open(store)
    plan = (axes or AxisFlags()).plan(opened, models, seeds, training)
    if jobs < 1:
        raise ConfigError("--jobs must be at least 1", where="nextvec matrix", remedy="correct the flag")
    configure = configurer(training)
    first = configure(plan.cells[0])
    exam = DocumentSelection(judging.split, names(judge_sources) or first.data.sources)
    how = judging.judging(first.data.horizons[0], quiet=quiet)
    table = run_matrix(opened, plan, configure, out, exam, how, jobs=jobs, quiet=quiet)
    output(show(table, markdown=judging.markdown), table, json)
    if top:
        from nextvec.experiments.brief import carry
        from nextvec.experiments.diagnose import diagnose_model

        for carried in carry(out, table, top, lambda run: diagnose_model(opened, run, exam, how)):
            print(f"\n{carried.row}: {carried.diagnosis.diagnosis.headline}\n  everything: {carried.file}")
    if table["failed"]:
        raise SystemExit(1)


def configurer(
    flags: TrainingFlags, recipe: str = DEFAULT_RECIPE, under: Mapping[str, Any] | None = None
) -> Configure:
    """Cell -> configuration: the keys it varies, over the flags, over its objective and task, over the file,
    over the layer `under`, over the recipe."""
    from nextvec.training.recipes import make_config

    file, given = flags.layers()

    def configure(cell: MatrixCell) -> Any:
        own = {"model": {"name": cell.model}, "runtime": {"seed": cell.seed}}
        layers = (under or {}, file, cell.named, given, cell.layer, own)
        return make_config(flags.recipe or recipe, *layers, where=flags.config or "flags")

    return configure


def show(table: dict[str, Any], *, markdown: bool) -> str:
    """The table as text, with what failed under it."""
    from nextvec.evaluation.table import format_table

    lines = [format_table(table, markdown=markdown)]
    for name, other in table.get("others", {}).items():
        lines += ["", f"## {name}" if markdown else f"{name}:", "", format_table(other, markdown=markdown)]
    lines += [f"FAILED {name}: {error}" for name, error in table["failed"].items()]
    return "\n".join(lines)
