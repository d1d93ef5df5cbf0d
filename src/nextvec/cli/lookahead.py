"""The comparison of retrieval strategies on the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from nextvec.cli.common import columns
from nextvec.cli.verdicts import WIDTH

METRICS = {"recall@1": "R@1", "recall@5": "R@5", "recall@10": "R@10", "recall@20": "R@20", "mrr": "MRR"}
LEGEND = (
    "Differences of MRR, with 95 % intervals over documents; * the interval leaves out 0. A control does as "
    "much without the model: last for predicted, last-mean for blend, last-query for query, passage for "
    "refined. The next chunk stands right behind the reader: document and recency know more than any query."
)


def describe_comparison(found: Mapping[str, Any]) -> str:
    """Heading, the table of strategies, where they gain and lose, and the verdicts in words."""
    blocks = [_heading(found), _table(found), textwrap.fill(LEGEND, WIDTH)]
    blocks += ["\n\n".join(_where(factor) for factor in found["where"] if len(factor["groups"]) > 1)]
    blocks += ["\n".join(textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in found["verdicts"])]
    return "\n\n".join(block for block in blocks if block)


def _heading(found: Mapping[str, Any]) -> str:
    sample = " (in-sample)" if found["split"] == "train" else ""
    told = (
        "" if found["queries"] is None else f", a later chunk told as query in {found['queries']:,} windows"
    )
    dropped = f"; {found['dropped']:,} windows dropped that stand in training" if found["dropped"] else ""
    chance = ", ".join(f"{METRICS[name]} {value:.4f}" for name, value in found["chance"].items())
    return textwrap.fill(
        f"Split {found['split']}{sample} of {found['encoder']} vectors: {found['windows']:,} windows of "
        f"{found['documents']:,} documents{told}, context {found['context']}, "
        f"horizon {found['horizon']}{dropped}. "
        f"Candidates: {found['pool']:,} chunks of the {found['candidates']}, without what was read "
        f"({found['eligible']:,.0f} on average). Chance: {chance}.",
        WIDTH,
    )


def _table(found: Mapping[str, Any]) -> str:
    rows = found["strategies"]
    others = [name for name in ("last", "mean") if any(name in row["versus"] for row in rows)]
    controlled = any(row["control"] in row["versus"] for row in rows)
    timed = any(row["latency_p50_ms"] is not None for row in rows)
    header = ["strategy", *METRICS.values(), *(["p50 ms"] if timed else [])]
    header += [f"MRR less {name}'s" for name in others] + (["MRR less control's"] if controlled else [])
    body = []
    for row in rows:
        cells = [row["name"], *(f"{row[metric]:.4f}" for metric in METRICS)]
        cells += [f"{row['latency_p50_ms']:.1f}"] if timed else []
        cells += [_gain(row["versus"].get(name)) for name in others]
        cells += [_gain(row["versus"].get(row["control"]))] if controlled else []
        body.append(cells)
    return columns(header, body)


def _where(factor: Mapping[str, Any]) -> str:
    others = list(factor["groups"][0]["gains"])
    body = [
        [
            group["name"],
            f"{group['windows']:,}",
            f"{group['documents']:,}",
            f"{group['last']:.4f}",
            *(_interval(group["gains"][name]) for name in others),
        ]
        for group in factor["groups"]
    ]
    return columns(
        [factor["name"], "windows", "documents", "MRR of last", *(f"{n} less last" for n in others)], body
    )


def _gain(gains: Mapping[str, Any] | None) -> str:
    return "" if gains is None else _interval(gains["mrr"])


def _interval(gain: Mapping[str, Any]) -> str:
    if gain["low"] is None:
        return f"{gain['value']:+.4f}"
    clear = "*" if gain["low"] > 0 or gain["high"] < 0 else " "
    return f"{gain['value']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]{clear}"
