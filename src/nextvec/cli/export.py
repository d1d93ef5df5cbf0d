"""`nextvec export`, `bench`, `export-npz` and `prune`: a run for a faster engine, how fast it is there, or a
smaller one; a store for other tools."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App

from nextvec.cli import common
from nextvec.cli.common import flag, names, output
from nextvec.errors import ConfigError
from nextvec.text import columns

if TYPE_CHECKING:
    from nextvec.experiments.pruning import PruningRow, PruningTable
    from nextvec.inference.bench.measure import EngineResult, Measured
    from nextvec.inference.export import Exported


def export(
    run: Annotated[str, flag("A run folder, a hub id of one, or an ensemble.")],
    *,
    format: Annotated[Literal["onnx", "openvino"], flag("What it is written for.")] = "onnx",
    precision: Annotated[
        Literal["fp32", "bf16", "int8"],
        flag("Of weights and products: int8 for onnx, bf16 for openvino, fp32 for both."),
    ] = "fp32",
    store: Annotated[
        Path | None, flag("Compare export and run on windows of this store (default: seeded vectors).")
    ] = None,
    out: Annotated[
        Path | None, flag("Folder to write (default: RUN-FORMAT-PRECISION beside the run).")
    ] = None,
    step: Annotated[
        bool,
        flag(
            "Write step.onnx too: one vector and the state in, the prediction and the new state out. "
            "Streams of the export then go on from their state."
        ),
    ] = False,
    tolerance: Annotated[
        float | None, flag("Least cosine to the run; below it nothing is written (fp32: .9999, else .999).")
    ] = None,
    json: common.JsonTarget = None,
) -> None:
    """Write a run for a faster engine, and show how close its predictions are to the run's. The folder is
    taken by predict, retrieve, evaluate and serve in the place of a run.
    """
    from nextvec.corpus.store import Store
    from nextvec.experiments.ensemble import EnsembleRun
    from nextvec.experiments.mixing import export_ensemble
    from nextvec.inference.export import export_predictor
    from nextvec.inference.predictor import ENSEMBLE, RunPredictor, open_predictor

    opened = None if store is None else Store.open(store)
    # an export is refused as a run, with the reason
    predictor = open_predictor(run) if (Path(run) / ENSEMBLE).is_file() else RunPredictor(run)
    beside = Path(run).resolve() if Path(run).is_dir() else predictor.name
    target = out or Path(f"{beside}-{format}-{precision}")
    how: dict[str, Any] = {"store": opened, "tolerance": tolerance, "step": step}
    if isinstance(predictor, EnsembleRun):
        several = export_ensemble(predictor, target, format, precision, **how)
        members = [_figures(member) for member in several]
        text = "\n".join([f"{target}  an ensemble of {len(several)} exports", *map(describe, several)])
        return output(text, {"run": run, "export": str(target), "members": members}, json)
    assert isinstance(predictor, RunPredictor)
    made = export_predictor(predictor, target, format, precision, **how)
    return output(describe(made), {"run": run, **_figures(made)}, json)


def _figures(made: Exported) -> dict[str, Any]:
    figures = {"export": str(made.folder), "bytes": made.bytes, "time": made.time}
    return {**figures, "parity": made.parity.to_json()}


def describe(made: Exported) -> str:
    parity, time = made.parity, "" if made.time is None else f", contexts of one length: {made.time}"
    lines = [
        f"{made.folder}  {made.bytes / 2**20:.1f} MiB{time}",
        f"beside the run on {parity.windows} windows of {parity.source}:",
        f"  largest difference  {parity.largest_difference:.2e}",
        f"  cosine              {parity.cosine_mean:.6f} in the mean, {parity.cosine_min:.6f} at the least "
        f"({parity.tolerance:g} required)",
    ]
    before, after = parity.recall_before, parity.recall_after
    if before is not None and after is not None:
        lines.append(f"  recall@5            {before:.4f} before, {after:.4f} after")
    else:
        lines.append("  recall@5            not measured on random vectors; --store STORE measures it")
    return "\n".join(lines)


def export_npz(
    store: common.StorePath,
    out: Annotated[Path, flag("The .npz to write.")],
    *,
    context: Annotated[int, flag("Vectors in each context.")] = 5,
    split: Annotated[str, flag("train, validation, test or all.")] = "all",
    split_file: common.NewSplitFile = None,
    sources: common.Sources = None,
    quiet: common.Quiet = False,
) -> None:
    """Write the windows of a store as arrays for other tools: context_sequences [N, c, D],
    target_vectors [N, D], doc_ids [N], concept_texts [N] (the target's text)."""
    from nextvec.corpus.npz import export_npz as write
    from nextvec.corpus.store import Store
    from nextvec.data.splits import SplitConfig, split_documents

    opened = Store.open(store)
    config = SplitConfig(file=None if split_file is None else str(split_file))
    documents = split_documents(opened, config, names(sources)).evaluated(split)
    report = write(opened, out, documents=documents, context=context, quiet=quiet)
    print(
        f"{report.windows:,} windows of {report.documents:,} documents written to {report.file}; "
        f"{report.too_short:,} documents are too short for one"
    )


def prune(
    run: Annotated[Path, flag("The run to make smaller; it stays as it is.")],
    *,
    store: Annotated[Path, flag("The store it was trained on.")],
    out: Annotated[Path, flag("Folder of the new run; with several shares it gets a run for each.")],
    keep: Annotated[
        str, flag("Share that stays; several, for a table, as 1.0,0.75,0.5 (1.0: only trained on).")
    ] = "0.5",
    method: Annotated[
        Literal["structured", "magnitude"],
        flag("Whole units, which is smaller and faster, or single weights set to 0, which is neither."),
    ] = "structured",
    fine_tune_updates: Annotated[int, flag("Of the training after it, as the run's own.")] = 200,
    batches: Annotated[int, flag("Training batches that importance is measured on.")] = 16,
    split: Annotated[
        Literal["validation", "test"], flag("The documents that the table is evaluated on.")
    ] = "test",
    sources: common.Sources = None,
    split_file: common.SplitFile = None,
    json: common.JsonTarget = None,
    quiet: common.Quiet = False,
) -> None:
    """Make a run smaller: remove what matters least, train on a little, and evaluate it beside the original.

    structured (amn, gru, lstm, mlp, transformer): hidden units, feed-forward units and attention heads go by
    how little the loss would change without them, and a smaller model of the same architecture is left.
    magnitude (any architecture): the smallest weights of every matrix become 0 and stay 0.
    """
    from nextvec.corpus.store import Store
    from nextvec.experiments.pruning import PruningPlan, prune_and_evaluate

    shares = common.numbers(keep, float, "are not shares to keep", "--keep", "0.5 or 0.75,0.5")
    plan = PruningPlan(shares, method, fine_tune_updates, split_file, batches)
    table = prune_and_evaluate(run, Store.open(store), plan, out, split, names(sources), quiet=quiet)
    output(describe_pruning(table, out), table.to_json(), json)


def describe_pruning(table: PruningTable, out: Path) -> str:
    versus = "cosine less the run's"
    header = ["model", "sizes", "parameters", "not 0", "KiB", "as cut", "cosine", versus, "R@5", "p50 ms"]
    head = (
        f"{table.run} on split {table.split}: {table.windows:,} windows of {table.documents} documents, "
        f"context {table.context}. {table.method}, then {table.updates} updates; keep 1 is the same training "
        "without pruning.\np50: one prediction, batch 1, one thread, the models in turns.\n"
    )
    slow = "Weights that are 0 are stored and multiplied as any: this is not faster."
    lines = [
        head,
        columns(header, [_cells(line) for line in table.lines]),
        f"\n{table.baseline}: cosine {table.baseline_cosine:.4f}",
        *([slow] if table.method == "magnitude" else []),
        f"run: {out}" if len(table.lines) == 2 else f"runs: {out}/keep-*",
    ]
    return "\n".join(lines)


def _cells(line: PruningRow) -> list[str]:
    by = line.versus
    return [
        line.name,
        ", ".join(f"{key} {value}" for key, value in line.sizes.items()) or "as it was",
        f"{line.parameters:,}",
        f"{line.nonzero:,}",
        f"{line.bytes / 1024:,.0f}",
        "" if line.cut_cosine is None else f"{line.cut_cosine:.4f}",
        f"{line.cosine:.4f}",
        "" if by is None else by.signed(),
        "" if line.recall_at_5 is None else f"{line.recall_at_5:.4f}",
        f"{line.p50_ms:.3f}",
    ]


bench = App(name="bench", help="How fast, and in how much memory.", help_format="plaintext")
bench.command(
    "nextvec.cli.export:bench_inference",
    name="inference",
    help="Latency, throughput and memory of runs by every engine.",
)


MIB = 2**20


def bench_inference(
    *runs: Annotated[Path, flag("Run folders.")],
    models: Annotated[
        str | None, flag("Untrained architectures in place of runs, separated by commas.")
    ] = None,
    preset: Annotated[str, flag("The size of these.")] = "brief",
    dimension: Annotated[int, flag("Of the vectors that these read.")] = 768,
    engines: Annotated[
        str, flag("Of eager, compiled, onnx, onnx-int8, openvino, openvino-bf16.")
    ] = "eager,compiled,onnx,onnx-int8,openvino",
    batches: Annotated[str, flag("Contexts predicted at once.")] = "1,8,32,128,256",
    context: Annotated[int, flag("Vectors read before each prediction.")] = 5,
    seconds: Annotated[float, flag("Spent on each batch size of each engine.")] = 2.0,
    threads: Annotated[int, flag("Of every engine.")] = 1,
    device: Annotated[
        Literal["cpu", "cuda", "mps"], flag("Of eager and compiled; exports run on the CPU.")
    ] = "cpu",
    json: common.JsonTarget = None,
    quiet: common.Quiet = False,
) -> None:
    """Measure how fast runs predict, and in how much memory, by every engine.

    Each engine has a process of its own; a model's engines take turns, so that a load on the machine meets
    all of them. For an engine that cannot run the reason is given.
    """
    from nextvec.inference.bench import measure as subjects
    from nextvec.inference.bench.measure import BenchConfig, measure

    if bool(runs) == (models is not None):
        raise ConfigError("nothing to measure, or two things", where="nextvec bench inference",
                          remedy="name runs, or --models")  # fmt: skip
    sizes = common.numbers(batches, int, "are not batch sizes", "--batches", "1,8,32")
    bench = BenchConfig(names(engines), sizes, context, seconds, threads, device)
    with tempfile.TemporaryDirectory(prefix="nextvec-bench-") as folder:
        if models is None:
            chosen = subjects.runs(runs)
        else:
            chosen = subjects.fresh(names(models), preset, dimension, Path(folder))
        measured = measure(chosen, bench, quiet=quiet)
    output(describe_bench(measured), measured.to_json(), json)


def describe_bench(measured: Measured) -> str:
    bench = measured.bench
    sizes = sorted({1, *bench.batches})
    device = [] if bench.device == "cpu" else ["device MiB"]
    header = ["model", "engine", "p50 ms", "p95", "p99", "speed-up", "floor ms", *(f"x{b} /s" for b in sizes),
              "MiB", "grown", *device, "cosine", "least"]  # fmt: skip
    rates = ", ".join(f"{name} {rate / 1e9:.1f} GB/s" for name, rate in measured.bandwidth.items())
    missing = [f"{r.model}, {r.engine}: {r.reason}" for r in measured.rows if r.reason is not None]
    lines = [
        f"Context {bench.context}, threads {bench.threads}, {bench.device}. p50, p95, p99 of batch 1; "
        "xN /s: predictions a second in batches of N.",
        f"Floor: reading the weights once from memory ({rates}; from a cache it is faster).",
        "MiB: peak of the process; grown: since the program was loaded. Cosine: to eager, on vectors that"
        " mean nothing.\n",
        columns(header, [_bench_cells(row, sizes, bool(device)) for row in measured.rows if row.latency]),
    ]
    return "\n".join([*lines, *(["", *missing] if missing else [])])


def _bench_cells(row: EngineResult, sizes: list[int], device: bool) -> list[str]:
    memory = [row.peak_bytes, row.grown_bytes, *([row.device_bytes] if device else [])]
    return [
        *(row.model, row.engine),
        *(f"{row.latency[key]:.3f}" for key in ("p50_ms", "p95_ms", "p99_ms")),
        *(f"{row.speedup:.2f}", f"{row.floor_ms:.3f}"),
        *(f"{row.throughput[batch]:,.0f}" for batch in sizes),
        *("" if size is None else f"{size / MIB:,.0f}" for size in memory),
        *(f"{row.cosine:.6f}", f"{row.cosine_min:.6f}"),
    ]
