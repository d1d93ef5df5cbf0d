"""`nextvec diagnose run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from nextvec.cli.common import JsonTarget, columns, output
from nextvec.cli.verdicts import Strict, finish, verdict_lines

if TYPE_CHECKING:
    from nextvec.diagnostics.run import Epoch, RunDiagnosis, RunRecord


def diagnose_run(
    run: Annotated[Path, Parameter(help="A run folder, finished or not.")],
    *,
    strict: Strict = False,
    json: JsonTarget = None,
) -> None:
    """Read the history of a training run: every loss term and its gradient, variance, collapse, divergence,
    over-fitting, the learning rate's schedule, speed.

    The exit code is 0 whatever is found, or with --strict 1 when a verdict is RED.
    """
    from nextvec.diagnostics.run import diagnose_run
    from nextvec.experiments.runs import read_record

    found = diagnose_run(read_record(run))
    output(describe(found), found.to_json(), json)
    finish(found.verdicts, strict=strict)


def describe(found: RunDiagnosis) -> str:
    """One row an epoch, then the verdicts."""
    blocks = [f"{found.record.run}: {found.record.model}"]
    if found.record.epochs:
        blocks.append(columns(*table(found.record)))
    return "\n\n".join([*blocks, "Verdicts"]) + "\n" + "\n".join(verdict_lines(found.verdicts))


def table(record: RunRecord) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the history, one row an epoch, with every loss term and its gradient norm."""
    terms = record.epochs[0].terms if record.epochs else ()
    shown = terms if len(terms) > 1 else ()
    head = ["epoch", "updates", "train loss", *(f"{t}" for t in shown), "val loss", "train cos", "val cos",
            "var ratio", "std ratio", "grad norm", *(f"grad {t}" for t in shown), "lr", "s",
            "pos/s"]  # fmt: skip
    return head, [_row(e, shown) for e in record.epochs]


def _row(e: Epoch, terms: tuple[str, ...]) -> list[str]:
    def figure(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    return [
        f"{e.epoch}",
        f"{e.update:,}",
        f"{e.train['loss']:.4g}",
        *(figure(e.train.get(f"loss.{t}"), ".4g") for t in terms),
        f"{e.validation['loss']:.4g}",
        f"{e.train['cosine']:.4f}",
        f"{e.validation['cosine']:.4f}",
        figure(e.validation.get("variance_ratio"), ".3f"),
        figure(e.validation.get("std_ratio"), ".3f"),
        f"{e.gradient_norm:.3g}",
        *(figure(e.term_gradients.get(t), ".3g") for t in terms),
        f"{e.lr:.3g}",
        f"{e.seconds:.1f}",
        f"{e.speed:,.0f}",
    ]
