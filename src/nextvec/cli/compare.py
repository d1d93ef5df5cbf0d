"""`nextvec compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from nextvec.cli.common import JsonTarget, columns, output
from nextvec.cli.matrix import show

if TYPE_CHECKING:
    from nextvec.experiments.brief import PrdTable


def compare(
    matrix: Annotated[Path, Parameter(help="A folder made by `nextvec matrix`.")],
    *,
    markdown: Annotated[bool, Parameter(negative=(), help="Print the table as Markdown.")] = False,
    pairs: Annotated[
        str | None, Parameter(help="Print every two rows by this metric instead: cosine, recall@5 or mrr.")
    ] = None,
    prd: Annotated[
        bool, Parameter(negative=(), help="Print it as the brief's PRD does: status, loss, success score.")
    ] = False,
    json: JsonTarget = None,
) -> None:
    """Print the table of a matrix again, or how every two of its rows differ, or the PRD's view of it."""
    from nextvec.evaluation.table import format_pairs
    from nextvec.experiments.matrix import read_table

    table = read_table(matrix)
    if prd:
        from nextvec.experiments.brief import prd_table

        view = prd_table(matrix, table)
        return output(prd_text(view, markdown=markdown), view.to_json(), json)
    text = show(table, markdown=markdown) if pairs is None else format_pairs(table, pairs)
    return output(text, table, json)


def prd_text(view: PrdTable, *, markdown: bool) -> str:
    """The PRD's matrix and its lists of models to beat."""
    header = [
        "#",
        "architecture",
        "target",
        "here",
        "status",
        "val loss",
        "val cosine",
        "train s",
        "score",
        "notes",
    ]
    cells = [
        [str(i), r.model, _count(r.target_parameters), _count(r.parameters), r.status, _figure(r.loss, 6),
         _figure(r.cosine, 4), _figure(r.seconds, 0), _percent(r.score), r.notes]
        for i, r in enumerate(view.rows, 1)
    ]  # fmt: skip
    lines = [columns(header, cells)]
    if markdown:
        lines = [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *cells)]
    lines += [
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


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"
