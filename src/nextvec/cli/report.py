"""`nextvec report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from nextvec.cli.common import Quiet, flag, names
from nextvec.errors import ConfigError


def report(
    folder: Annotated[Path, flag("A matrix or a run, finished or interrupted.")],
    *,
    store: Annotated[
        Path | None, flag("Where the store lies now (default: where it lay at training).")
    ] = None,
    out: Annotated[Path | None, flag("Folder of the report (default: `report` in the folder).")] = None,
    figures: Annotated[str, flag("Names of figures separated by commas, all or none.")] = "all",
    deep: Annotated[
        bool,
        flag(
            "Load the models too: for figures that look into them, and to evaluate a lone run beside "
            "the baselines."
        ),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Turn a matrix or a run into one page, report.html, that needs nothing beside it.

    Every figure is written as PNG and SVG too, every number as CSV, and the PRD's JSON files. What there is
    nothing is there for is left out, and the page says why.
    """
    from nextvec.reporting.inputs import ReportInputs
    from nextvec.reporting.report import make_report

    out = folder / "report" if out is None else out
    if out.exists() and not out.is_dir():
        raise ConfigError("is not a folder", where=out, remedy="give another folder with --out")
    wanted = {"all": None, "none": ()}.get(figures, names(figures))
    made = make_report(ReportInputs.of(folder, store=store, deep=deep), out, figures=wanted, quiet=quiet)
    for why in dict.fromkeys(made.left_out.values()):
        print(f"left out {', '.join(name for name in made.left_out if made.left_out[name] == why)}: {why}")
    print(f"{made.page}   {made.page.stat().st_size / 1e6:.1f} MB, and {len(made.files)} files beside it")


def card(
    run: Annotated[Path, flag("A run folder, finished or interrupted, or an ensemble.")],
    *,
    store: Annotated[
        Path | None, flag("Where its store lies now (default: where it lay at training).")
    ] = None,
    license: Annotated[
        str | None,
        flag("Of the weights, as the Hub names it, mit or cc-by-4.0 (default: as the card there has it)."),
    ] = None,
    out: Annotated[Path | None, flag("The file (default: RUN/README.md).")] = None,
) -> None:
    """Write the model card of a run: README.md, with the metadata that the Hugging Face Hub reads.

    Results are those of the matrix that the run belongs to, or of its last `nextvec report --deep`; where it
    was not evaluated, the card says so.
    """
    from nextvec.inference.predictor import ENSEMBLE
    from nextvec.reporting.card import write_card, write_ensemble_card
    from nextvec.reporting.inputs import ReportInputs

    if (run / ENSEMBLE).is_file():
        print(write_ensemble_card(run, out, licence=license))
    else:
        print(write_card(ReportInputs.of(run, store=store), out, licence=license))
