"""The table in plain text or Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nextvec.disk import read_json
from nextvec.errors import EvaluationError, RunError
from nextvec.evaluation.metrics import KS, METRICS
from nextvec.evaluation.results import Report
from nextvec.evaluation.trajectory import STEPS
from nextvec.text import table

TABLE = "matrix.json"
JSON_ONLY = {
    *("surprise", "share_above_0.5", "median_rank", "spread_ratio", "skill_vs_best_baseline"),
    *("forward_margin", "offset_margin", "offset_accuracy", "variance_ratio", "pairwise_cosine"),
    *(f"rollout{what}@{STEPS}" for what in ("", "_drift", "_repetition")),
    *("cosine_without_mean", "moments_raw", "moments_unit", "moments_mean_gap", "moments_std_ratio"),
}
"""Figures that the table has no room for. Any other metric of the registry has a column."""
NAMED = {
    "cosine": ("cosine", "{:.4f}"),
    "cosine_std": ("std", "{:.4f}"),
    "mse": ("mse", "{:.6f}"),
    **{f"recall@{k}": (f"R@{k}", "{:.4f}") for k in KS},
    "mrr": ("MRR", "{:.4f}"),
    "unit_recall@5": ("unit R@5", "{:.4f}"),
    "unit_mrr": ("unit MRR", "{:.4f}"),
    "skill": ("skill", "{:+.3f}"),
    "contrastive_accuracy": ("CA", "{:.4f}"),
    "par": ("PAR", "{:.3f}"),
    "energy_score": ("energy", "{:.4f}"),
    "diversity": ("diversity", "{:.3f}"),
}
FIGURES = NAMED | {name: (name, "{:.4f}") for name in METRICS if name not in NAMED and name not in JSON_ONLY}
METADATA = {
    "seeds": ("seeds", "{:d}"),
    "cosine_seed_std": ("seed std", "{:.4f}"),
    "parameters": ("parameters", "{:,}"),
    "bytes": ("bytes", "{:,}"),
    "seconds": ("seconds", "{:.1f}"),
    "latency_p50_ms": ("p50 ms", "{:.2f}"),
    "throughput": ("per s", "{:,.0f}"),
}
EXPLAINED = {
    "seeds": "Runs that the row stands for; figures are their means.",
    "cosine_seed_std": "Standard deviation of the cosine over these runs.",
    "parameters": "Numbers that were fitted or learned.",
    "bytes": "Of the file of weights.",
    "seconds": "Of fitting or training.",
    "latency_p50_ms": "Median time of one prediction, batch 1, one thread.",
    "throughput": "Predictions a second, in batches.",
}
LEGEND = (
    "* best baseline by that figure; + better and - worse than it: 95 % of 1,000 resamples of the documents "
    "agree."
)
LEGEND_OF = {
    "skill": "skill: share of what the linear average leaves to be gained.",
    "seconds": "seconds: fitting or training.",
}
"""Said only under a table that has the column."""
WIDTH = 100
FIRST = (
    *("cosine", "recall@5", "mrr", "mse", "recall@1", "skill", "recall@20"),
    *("seeds", "parameters", "seconds"),
)
"""What is shown where not everything fits, before all the rest; `unit_` figures go with theirs."""


def legend(header: Sequence[str]) -> str:
    """How to read a table with these columns."""
    return " ".join([LEGEND, *(meaning for column, meaning in LEGEND_OF.items() if column in header)])


def format_report(report: Report, *, markdown: bool = False, wide: bool = True) -> str:
    return format_table(report.to_json(), markdown=markdown, wide=wide)


def read_table(out: Path) -> dict[str, Any]:
    """The table of a matrix. Raises RunError naming the file."""
    remedy = "run `nextvec matrix` with this folder to its end"
    found = read_json(out / TABLE, RunError, remedy=remedy)
    if not isinstance(found, dict) or not isinstance(found.get("rows"), list) or "failed" not in found:
        raise RunError("is not the table of a matrix", where=out / TABLE, remedy=remedy)
    return found


def format_table(report: Mapping[str, Any], *, markdown: bool = False, wide: bool = True) -> str:
    """The same from the JSON of a report. Columns that no row has a value for are left out; and, of a plain
    table that is not `wide`, those that do not fit into 100 characters, which is said."""
    keys = _keys(report)
    header = ["predictor", *((FIGURES | METADATA)[key][0] for key in keys)]
    body = [[row["name"], *(_cell(report, row, key) for key in keys)] for row in report["rows"]]
    left_out: list[str] = []
    if not (wide or markdown):
        shown = [0, *(at for at, key in enumerate(keys, 1) if key in _fitting(keys, header, body))]
        left_out = [name for at, name in enumerate(header) if at not in shown]
        header, body = [header[at] for at in shown], [[row[at] for at in shown] for row in body]
    head, lines = heading(report), table(header, body, markdown=markdown)
    notes = [legend(header), *report["notes"]]
    if left_out:
        hidden = f"Not shown: {', '.join(left_out)} (--wide shows them, `nextvec metrics` explains all)."
        notes.insert(0, hidden)
    if queried := [row["name"] for row in report["rows"] if row.get("ranked_by") == "query"]:
        by_unit = "unit R@5 and unit MRR: by its unit prediction"
        notes.append(f"Ranks of {', '.join(queried)} are by the query that it gives for ranking; {by_unit}.")
    return "\n".join([*head, "", *lines, "", *(f"- {note}" if markdown else note for note in notes)])


def heading(report: Mapping[str, Any]) -> list[str]:
    """What was asked, of whom, and among what: the lines above a table."""
    sample = " (in-sample)" if report["in_sample"] else ""
    of = f" of {report['encoder']} vectors" if report["encoder"] else ""
    chance = ", ".join(
        f"{name.replace('recall', 'R')} {value:.4f}" for name, value in report["chance"].items()
    ).replace("mrr", "MRR")
    given = "read" if report.get("queries") is None else "read or given"
    what = {"split": "chunks of the split's documents", "store": "chunks of the store"}.get(
        report["candidates"], "chunks of the target's document at most"
    )
    return [
        f"Split {report['split']}{sample}{of}: {report['windows']:,} windows of {report['documents']:,} "
        f"documents, context {report['context']}, {_protocol(report)}.",
        f"Candidates: {report['pool']:,} {what}, without what was {given} ({report['eligible']:,.0f} on "
        f"average). Chance: {chance}.",
    ]


def _protocol(report: Mapping[str, Any]) -> str:
    """What is predicted; a report from before there were tasks is of task next."""
    protocol = f"horizon {report['horizon']}"
    if report.get("task", "next") == "middle":
        protocol = "task middle (half of it on either side of the target)"
    if (queried := report.get("queries")) is not None:
        protocol += f", a later chunk given as query in {queried:,} windows"
    return protocol


def _fitting(keys: Sequence[str], header: Sequence[str], body: Sequence[Sequence[str]]) -> set[str]:
    """The columns, the most telling first, that fit beside the names."""
    widths = [max(len(row[at]) for row in (header, *body)) for at in range(len(header))]
    wide, found = widths[0], set[str]()
    for key in sorted(keys, key=lambda k: FIRST.index(k) if k in FIRST else len(FIRST)):
        more = 2 + widths[1 + list(keys).index(key)]
        if wide + more <= WIDTH:
            wide += more
            found.add(key)
    return found


def explain() -> list[tuple[str, str, str, str]]:
    """Every figure: its column ("" where it is in the JSON alone), its key in the JSON, which way is better
    ("": neither), and what it says."""
    rows: list[tuple[str, str, str, str]] = [
        (FIGURES.get(name, ("",))[0], name, metric.better or "", metric.says)
        for name, metric in METRICS.items()
    ]
    return rows + [(METADATA[name][0], name, "", meaning) for name, meaning in EXPLAINED.items()]


def _keys(report: Mapping[str, Any]) -> list[str]:
    rows = report["rows"]
    # By the unit prediction only where a query ranks otherwise.
    by_query = {f"unit_{k}": k for k in ("recall@5", "mrr")}
    figures = [
        k for k in FIGURES if any(row.get(k) not in (None, row.get(by_query.get(k, ""))) for row in rows)
    ]
    return figures + [k for k in METADATA if any(row.get(k) is not None for row in rows)]


def _cell(report: Mapping[str, Any], row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if name in METADATA:
        return METADATA[name][1].format(value)
    better = row["versus_best_baseline"].get(name, {}).get("better")
    mark = {True: "+", False: "-", None: " "}[better]
    return FIGURES[name][1].format(value) + (
        "*" if report["best_baseline"].get(name) == row["name"] else mark
    )


def format_pairs(report: Mapping[str, Any], metric: str) -> str:
    """Every two rows of a table by one metric, with their intervals.

    Raises:
        EvaluationError: the table has no intervals for that metric.
    """
    pairs = [pair for pair in report.get("pairs", []) if pair["metric"] == metric]
    if not pairs:
        known = sorted({pair["metric"] for pair in report.get("pairs", [])})
        remedy = f"choose one of: {', '.join(known)}" if known else "evaluate more than one document"
        raise EvaluationError(f"no pairs by '{metric}' in the table", remedy=remedy)
    head, cells = ["row", "than", metric, "95 % interval", ""], []
    for pair in pairs:
        clear = pair["low"] > 0 or pair["high"] < 0
        interval = f"[{pair['low']:+.4f}, {pair['high']:+.4f}]"
        cells.append(
            [pair["row"], pair["than"], f"{pair['difference']:+.4f}", interval, "*" if clear else ""]
        )
    return "\n".join([*table(head, cells), "* the interval leaves out 0"])
