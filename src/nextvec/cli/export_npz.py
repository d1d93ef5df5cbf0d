"""`nextvec export-npz`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nextvec.cli.common import Quiet, Sources, StorePath, names


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
