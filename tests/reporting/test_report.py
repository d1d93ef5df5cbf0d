"""The page: whole, by itself, safe whatever the documents say, and there whatever is missing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nextvec.config import nested
from nextvec.corpus.store import NewDocument, Store, StoreWriter
from nextvec.data.splits import SplitConfig
from nextvec.evaluation.harness import EvaluationConfig
from nextvec.experiments.evaluating import DocumentSelection
from nextvec.experiments.matrix import run_matrix
from nextvec.experiments.plan import MatrixPlan
from nextvec.reporting import figures as figure
from nextvec.reporting.headline import headline
from nextvec.reporting.inputs import ReportInputs
from nextvec.reporting.report import LARGE_SVG, make_report, page
from nextvec.reporting.result_files import command, own, shared

VOID = {"meta", "img", "br", "link", "input", "hr"}
LARGEST = 5_000_000
EVIL = '<script>alert("x")</script> & <img src=x onerror=y> {{ 7 * 7 }}'


class Page(HTMLParser):
    """What a browser would make of a page: text, tags, attributes; unclosed tags are an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def report(deep_inputs: ReportInputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report with everything in it."""
    out = tmp_path_factory.mktemp("report")
    make_report(deep_inputs, out, quiet=True)
    return out


def test_everything_is_written(report: Path) -> None:
    names = {path.name for path in report.iterdir()}
    assert {"report.html", "comparison_plots", "configuration.toml", "rows.csv", "history.csv"} <= names
    assert {"validation_results.json", "retrieval_results.json", "inference_benchmarks.json"} <= names
    plots = {path.name for path in (report / "comparison_plots").iterdir()}
    for name in ("loss_comparison", "cosine_comparison", "topk_accuracy", "params_vs_performance"):
        assert {f"{name}.png", f"{name}.svg"} <= plots


def test_the_page_needs_nothing_beside_it(report: Path) -> None:
    text = (report / "report.html").read_text()
    assert len(text) < LARGEST
    found = Page(text)
    for tag, attributes in found.tags:
        assert tag not in ("link", "iframe", "object", "base")
        for name in ("src", "href", "srcset", "data", "action"):
            assert re.match(r"$|#|data:image/(png|svg\+xml);base64,", attributes.get(name, "")), (tag, name)
    assert re.search(r"https?://|@import|url\(", text) is None
    policy = [a["content"] for tag, a in found.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0].startswith("default-src 'none'")


def test_the_page_has_it_all(report: Path, deep_inputs: ReportInputs) -> None:
    found = Page((report / "report.html").read_text())
    for row in deep_inputs.rows:
        assert row["name"] in found.text
    for claim in headline(deep_inputs):
        assert claim.text in found.text
    assert command(deep_inputs) in found.text
    assert "optim.lr" in found.text
    assert deep_inputs.runs[0].metadata["platform"] in found.text
    drawn = {a["id"] for tag, a in found.tags if tag == "figure"}
    assert drawn == {f"figure-{path.stem}" for path in (report / "comparison_plots").glob("*.png")}
    pictures = [attributes for tag, attributes in found.tags if tag == "img"]
    assert len(pictures) == len(drawn)
    assert all(len(picture["alt"]) > 20 for picture in pictures)
    assert "The worst answered" in found.text


def test_links_lead_somewhere_and_ids_are_unique(report: Path) -> None:
    found = Page((report / "report.html").read_text())
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {attributes["href"] for tag, attributes in found.tags if tag == "a"}
    assert len(targets) > 5
    assert targets <= {f"#{name}" for name in ids}


def test_the_table_can_be_sorted(report: Path, deep_inputs: ReportInputs) -> None:
    text = (report / "report.html").read_text()
    table = text[text.index('<table class="sortable">') : text.index("</table>")]
    assert table.count("<button") == table.count('scope="col"') > 10
    for row in deep_inputs.rows:
        assert f'data-value="{row["cosine"]}"' in table


def test_the_same_material_gives_the_same_page(report: Path, matrix: Path, tmp_path: Path) -> None:
    names = ["loss_comparison", "topk_accuracy"]
    pages = []
    for out in (tmp_path / "a", tmp_path / "b"):
        make_report(ReportInputs.of(matrix), out, figures=names, quiet=True)
        pages.append((out / "report.html").read_bytes())
    assert pages[0] == pages[1]


def test_large_drawings_are_shown_as_png(report: Path) -> None:
    found = Page((report / "report.html").read_text())
    pictures = [attributes["src"] for tag, attributes in found.tags if tag == "img"]
    sizes = [path.stat().st_size for path in (report / "comparison_plots").glob("*.svg")]
    assert sum(source.startswith("data:image/png") for source in pictures) == sum(
        size >= LARGE_SVG for size in sizes
    )


def test_texts_of_documents_are_escaped(tmp_path: Path, make_tiny: Callable[..., Any]) -> None:
    out = small_matrix(tmp_path, make_tiny, texts=EVIL)
    inputs = ReportInputs.of(out)
    made = make_report(inputs, tmp_path / "report", figures=[], quiet=True)
    text = made.page.read_text()
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    found = Page(text)
    assert " ".join(EVIL.split()) in found.text
    assert sum(tag == "script" for tag, _ in found.tags) == 1


def test_a_store_of_ten_documents(tmp_path: Path, make_tiny: Callable[..., Any]) -> None:
    out = small_matrix(tmp_path, make_tiny)
    inputs = ReportInputs.of(out)
    assert inputs.store is not None
    assert len(inputs.store.documents) == 10
    made = make_report(inputs, tmp_path / "report", quiet=True)
    found = Page(made.page.read_text())
    assert "By cosine the best model is lstm (the only one)" in found.text
    assert {"cosine_comparison", "loss_comparison", "params_vs_performance"}.isdisjoint(made.left_out)


def small_matrix(tmp_path: Path, make_tiny: Callable[..., Any], texts: str = "Something") -> Path:
    """One model, one seed, one epoch, ten documents of eight chunks each, two of them evaluated."""
    rng = np.random.default_rng(0)
    with StoreWriter(
        tmp_path / "ten",
        encoder={"name": "ten", "fingerprint": "ten"},
        dimension=16,
        chunker={"kind": "sentences"},
        dtype="float32",
        normalised=True,
    ) as writer:
        documents = [
            NewDocument.from_chunks(
                f"d{i}", [f"{texts} {i} {k}" for k in range(8)], source=texts, title=texts
            )
            for i in range(10)
        ]
        vectors = rng.standard_normal((80, 16)).astype(np.float32)
        writer.add_shard(documents, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), path="test")
    ids = [f"d{i}" for i in range(10)]
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"train": ids[:6], "validation": ids[6:8], "test": ids[8:]}))
    config = make_tiny("lstm", "optim.epochs=1", f"data.split.file={split}")
    plan = MatrixPlan(str(tmp_path / "ten"), ("lstm",), 1)
    store = Store.open(tmp_path / "ten")
    how = EvaluationConfig(resamples=20, quiet=True)
    evaluation_set = DocumentSelection(division=SplitConfig(file=str(split)))
    run_matrix(store, plan, lambda cell: config, tmp_path / "m", evaluation_set, how, quiet=True)
    return tmp_path / "m"


def test_an_interrupted_matrix_has_a_report(interrupted_matrix: Path, tmp_path: Path) -> None:
    made = make_report(ReportInputs.of(interrupted_matrix), tmp_path, quiet=True)
    found = Page(made.page.read_text())
    assert "loss_comparison" not in made.left_out
    assert "the matrix was not evaluated" in made.left_out["cosine_comparison"]
    assert "The scores : the matrix was not evaluated" in found.text
    assert "Nothing was evaluated beside the baselines yet" in found.text


def test_an_interrupted_run_has_a_report(interrupted_run: Path, tmp_path: Path) -> None:
    made = make_report(ReportInputs.of(interrupted_run), tmp_path, quiet=True)
    found = Page(made.page.read_text())
    assert "was interrupted; its best cosine" in found.text
    assert "loss_comparison" not in made.left_out


def test_a_run_that_never_began_has_a_report(interrupted_run: Path, tmp_path: Path) -> None:
    for name in ("history.jsonl", "run.json", "model.safetensors"):
        (interrupted_run / name).unlink()
    made = make_report(ReportInputs.of(interrupted_run), tmp_path, quiet=True)
    text = Page(made.page.read_text()).text
    assert "Nothing was trained to the end of an epoch yet." in text
    assert "no run holds where its store is" in text
    assert set(made.left_out) >= {spec.name for spec in figure.chosen()}


def test_a_deep_report_of_a_run_puts_it_beside_the_baselines(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "small-lstm"
    shutil.copytree(trained, run)
    made = make_report(
        ReportInputs.of(run, deep=True), tmp_path / "out", figures=["cosine_comparison"], quiet=True
    )
    text = Page(made.page.read_text()).text
    assert "By cosine the best model is small-lstm (the only one)" in text
    assert "judged.json" in {path.name for path in made.files}


def test_what_failed_is_said(inputs: ReportInputs) -> None:
    table = {**(inputs.table or {}), "failed": {"gru-seed0": "loss is <nan>"}}
    assert "gru-seed0 : loss is <nan>" in Page(page(replace(inputs, table=table), {}, {})).text


def test_the_command_makes_it_again(inputs: ReportInputs, trained: Path) -> None:
    assert command(inputs) == (
        "nextvec matrix store --models amn,lstm --seeds 2 --config configuration.toml --out small"
    )
    assert command(ReportInputs.of(trained)) == (
        "nextvec train store --model lstm --config configuration.toml --out small-lstm"
    )


def test_the_shared_configuration_and_the_own_make_up_every_run(inputs: ReportInputs) -> None:
    common = shared(inputs)
    assert common["optim.lr"] == 1e-2
    assert "model.name" not in common
    assert own(inputs) == {"amn": {"model.name": "amn"}, "lstm": {"model.name": "lstm"}}
    assert nested({"a.b": 1, "a.c.d": 2, "e": 3}) == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
