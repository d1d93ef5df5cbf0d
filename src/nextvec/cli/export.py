"""`nextvec export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from nextvec.cli.common import JsonTarget, Quiet, Sources, StorePath, names, output

if TYPE_CHECKING:
    from nextvec.inference.export import Exported


def export(
    run: Annotated[str, Parameter(help="A run folder, a hub id of one, or an ensemble.")],
    *,
    format: Annotated[Literal["onnx", "openvino"], Parameter(help="What it is written for.")] = "onnx",
    precision: Annotated[
        Literal["fp32", "bf16", "int8"],
        Parameter(help="Of weights and products: int8 for onnx, bf16 for openvino, fp32 for both."),
    ] = "fp32",
    store: Annotated[
        Path | None,
        Parameter(help="Compare export and run on windows of this store (default: seeded vectors)."),
    ] = None,
    out: Annotated[
        Path | None, Parameter(help="Folder to write (default: RUN-FORMAT-PRECISION beside the run).")
    ] = None,
    step: Annotated[
        bool,
        Parameter(
            help="Write step.onnx too: one vector and the state in, the prediction and the new state out. "
            "Streams of the export then go on from their state.",
            negative=(),
        ),
    ] = False,
    tolerance: Annotated[
        float | None,
        Parameter(help="Least cosine to the run; below it nothing is written (fp32: .9999, else .999)."),
    ] = None,
    json: JsonTarget = None,
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
    target = out or Path(
        f"{Path(run).resolve() if Path(run).is_dir() else predictor.name}-{format}-{precision}"
    )
    if isinstance(predictor, EnsembleRun):
        several = export_ensemble(
            predictor, target, format, precision, store=opened, tolerance=tolerance, step=step
        )
        members = [_figures(member) for member in several]
        text = "\n".join([f"{target}  an ensemble of {len(several)} exports", *map(describe, several)])
        return output(text, {"run": run, "export": str(target), "members": members}, json)
    assert isinstance(predictor, RunPredictor)
    made = export_predictor(
        predictor, target, format, precision, store=opened, tolerance=tolerance, step=step
    )
    return output(describe(made), {"run": run, **_figures(made)}, json)


def _figures(made: Exported) -> dict[str, Any]:
    return {
        "export": str(made.folder),
        "bytes": made.bytes,
        "time": made.time,
        "parity": made.parity.to_json(),
    }


def describe(made: Exported) -> str:
    parity = made.parity
    lines = [
        f"{made.folder}  {made.bytes / 2**20:.1f} MiB"
        + ("" if made.time is None else f", contexts of one length: {made.time}"),
        f"beside the run on {parity.windows} windows of {parity.source}:",
        f"  largest difference  {parity.largest_difference:.2e}",
        f"  cosine              {parity.cosine_mean:.6f} in the mean, {parity.cosine_min:.6f} at the least "
        f"({parity.tolerance:g} required)",
    ]
    if parity.recall_before is not None and parity.recall_after is not None:
        lines.append(
            f"  recall@5            {parity.recall_before:.4f} before, {parity.recall_after:.4f} after"
        )
    return "\n".join(lines)


def export_npz(
    store: StorePath,
    out: Annotated[Path, Parameter(help="The .npz to write.")],
    *,
    context: Annotated[int, Parameter(help="Vectors in each context.")] = 5,
    split: Annotated[str, Parameter(help="train, validation, test or all.")] = "all",
    split_file: Annotated[
        Path | None, Parameter(help="JSON with train, validation, test document ids.")
    ] = None,
    sources: Sources = None,
    quiet: Quiet = False,
) -> None:
    """Write the windows of a store as arrays for other tools: context_sequences [N, c, D],
    target_vectors [N, D], doc_ids [N], concept_texts [N] (the target's text)."""
    from nextvec.corpus.npz import export_npz as write
    from nextvec.corpus.store import Store
    from nextvec.data.splits import SplitConfig, split_documents

    opened = Store.open(store)
    config = SplitConfig(file=None if split_file is None else str(split_file))
    documents = split_documents(opened, config, names(sources)).judged(split)
    report = write(opened, out, documents=documents, context=context, quiet=quiet)
    print(
        f"{report.windows:,} windows of {report.documents:,} documents written to {report.file}; "
        f"{report.too_short:,} documents are too short for one"
    )
