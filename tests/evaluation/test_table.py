"""The table in text and Markdown, from a report and from its JSON."""

from __future__ import annotations

import json
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nextvec.data.splits import Split
from nextvec.errors import EvaluationError
from nextvec.evaluation.baselines import BASELINES
from nextvec.evaluation.harness import EvaluationConfig, evaluate
from nextvec.evaluation.metrics import METRICS
from nextvec.evaluation.results import PAIRED, Report
from nextvec.evaluation.table import (
    FIGURES,
    JSON_ONLY,
    LEGEND_OF,
    METADATA,
    WIDTH,
    explain,
    format_pairs,
    format_report,
    format_table,
    legend,
)
from nextvec.experiments.matrix import merge_seeds

D = 8
SPLIT = Split(tuple(range(16)), tuple(range(16, 20)), tuple(range(20, 32)))


@pytest.fixture(scope="module")
def store(worlds: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory):
    vectors = worlds.noisy(np.random.default_rng(0), 32, 14, D)
    return worlds.store(tmp_path_factory.mktemp("tables") / "store", vectors)


@pytest.fixture(scope="module")
def report(store, worlds: SimpleNamespace) -> Report:
    rows = store.vectors[:]
    after = {row.tobytes(): rows[(i + 1) % len(rows)] for i, row in enumerate(rows)}

    def look(contexts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return np.stack([after[c[n - 1].tobytes()] for c, n in zip(contexts, lengths, strict=True)])

    good = worlds.FunctionPredictor(
        look, name="good | better", metadata={"parameters": 1234567, "seconds": 2.25}
    )
    bad = worlds.FunctionPredictor(lambda c, n: -c[:, 0], name="bad", metadata={"parameters": 10})
    return evaluate(store, SPLIT, "test", [good, bad], EvaluationConfig(resamples=200, quiet=True))


def cells(text: str) -> list[list[str]]:
    """The cells of a Markdown table's lines."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.replace("\\|", "¦").strip("|").split("|")] for row in rows]


def test_the_json_makes_the_same_table(report: Report) -> None:
    read_again = json.loads(json.dumps(report.to_json(), allow_nan=False))
    for markdown in (False, True):
        assert format_table(read_again, markdown=markdown) == format_report(report, markdown=markdown)


def test_the_heading_says_what_it_stands_on(report: Report) -> None:
    first, second = format_report(report).splitlines()[:2]
    assert first == ("Split test of encoder-a vectors: 108 windows of 12 documents, context 5, horizon 1.")
    assert second.startswith("Candidates: 168 chunks of the split's documents, without what was read (159 on")
    assert f"Chance: R@1 {report.chance['recall@1']:.4f}, R@5 " in second
    assert second.endswith(f"MRR {report.chance['mrr']:.4f}.")


def test_every_row_and_figure(report: Report) -> None:
    lines = format_report(report).splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("predictor"))
    assert set(lines[head + 1]) == {"-", " "}
    body = lines[head + 2 : head + 2 + len(report.rows)]
    starts = [row.name for row in report.rows]
    assert starts == [*BASELINES, "good | better", "bad"]
    for row, line in zip(report.rows, body, strict=True):
        assert line.startswith(row.name)
        assert f" {row.figures['cosine']:.4f}" in line
        assert f" {row.figures['mse']:.6f}" in line
        assert f" {row.figures['recall@20']:.4f}" in line
    assert "1,234,567" in body[-2]
    assert body[-2].endswith("2.2")
    assert legend(["skill", "seconds"]) in lines


def test_marks_of_the_best_baseline_and_of_clear_differences(report: Report) -> None:
    table = cells(format_report(report, markdown=True))
    column = table[0].index("cosine")
    marks = {row[0].replace("¦", "|"): row[column][-1] for row in table[2:]}
    best = report.best["cosine"]
    assert marks[best] == "*"
    for row in report.rows:
        if row.name != best:
            expected = {True: "+", False: "-", None: None}[row.better("cosine")]
            assert marks[row.name] == expected or (expected is None and marks[row.name].isdigit())
    assert report.row("good | better").better("cosine") is True
    assert report.row("bad").better("cosine") is False


def test_markdown_is_a_table(report: Report) -> None:
    text = format_report(report, markdown=True)
    table = cells(text)
    assert len(table) == 2 + len(report.rows)
    assert len({len(row) for row in table}) == 1
    assert set(table[1][0]) == {"-"}
    assert all(rule.endswith("-:") and set(rule[:-1]) == {"-"} for rule in table[1][1:])
    notes = text.split("\n\n")[-1].splitlines()
    assert all(note.startswith("- ") for note in notes)
    assert notes[0] == f"- {legend(['skill', 'seconds'])}"
    blocks = text.split("\n\n")
    assert len(blocks) == 3


def test_a_column_is_explained_only_where_it_is_shown(report: Report) -> None:
    figures = json.loads(json.dumps(report.to_json()))
    assert all(message in format_table(figures) for message in LEGEND_OF.values())
    for column, message in LEGEND_OF.items():
        for row in figures["rows"]:
            row[column] = None
        assert message not in format_table(figures)


def test_columns_without_a_value_are_left_out(report: Report) -> None:
    def without(key: str) -> dict[str, Any]:
        figures = json.loads(json.dumps(report.to_json()))
        for row in figures["rows"]:
            row[key] = None
        return figures

    head = format_report(report).splitlines()
    assert any("skill" in line and line.startswith("predictor") for line in head)
    assert not any("p50 ms" in line for line in head)
    for key, title in (("skill", "skill"), ("recall@20", "R@20"), ("parameters", "parameters")):
        line = next(x for x in format_table(without(key)).splitlines() if x.startswith("predictor"))
        assert title not in line.split()


def test_seeds_and_speed_have_columns(store, worlds: SimpleNamespace) -> None:
    output = [
        worlds.FunctionPredictor(
            lambda c, n, s=s: worlds.kalman(c, n) * (1 + 0.1 * s), name=f"m{s}", metadata={"seed": s}
        )
        for s in range(2)
    ]
    how = EvaluationConfig(resamples=50, quiet=True, baselines=("copy-last", "linear average"))
    evaluated = evaluate(store, SPLIT, "test", output, how)
    for row in evaluated.rows:
        row.metadata |= {"latency_p50_ms": 0.126, "throughput": 12345.6}
    lines = format_report(merge_seeds(evaluated, {"m": ["m0", "m1"]})).splitlines()
    head = next(line for line in lines if line.startswith("predictor"))
    for title in ("seeds", "seed std", "p50 ms", "per s"):
        assert title in head
    row = next(line for line in lines if line.startswith("m "))
    assert " 2 " in row
    assert "0.13" in row
    assert row.endswith("12,346")


@pytest.mark.parametrize("split", ["train", "all"])
def test_what_has_to_be_said_of_a_split(store, split: str) -> None:
    whole = Split((), (), (), tuple(range(32))) if split == "all" else SPLIT
    text = format_report(evaluate(store, whole, split, (), EvaluationConfig(resamples=50, quiet=True)))
    if split == "train":
        assert text.startswith("Split train (in-sample) of ")
        assert "In-sample: these documents were trained on" in text
    else:
        assert "left out: mean vector, position weights" in text


@pytest.mark.parametrize(
    ("candidates", "message"),
    [("store", "448 chunks of the store"), ("document", "9 chunks of the target's document at most")],
)
def test_other_candidates(store, candidates: str, message: str) -> None:
    how = EvaluationConfig(resamples=50, quiet=True, candidates=candidates)
    assert f"Candidates: {message}, without" in format_report(evaluate(store, SPLIT, "test", (), how))


def test_every_two_rows_are_compared_with_their_interval(report: Report) -> None:
    table = report.to_json()
    names = [row.name for row in report.rows]
    for metric in PAIRED:
        pairs = [(p["row"], p["than"]) for p in table["pairs"] if p["metric"] == metric]
        assert pairs == list(combinations(names, 2))
    first = table["pairs"][0]
    a, b = (report.row(first[key]).figures["cosine"] for key in ("row", "than"))
    assert first["difference"] == pytest.approx(a - b, abs=1e-6)
    assert first["low"] <= first["difference"] <= first["high"]
    lines = format_pairs(table, "cosine").splitlines()
    assert len(lines) == 2 + len(list(combinations(names, 2))) + 1
    with pytest.raises(EvaluationError, match="choose one of: cosine, energy_score, mrr, recall@5"):
        format_pairs(table, "skill")


def test_every_metric_has_a_column_but_those_for_which_there_is_no_room() -> None:
    assert set(FIGURES) | JSON_ONLY == set(METRICS)
    assert not set(FIGURES) & JSON_ONLY


def test_a_plain_table_fits_into_100_columns_and_says_what_it_leaves_out(report: Report) -> None:
    wide, narrow = format_report(report).splitlines(), format_report(report, wide=False).splitlines()
    at = next(i for i, line in enumerate(narrow) if line.startswith("predictor"))
    assert max(map(len, wide)) > WIDTH >= max(len(line) for line in narrow[at : at + 2 + len(report.rows)])
    header, whole = narrow[at].split("  "), next(line for line in wide if line.startswith("predictor"))
    shown = [name.strip() for name in header if name.strip()]
    assert shown[1:4] == ["cosine", "mse", "R@1"]
    (note,) = (line for line in narrow if line.startswith("Not shown: "))
    left_out = note.removeprefix("Not shown: ").partition(" (--wide")[0].split(", ")
    assert sorted([*shown, *left_out]) == sorted(n.strip() for n in whole.split("  ") if n.strip())
    assert format_report(report, markdown=True, wide=False) == format_report(report, markdown=True)


def test_every_figure_is_explained() -> None:
    output = explain()
    assert {key for _, key, _, _ in output} == {*METRICS, *METADATA}
    assert {column for column, *_ in output if column} == {
        name for name, _ in [*FIGURES.values(), *METADATA.values()]
    }
    assert all(says.endswith((".", ")")) and len(says) > 15 for *_, says in output)
