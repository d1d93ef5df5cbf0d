"""Windows with their texts: the right ones, with what each predictor took for the next chunk."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import escape

from nextvec.corpus.store import Store
from nextvec.data.gather import gather_rows
from nextvec.evaluation.harness import EvaluationConfig
from nextvec.evaluation.predictor_protocol import unit
from nextvec.experiments.evaluating import DocumentSelection
from nextvec.experiments.matrix import run_matrix
from nextvec.experiments.plan import MatrixPlan
from nextvec.reporting.inputs import ReportInputs
from nextvec.reporting.predicted import (
    NEEDS,
    PAGE,
    PredictorScore,
    RetrievedPassage,
    WindowExample,
    drawn,
    extremes,
    write_qualitative,
)
from nextvec.reporting.result_files import render


def window_of(inputs: ReportInputs, example: WindowExample) -> int:
    """The number of an example's window."""
    store, answers = inputs.store, inputs.answers
    texts = store.texts(answers.target)
    return texts.index(example.target)


def test_an_example_tells_what_was_read_what_came_and_what_each_took(inputs: ReportInputs) -> None:
    store, answers = inputs.store, inputs.answers
    example = drawn(inputs, 5)[2]
    at = window_of(inputs, example)
    target, last = int(answers.target[at]), int(answers.last[at])
    document = store.documents[int(answers.document[at])]
    assert (example.title, example.source, example.position) == (
        document.title,
        document.source,
        target - document.first,
    )
    assert example.before == tuple(store.texts(range(last - 4, last + 1)))
    assert example.after == ()
    by = {answer.row: (passage, answer) for passage in example.retrieved for answer in passage.answers}
    kinds = {row["name"]: row["kind"] for row in inputs.rows}
    assert by.keys() == kinds.keys() > {"lstm", "amn", "copy-last"}
    evaluated = [
        i
        for d in set(answers.document.tolist())
        for i in rows_of(store, d)
        if not document.first <= i <= last
    ]
    candidates = unit(gather_rows(store.vectors, np.array(evaluated)))
    truth = unit(gather_rows(store.vectors, answers.target[at : at + 1]))[0]
    for row, (passage, answer) in by.items():
        output = unit(answers.units[row][at : at + 1].astype(np.float32))[0]
        similar = candidates @ output
        assert answer.cosine == pytest.approx(float(output @ truth), abs=1e-5)
        assert answer.rank == 1 + np.count_nonzero(similar > output @ truth + 1e-6)
        assert passage.text == store.texts([evaluated[int(similar.argmax())]])[0]
        assert passage.true == (answer.rank == 1)
        assert answer.model == (kinds[row] == "model")


def rows_of(store: Store, document: int) -> range:
    found = store.documents[document]
    return range(found.first, found.first + found.count)


def test_the_extremes_are_the_ends_of_the_best_model(inputs: ReportInputs) -> None:
    best, worst = extremes(inputs, 3)
    means = {row["name"]: row["cosine"] for row in inputs.models}
    model = max(means, key=means.__getitem__)
    truth = unit(gather_rows(inputs.store.vectors, inputs.answers.target))
    cosines = (unit(inputs.answers.units[model].astype(np.float32)) * truth).sum(axis=1)
    assert {example.best for example in (*best, *worst)} == {model}
    assert best[0].cosine == pytest.approx(cosines.max(), abs=1e-5)
    assert worst[0].cosine == pytest.approx(cosines.min(), abs=1e-5)
    assert [e.cosine for e in best] == sorted((e.cosine for e in best), reverse=True)
    assert [e.cosine for e in worst] == sorted(e.cosine for e in worst)
    for several in (best, worst):
        assert len({example.title for example in several}) == len(several) == 3


def test_no_window_is_both_best_and_worst(inputs: ReportInputs) -> None:
    best, worst = extremes(inputs, 1000)
    targets = [example.target for example in (*best, *worst)]
    assert len(set(targets)) == len(targets)
    assert len(best) == len(set(inputs.answers.document.tolist()))


def test_windows_are_drawn_at_even_distances(inputs: ReportInputs) -> None:
    n = len(inputs.answers.target)
    at = [window_of(inputs, example) for example in drawn(inputs, 6)]
    assert at == sorted(at)
    assert set(np.diff(at)) <= {n // 6, n // 6 + 1}
    assert [example.target for example in drawn(inputs, 6)] == [e.target for e in drawn(inputs, 6, 0)]
    assert at != [window_of(inputs, example) for example in drawn(inputs, 6, seed=3)]
    assert len(drawn(inputs, n + 100)) == n


def test_a_gap_is_shown_with_both_its_sides(
    world: Store, make_tiny: Callable[..., Any], tmp_path: Path
) -> None:
    gap = ("data.task=middle", "data.context=4", "data.min_context=4", "optim.epochs=1")
    how = EvaluationConfig(resamples=100, quiet=True, baselines=("copy-last",), candidates="document")
    run_matrix(
        world, MatrixPlan(str(world.path), ("mlp",), 1), lambda cell: make_tiny(cell.model, *gap),
        tmp_path / "m", DocumentSelection(), how, quiet=True,
    )  # fmt: skip
    example = drawn(ReportInputs.of(tmp_path / "m"), 3)[1]
    assert (len(example.before), len(example.after)) == (2, 2)
    numbers = [int(re.match(r"Chunk (\d+)", text)[1]) for text in (*example.before, *example.after)]
    k = example.position
    assert numbers == [k - 2, k - 1, k + 1, k + 2]
    assert example.target.startswith(f"Chunk {k} ")
    assert all(passage.title == example.title for passage in example.retrieved)


def test_the_page_needs_nothing_and_shows_every_row(inputs: ReportInputs, tmp_path: Path) -> None:
    page = write_qualitative(inputs, tmp_path)
    assert page == tmp_path / PAGE
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"https?:|src=|href=|@import|url\(", text)
    assert text.count("<details") == min(30, len(inputs.answers.target))
    for row in inputs.rows:
        name = str(escape(row["name"]))
        assert (f"<strong>{name}</strong> (" if row["kind"] == "model" else f"{name} (") in text
    assert all(example.target in text for example in drawn(inputs))
    again = write_qualitative(inputs, tmp_path / "again")
    assert again.read_bytes() == page.read_bytes()


def test_texts_are_never_taken_for_html(inputs: ReportInputs) -> None:
    evil = '<script>alert("1")</script>{{ 7 * 7 }}'
    passage = RetrievedPassage(evil, evil, 0, False, (PredictorScore(evil, True, 0.5, 2),))
    example = WindowExample(evil, evil, 1, (evil,), (evil,), evil, evil, 0.5, (passage,))
    text = render("qualitative.html.j2", inputs=inputs, examples=[example])
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;{{ 7 * 7 }}") == 9


def test_without_answers_there_is_no_page(world: Store, trained: Path, tmp_path: Path) -> None:
    inputs = ReportInputs.of(trained)
    assert inputs.lacks(NEEDS)
    assert write_qualitative(inputs, tmp_path) is None
    assert list(tmp_path.iterdir()) == []
