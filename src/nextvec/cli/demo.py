"""`nextvec demo`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

from nextvec.cli.common import Quiet, flag
from nextvec.cli.train import TrainingFlags

MODELS = ("amn", "lstm", "gru", "transformer")
# With few articles, more of them to evaluate on, and models that start as a strong baseline.
RECIPE = "residual"
DIVISION = {"data": {"split": {"validation": 0.15, "test": 0.25}}}
EXAMPLES = 3


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
    from nextvec.cli.matrix import configurer, show
    from nextvec.corpus.chunking import make_chunker
    from nextvec.corpus.documents import demo_options, demo_source
    from nextvec.corpus.encoders import EncoderConfig
    from nextvec.corpus.ingest import ingest
    from nextvec.corpus.store import Store
    from nextvec.evaluation.harness import EvaluationConfig
    from nextvec.experiments.evaluating import DocumentSelection
    from nextvec.experiments.matrix import run_matrix
    from nextvec.experiments.plan import MatrixPlan

    started = time.monotonic()
    reading: dict[str, Any] = {"chunker": make_chunker(), "options": demo_options(), "quiet": quiet}
    report = ingest(demo_source(), out / "store", encoder=EncoderConfig(), **reading)
    store = Store.open(out / "store")
    print(
        f"{report.documents} articles added, {len(store.documents)} in {store.path} ({len(store)} chunks, "
        f"{report.chunks_per_second:.0f}/s, {report.path})"
    )
    plan = MatrixPlan(str(store.path.resolve()), MODELS, seeds=1)
    configure = configurer(training or TrainingFlags(), RECIPE, DIVISION)
    how = EvaluationConfig(speed=True, quiet=quiet)
    table = run_matrix(store, plan, configure, out / "matrix", DocumentSelection(), how, quiet=quiet)
    print(f"\n{show(table, markdown=False)}\n")
    _print_examples(store, out / "matrix", table)
    _report(out / "matrix", quiet)
    print(f"store    {out / 'store'}   (nextvec info {out / 'store'})")
    print(f"runs     {out / 'matrix' / 'runs'}")
    print(f"table    {out / 'matrix' / 'matrix.json'}   (nextvec compare {out / 'matrix'})")
    print(f"seconds  {time.monotonic() - started:.0f}")
    if table["failed"]:
        raise SystemExit(1)


def _report(matrix: Path, quiet: bool) -> None:
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
    for title, examples in best_and_worst(store, run, windows, documents, EXAMPLES):
        print(f"{title} predictions of {best['name']}:")
        for example in examples:
            where = f"{example.title}, chunk {example.position + 1}"
            print(f"\n  {where}: cosine {example.cosine:.3f}, rank {example.rank}")
            print("\n".join(example.texts()))
        print()
