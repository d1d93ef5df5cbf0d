"""`nextvec models`."""

from __future__ import annotations

from nextvec.cli.common import JsonTarget, columns, output


def models(*, json: JsonTarget = None) -> None:
    """List the architectures and presets: parameters at D = 768, and what their streaming state is.

    constant: the state of a step does not grow; cache: it keeps something of each vector read;
    buffer: a declared number of vectors.
    """
    from nextvec.models.registry import describe

    rows = describe()
    table = columns(
        ["model", "preset", "parameters", "streaming", "head", "residual"],
        [
            [r["name"], r["preset"], f"{r['parameters']:,}", r["streaming"], r["head"], r["residual"]]
            for r in rows
        ],
    )
    output(table, rows, json)
