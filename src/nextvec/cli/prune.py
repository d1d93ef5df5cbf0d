"""`nextvec prune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from nextvec.cli.common import JsonTarget, Quiet, Sources, names, output
from nextvec.errors import ConfigError
from nextvec.text import columns

if TYPE_CHECKING:
    from nextvec.experiments.pruning import PruningRow, PruningTable


def prune(
    run: Annotated[Path, Parameter(help="The run to make smaller; it stays as it is.")],
    *,
    store: Annotated[Path, Parameter(help="The store it was trained on.")],
    out: Annotated[
        Path, Parameter(help="Folder of the new run; with several shares it gets a run for each.")
    ],
    keep: Annotated[
        str, Parameter(help="Share that stays; several, for a table, as 1.0,0.75,0.5 (1.0: only trained on).")
    ] = "0.5",
    method: Annotated[
        Literal["structured", "magnitude"],
        Parameter(
            help="Whole units, which is smaller and faster, or single weights set to 0, which is neither."
        ),
    ] = "structured",
    fine_tune_updates: Annotated[int, Parameter(help="Of the training after it, as the run's own.")] = 200,
    batches: Annotated[int, Parameter(help="Training batches that importance is measured on.")] = 16,
    split: Annotated[
        Literal["validation", "test"], Parameter(help="The documents that the table is evaluated on.")
    ] = "test",
    sources: Sources = None,
    split_file: Annotated[Path | None, Parameter(help="JSON of document ids (default: the run's).")] = None,
    json: JsonTarget = None,
    quiet: Quiet = False,
) -> None:
    """Make a run smaller: remove what matters least, train on a little, and evaluate it beside the original.

    structured (amn, gru, lstm, mlp, transformer): hidden units, feed-forward units and attention heads go by
    how little the loss would change without them, and a smaller model of the same architecture is left.
    magnitude (any architecture): the smallest weights of every matrix become 0 and stay 0.
    """
    from nextvec.corpus.store import Store
    from nextvec.experiments.pruning import PruningPlan, prune_and_evaluate

    plan = PruningPlan(_shares(keep), method, fine_tune_updates, split_file, batches)
    table = prune_and_evaluate(run, Store.open(store), plan, out, split, names(sources), quiet=quiet)
    output(describe(table, out), table.to_json(), json)


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in names(text))
    except ValueError:
        raise ConfigError(
            f"'{text}' are not shares to keep", where="--keep", remedy="write --keep 0.5 or 0.75,0.5"
        ) from None


def describe(table: PruningTable, out: Path) -> str:
    versus = "cosine less the run's"
    header = ["model", "sizes", "parameters", "not 0", "KiB", "as cut", "cosine", versus, "R@5", "p50 ms"]
    head = (
        f"{table.run} on split {table.split}: {table.windows:,} windows of {table.documents} documents, "
        f"context {table.context}. {table.method}, then {table.updates} updates; keep 1 is the same training "
        "without pruning.\np50: one prediction, batch 1, one thread, the models in turns.\n"
    )
    return "\n".join(
        [
            head,
            columns(header, [_cells(line) for line in table.lines]),
            f"\n{table.baseline}: cosine {table.baseline_cosine:.4f}",
            *(
                ["Weights that are 0 are stored and multiplied as any: this is not faster."]
                if table.method == "magnitude"
                else []
            ),
            f"run: {out}" if len(table.lines) == 2 else f"runs: {out}/keep-*",
        ]
    )


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
