"""`nextvec matrix`, `compare`, and `demo`, which is one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from nextvec.cli.common import JsonTarget, Quiet, StorePath, flag, names, output
from nextvec.cli.evaluate import EVALUATION, Markdown, TableFlags, Wide
from nextvec.cli.train import DEFAULT_RECIPE, TrainingFlags
from nextvec.errors import ConfigError
from nextvec.text import table

if TYPE_CHECKING:
    from nextvec.corpus.store import Store
    from nextvec.experiments.brief import PrdTable
    from nextvec.experiments.diagnose import RunModelDiagnosis
    from nextvec.experiments.matrix import Configure
    from nextvec.experiments.plan import MatrixCell, MatrixPlan
    from nextvec.inference.predictor import RunPredictor

AXES = Group("Axes")


@Parameter(name="*", group=AXES)
@dataclass(frozen=True)
class AxisFlags:
    """What differs between the runs of one architecture, but for the seed."""

    objectives: Annotated[str | None, flag("Objectives by name, separated by commas.")] = None
    tasks: Annotated[str | None, flag("Tasks by name, separated by commas.")] = None
    vary: Annotated[
        tuple[str, ...], flag("Any key as an axis, KEY=VALUE,VALUE: --vary model.options.layers=1,2")
    ] = ()

    def plan(
        self, store: Store, models: str, seeds: int, training: TrainingFlags, folds: int = 0
    ) -> MatrixPlan:
        """The combinations asked for. Raises ConfigError, ModelError."""
        from nextvec.experiments.plan import MatrixPlan
        from nextvec.models import registry

        for axis, given in (("objective", self.objectives), ("task", self.tasks)):
            if given is not None and getattr(training, axis) is not None:
                both = f"both --{axis} and --{axis}s are given"
                raise ConfigError(both, where="nextvec matrix", remedy=f"keep --{axis}s")
        chosen = registry.names() if models == "all" else names(models)
        for name in chosen:
            registry.get(name)
        place, axes = str(store.path.resolve()), (names(self.objectives), names(self.tasks), self.vary)
        try:
            return MatrixPlan(place, tuple(chosen), seeds, *axes, folds)
        except ValueError as e:
            raise ConfigError(str(e), where="nextvec matrix", remedy="correct the flag") from None


def matrix(
    store: StorePath,
    *,
    models: Annotated[str, flag("Architectures separated by commas, or all.")],
    out: Annotated[Path, flag("Folder of the matrix; an interrupted one goes on.")],
    seeds: Annotated[int, flag("Runs of each combination, with seeds 0, 1, ...")] = 1,
    axes: AxisFlags | None = None,
    folds: Annotated[
        int,
        flag(
            "Cross-validation by document: so many runs of each combination, each tested on another "
            "part, so that every document is evaluated once (3 or more; for small stores)."
        ),
    ] = 0,
    top: Annotated[
        int, flag("Diagnose so many of the best by validation too, into OUT/top (the PRD's later phases).")
    ] = 0,
    jobs: Annotated[int, flag("Runs trained at the same time; they share the cores.")] = 1,
    join: Annotated[
        bool,
        flag(
            "Help the same command without --join, here or on a machine that shares the folder: train "
            "what nobody trains, then end. That one makes the table."
        ),
    ] = False,
    training: TrainingFlags | None = None,
    flags: TableFlags | None = None,
    judge_sources: Annotated[
        str | None, flag("Evaluate these sources only (default: the trained ones).", group=EVALUATION)
    ] = None,
    json: JsonTarget = None,
    quiet: Quiet = False,
) -> None:
    """Train many models under one protocol and evaluate all of them beside the baselines.

    Objectives, tasks and any keys of the configuration may be axes too: every combination is trained. One run
    that fails does not stop the others: it is reported, and the exit code is 1.
    """
    from nextvec.corpus.store import Store
    from nextvec.experiments.diagnose import diagnose_model
    from nextvec.experiments.evaluating import DocumentSelection
    from nextvec.experiments.matrix import join_matrix, run_matrix

    training, flags, opened = training or TrainingFlags(), flags or TableFlags(), Store.open(store)
    plan = (axes or AxisFlags()).plan(opened, models, seeds, training, folds)
    _check_use(jobs, folds and (top or flags.split != "test"), join and (top or json is not None))
    configure = configurer(training)
    first = configure(plan.cells[0])
    selection = DocumentSelection(flags.split, names(judge_sources) or first.data.sources)
    how = flags.config(first.data.horizons[0], quiet=quiet)
    if join:
        failed = join_matrix(opened, plan, configure, out, selection, how, jobs=jobs, quiet=quiet)
        print("\n".join([f"every run of {out} has ended", *(f"FAILED {n}: {e}" for n, e in failed.items())]))
    else:
        table = run_matrix(opened, plan, configure, out, selection, how, jobs=jobs, quiet=quiet)
        output(show(table, markdown=flags.markdown, wide=flags.wide), table, json)
        _diagnose_best(out, table, top, lambda run: diagnose_model(opened, run, selection, how))
        failed = table["failed"]
    if failed:
        raise SystemExit(1)


def _diagnose_best(
    out: Path, table: dict[str, Any], top: int, diagnose: Callable[[RunPredictor], RunModelDiagnosis]
) -> None:
    from nextvec.experiments.diagnose import carry

    for carried in carry(out, table, top, diagnose) if top else ():
        headline = carried.diagnosis.diagnosis.headline
        print(f"\n{carried.row}: {headline}\n  everything: {carried.file}")


def _check_use(jobs: int, folded: object, joined: object) -> None:
    """Raises ConfigError: no job, or flags that mean nothing in a cross-validation, or for who joins."""
    if jobs < 1:
        raise ConfigError("--jobs must be at least 1", where="nextvec matrix", remedy="correct the flag")
    if folded:
        message = "a cross-validation tests every run on its own part; it is not a diagnosis"
        raise ConfigError(message, where="--folds", remedy="leave --top and --split out")
    if joined:
        remedy = "leave --top and --json to the other command"
        raise ConfigError("who joins makes no table", where="--join", remedy=remedy)


def configurer(flags: TrainingFlags, under: Mapping[str, Any] | None = None) -> Configure:
    """Cell -> configuration: the keys it varies, over the flags, over its objective and task, over the file,
    over the layer `under`, over the recipe."""
    from nextvec.training.config import make_config

    file, given = flags.layers()

    def configure(cell: MatrixCell) -> Any:
        own = {"model": {"name": cell.model}, "runtime": {"seed": cell.seed}}
        layers = (under or {}, file, cell.named, given, cell.layer, own)
        return make_config(flags.recipe or DEFAULT_RECIPE, *layers, where=flags.config or "flags")

    return configure


def show(table: dict[str, Any], *, markdown: bool, wide: bool = False) -> str:
    """The table as text, with what failed under it."""
    from nextvec.evaluation.table import format_table

    how = {"markdown": markdown, "wide": wide}
    lines = [format_table(table, **how)]
    for name, other in table.get("others", {}).items():
        lines += ["", f"## {name}" if markdown else f"{name}:", "", format_table(other, **how)]
    lines += [f"FAILED {name}: {error}" for name, error in table["failed"].items()]
    return "\n".join(lines)


def compare(
    matrix: Annotated[Path, flag("A folder made by `nextvec matrix`.")],
    *,
    markdown: Markdown = False,
    wide: Wide = False,
    pairs: Annotated[
        str | None, flag("Print every two rows by this metric instead: cosine, recall@5 or mrr.")
    ] = None,
    prd: Annotated[bool, flag("Print it as the brief's PRD does: status, loss, success score.")] = False,
    json: JsonTarget = None,
) -> None:
    """Print the table of a matrix again, or how every two of its rows differ, or the PRD's view of it."""
    from nextvec.evaluation.table import format_pairs, read_table

    found = read_table(matrix)
    if prd:
        from nextvec.experiments.brief import prd_table

        view = prd_table(matrix, found)
        return output(prd_text(view, markdown=markdown), view.to_json(), json)
    text = show(found, markdown=markdown, wide=wide) if pairs is None else format_pairs(found, pairs)
    return output(text, found, json)


def prd_text(view: PrdTable, *, markdown: bool) -> str:
    """The PRD's matrix and its lists of models to beat."""
    header = ["#", "architecture", "target", "here", "status", "val loss", "val cosine", "train s", "score",
              "notes"]  # fmt: skip
    cells = [
        [str(i), r.model, _count(r.target_parameters), _count(r.parameters), r.status, _figure(r.loss, 6),
         _figure(r.cosine, 4), _figure(r.seconds, 0), "-" if r.score is None else f"{r.score:.0%}", r.notes]
        for i, r in enumerate(view.rows, 1)
    ]  # fmt: skip
    lines = [
        *table(header, cells, markdown=markdown),
        "",
        f"Score: share of the PRD's nine criteria met; its losses (for D = 768) times {view.factor:g}.",
    ]
    for name, beaten in (("lstm", view.beat_lstm), ("transformer", view.beat_transformer)):
        if beaten is not None:
            boxes = [f"[{'x' if met else ' '}] {model}" for model, met in beaten.items()]
            lines += ["", f"Beat {name} by validation loss: {', '.join(boxes)}"]
    lines += ["", *(f"{r.model}: {r.best_for}; {r.file or 'no file'}" for r in view.rows)]
    return "\n".join(lines)


def _count(parameters: int | None) -> str:
    return "-" if parameters is None else f"{parameters / 1e6:.1f}M"


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


DEMO_MODELS = ("amn", "lstm", "gru", "transformer")
# With few articles, more of them to evaluate on.
DEMO_DIVISION = {"data": {"split": {"validation": 0.15, "test": 0.25}}}
DEMO_EXAMPLES = 3


def demo(
    *,
    out: Annotated[Path, flag("Folder for everything the demo writes.")] = Path("demo"),
    training: TrainingFlags | None = None,
    quiet: Quiet = False,
) -> None:
    """The whole main job on real text: ingest a small English Wikipedia, train four models, evaluate them.

    It ends with a report, one page to open in a browser. Interrupted, it goes on where it was. The articles
    are those of the shortened dump in the gensim wheel (CC BY-SA 3.0, by the contributors of the English
    Wikipedia).
    """
    from nextvec.corpus.chunking import make_chunker
    from nextvec.corpus.documents import demo_options, demo_source
    from nextvec.corpus.encoders import EncoderConfig
    from nextvec.corpus.ingest import ingest
    from nextvec.corpus.store import Store
    from nextvec.evaluation.harness import EvaluationConfig
    from nextvec.experiments.evaluating import DocumentSelection
    from nextvec.experiments.matrix import run_matrix
    from nextvec.experiments.plan import MatrixPlan
    from nextvec.inference.predictor import RunPredictor
    from nextvec.models.saving import PRETRAINED

    started = time.monotonic()
    reading: dict[str, Any] = {"chunker": make_chunker(), "options": demo_options(), "quiet": quiet}
    report = ingest(demo_source(), out / "store", encoder=EncoderConfig(), **reading)
    store = Store.open(out / "store")
    print(
        f"{report.documents} articles added, {len(store.documents)} in {store.path} ({len(store)} chunks, "
        f"{report.chunks_per_second:.0f}/s, {report.path})"
    )
    plan = MatrixPlan(str(store.path.resolve()), DEMO_MODELS, seeds=1)
    configure = configurer(training or TrainingFlags(), DEMO_DIVISION)
    how = EvaluationConfig(speed=True, quiet=quiet)
    packaged = RunPredictor(PRETRAINED)  # its training texts hold no article of the demo's
    beside = [packaged] if packaged.encoder == store.encoder.get("fingerprint") else []
    where = out / "matrix"
    table = run_matrix(store, plan, configure, where, DocumentSelection(), how, beside=beside, quiet=quiet)
    print(f"\n{show(table, markdown=False)}\n")
    _print_examples(store, where, table)
    _report_of(where, quiet)
    print(f"store    {out / 'store'}   (nextvec info {out / 'store'})")
    print(f"runs     {where / 'runs'}")
    print(f"table    {where / 'matrix.json'}   (nextvec compare {where})")
    print(f"seconds  {time.monotonic() - started:.0f}")
    if table["failed"]:
        raise SystemExit(1)


def _report_of(matrix: Path, quiet: bool) -> None:
    """The page; without the packages that draw it is left out, and said to be."""
    from nextvec.errors import MissingDependencyError
    from nextvec.reporting.inputs import ReportInputs
    from nextvec.reporting.report import make_report

    try:
        made = make_report(ReportInputs.of(matrix, deep=True), matrix / "report", quiet=quiet)
    except MissingDependencyError as error:
        print(f"report   left out: {error}")
    else:
        print(f"report   {made.page}   (open it in a browser)")


def _print_examples(store: Any, matrix: Path, table: dict[str, Any]) -> None:
    from nextvec.diagnostics.examples import best_and_worst
    from nextvec.experiments.evaluating import DocumentSelection, evaluation_windows
    from nextvec.inference.predictor import RunPredictor

    best = max((r for r in table["rows"] if r["kind"] == "model"), key=lambda r: float(r["cosine"]))
    run = RunPredictor(matrix / best["per_seed"][0]["model_file"].rpartition("/")[0])
    length = (table["context"], table["horizon"])
    windows, documents = evaluation_windows(store, [run], DocumentSelection(), *length)
    for title, examples in best_and_worst(store, run, windows, documents, DEMO_EXAMPLES):
        print(f"{title} predictions of {best['name']}:")
        for example in examples:
            where = f"{example.title}, chunk {example.position + 1}"
            print(f"\n  {where}: cosine {example.cosine:.3f}, rank {example.rank}")
            print("\n".join(example.texts()))
        print()
