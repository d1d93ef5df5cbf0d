"""`nextvec models` and `info`: what can be trained, and what a store holds."""

from __future__ import annotations

from typing import Annotated, Any

from nextvec.cli.common import JsonTarget, StorePath, flag, output
from nextvec.text import columns, counted, fill


def models(
    name: Annotated[str | None, flag("One architecture: its paper, parity and deviations too.")] = None,
    /,
    *,
    state: Annotated[bool, flag("Measure a session's state after 1 and 1,024 vectors (slower).")] = False,
    devices: Annotated[
        int, flag("With a name: memory of each of so many processes that share it (fsdp).")
    ] = 1,
    json: JsonTarget = None,
) -> None:
    """List the architectures and presets: parameters at D = 768, cost of training, and how they stream.

    constant: the state of a step does not grow; cache: it keeps something of each vector read;
    buffer: a declared number of vectors. T: length of what is read.
    """
    from nextvec.models.registry import describe, get

    if name is not None:
        get(name)
    rows, measured = describe(measure=state, only=name), ["state bytes"] if state else []
    head = ["model", "preset", "parameters", "training", "streaming", *measured, "head", "best for"]
    text = columns(head, [_cells(row, state=state) for row in rows])
    if name is not None:
        text = "\n".join([text, *_details(rows[0]), *_memory(rows, devices)])
    output(text, rows, json)


def _cells(row: dict[str, Any], *, state: bool) -> list[str]:
    measured = [f"{n:,}" for n in row.get("state_bytes", {}).values()]
    return [
        *(row["name"], row["preset"], f"{row['parameters']:,}", row["complexity"], row["streaming"]),
        *([" > ".join(measured)] if state else []),
        row["head"] if row["residual"] == "none" else f"{row['head']} + {row['residual']}",
        row["best_for"],
    ]


def _memory(rows: list[dict[str, Any]], devices: int) -> list[str]:
    """What training each preset at D = 768 would take of each process; added to the rows too."""
    from nextvec.models.registry import estimated_memory

    each = f" each of {devices} processes that share the model" if devices > 1 else ""
    title = f"Training on batches of 32 x 128 chunks in float32 with AdamW would take{each} (GiB):"
    lines = ["", title]
    for row in rows:
        found = estimated_memory(row["name"], row["preset"], 768, batch=-(-32 // devices))
        memory = "not known without running it"
        row["training_bytes"] = None
        if found is not None:
            found = found.shared(devices)
            row["training_bytes"] = found.total
            parts = (found.total, found.weights, found.gradients, found.moments, found.activations)
            total, weights, gradients, moments, activations = (f"{part / 2**30:.1f}" for part in parts)
            memory = f"{total}: weights {weights}, gradients {gradients}, moments {moments}, "
            memory += f"activations {activations}"
        lines.append(f"  {row['preset']}: {memory}")
    return lines


def _details(row: dict[str, Any]) -> list[str]:
    notes = ((title, row[title.lower()]) for title in ("Paper", "Parity", "Deviations"))
    lines = [row["summary"], *(f"{title}: {text}" for title, text in notes if text)]
    return ["", *(fill(line, rest="  ") for line in lines)]


def info(
    store: StorePath,
    *,
    verify: Annotated[bool, flag("Also check the sha256 of every shard.")] = False,
    json: JsonTarget = None,
) -> None:
    """Show what a store holds: encoder, documents, chunks, sources, shards."""
    from nextvec.corpus.store import Store, describe_store

    if verify:
        Store.open(store, verify=True)
    found = describe_store(store)
    output(_describe_store(found, verify), found, json)


def _describe_store(found: dict[str, Any], verified: bool) -> str:
    encoder, norm, per_document = found["encoder"], found["norm"], found["chunks_per_document"]
    kind = "unit length, as imported" if found["normalised"] else "raw encoder output"
    if found["encoder_normalises"] and not found["normalised"]:
        kind += " (the published encoder normalises after it)"
    seen, views = found["views"], []
    if seen["documents"]:
        views = [f"views        {seen['documents']:,} with {seen['chunks']:,} chunks more, for training only"]
    lines = [
        f"store        {found['path']}  ({found['bytes'] / 2**20:.1f} MiB)",
        f"fingerprint  {found['fingerprint']} (encoder and chunker)",
        f"encoder      {encoder.get('name', '?')}, fingerprint {encoder['fingerprint'][:16]}",
        f"vectors      {found['dimension']}-dimensional {found['dtype']}, {kind}",
        f"norms        {norm['mean']:.4f} +- {norm['std']:.4f}, from {norm['min']:.4f} to {norm['max']:.4f}",
        "chunker      " + ", ".join(f"{k} {v}" for k, v in found["chunker"].items()),
        f"documents    {found['documents']:,} with {counted(found['chunks'], 'chunk')} "
        f"({per_document['min']} to {per_document['max']} each, median {per_document['median']:g})",
        *views,
        *([f"deleted      {found['deleted']:,} chunks, until nextvec compact"] if found["deleted"] else []),
        f"shards       {len(found['shards'])}" + (", every checksum agrees" if verified else ""),
        "",
        columns(
            ["source", "documents", "chunks"],
            [[s, f"{n['documents']:,}", f"{n['chunks']:,}"] for s, n in found["sources"].items()],
        ),
    ]
    return "\n".join(lines)
