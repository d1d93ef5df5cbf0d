"""`nextvec info`."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from nextvec.cli.common import JsonTarget, StorePath, columns, output


def info(
    store: StorePath,
    *,
    verify: Annotated[bool, Parameter(negative=(), help="Also check the sha256 of every shard.")] = False,
    json: JsonTarget = None,
) -> None:
    """Show what a store holds: encoder, documents, chunks, sources, shards."""
    from nextvec.corpus.store import Store, describe_store

    if verify:
        Store.open(store, verify=True)
    found = describe_store(store)
    output(_describe(found, verify), found, json)


def _describe(found: dict[str, Any], verified: bool) -> str:
    encoder, norm, per_document = found["encoder"], found["norm"], found["chunks_per_document"]
    kind = "unit length, as imported" if found["normalised"] else "raw encoder output"
    if found["encoder_normalises"] and not found["normalised"]:
        kind += " (the published encoder normalises after it)"
    lines = [
        f"store        {found['path']}  ({found['bytes'] / 2**20:.1f} MiB)",
        f"fingerprint  {found['fingerprint']} (encoder and chunker)",
        f"encoder      {encoder.get('name', '?')}, fingerprint {encoder['fingerprint'][:16]}",
        f"vectors      {found['dimension']}-dimensional {found['dtype']}, {kind}",
        f"norms        {norm['mean']:.4f} +- {norm['std']:.4f}, from {norm['min']:.4f} to {norm['max']:.4f}",
        "chunker      " + ", ".join(f"{k} {v}" for k, v in found["chunker"].items()),
        f"documents    {found['documents']:,} with {found['chunks']:,} chunks "
        f"({per_document['min']} to {per_document['max']} each, median {per_document['median']:g})",
        *_views(found["views"]),
        f"shards       {len(found['shards'])}" + (", every checksum agrees" if verified else ""),
        "",
        columns(
            ["source", "documents", "chunks"],
            [[s, f"{n['documents']:,}", f"{n['chunks']:,}"] for s, n in found["sources"].items()],
        ),
    ]
    return "\n".join(lines)


def _views(views: dict[str, int]) -> list[str]:
    if not views["documents"]:
        return []
    return [f"views        {views['documents']:,} with {views['chunks']:,} chunks more, for training only"]
