"""`nextvec card`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def card(
    run: Annotated[Path, Parameter(help="A run folder, finished or interrupted.")],
    *,
    store: Annotated[
        Path | None, Parameter(help="Where its store lies now (default: where it lay at training).")
    ] = None,
    license: Annotated[
        str | None,
        Parameter(
            help="Of the weights, as the Hub names it, mit or cc-by-4.0 (default: as the card there has it)."
        ),
    ] = None,
    out: Annotated[Path | None, Parameter(help="The file (default: RUN/README.md).")] = None,
) -> None:
    """Write the model card of a run: README.md, with the metadata that the Hugging Face Hub reads.

    Results are those of the matrix that the run belongs to, or of its last `nextvec report --deep`; where it
    was not judged, the card says so.
    """
    from nextvec.reporting.card import write_card
    from nextvec.reporting.inputs import ReportInputs

    print(write_card(ReportInputs.of(run, store=store), out, licence=license))
