"""`nextvec index`: list, drop."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from nextvec.cli.common import JsonTarget, output

VERBS = {
    "list": "What searches hold in a database or a cluster.",
    "drop": "Drop some of it; the next search of its store loads it again.",
}

index = App(name="index", help="Tables and collections that searches have made.", help_format="plaintext")
for name, summary in VERBS.items():
    index.command(f"nextvec.cli.index:index_{name}", name=name, help=summary)

Place = Annotated[str, Parameter(help="pgvector:postgresql://USER@HOST/DATABASE, or milvus:FILE.db or URL.")]


def index_list(place: Place, *, json: JsonTarget = None) -> None:
    """The tables, or collections, that `nextvec retrieve --index` and `nextvec serve --index` have made."""
    from dataclasses import asdict

    from nextvec.retrieval.backends import held_rows
    from nextvec.text import columns

    found = held_rows(place)
    table = columns(["name", "rows", "holds"], [[held.name, f"{held.rows:,}", held.about] for held in found])
    output(table if found else "no index holds anything there", [asdict(held) for held in found], json)


def index_drop(
    place: Place, *names: Annotated[str, Parameter(help="As nextvec index list prints them.")]
) -> None:
    """Drop tables, or collections, that no store uses any more; no other names are taken."""
    from nextvec.errors import ConfigError
    from nextvec.retrieval.backends import drop_rows

    if not names:
        raise ConfigError("no name is given", where="nextvec index drop", remedy="see nextvec index list")
    for name in names:
        drop_rows(place, name)
        print(f"dropped {name}")
