"""demo: the whole main job on small texts, with an encoder that needs no weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nextvec.corpus import documents as corpus_demo
from nextvec.corpus.readers.base import ReaderOptions
from nextvec.errors import MissingDependencyError
from nextvec.reporting import report

WORDS = ["harbour", "tide", "lamp", "keeper", "winter", "ships", "rope", "stone", "letter", "salt", "bell"]


@pytest.fixture
def small_articles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty articles of about 500 words in place of the Wikipedia dump."""
    folder = tmp_path / "articles"
    folder.mkdir()
    for i in range(30):
        sentences = []
        for k in range(20):
            first, second, third = (WORDS[n % len(WORDS)] for n in (i * k, i + k, k))
            sentences.append(
                f"On day {k} of year {i} the {first} and the {second} were counted again, because number "
                f"{i * 1000 + k} of the {third} had been lost in the fog."
            )
        (folder / f"article-{i}.txt").write_text(" ".join(sentences))
    monkeypatch.setattr(corpus_demo, "demo_source", lambda: folder)
    monkeypatch.setattr(corpus_demo, "demo_options", ReaderOptions)


@pytest.mark.usefixtures("hash_encoder", "small_articles")
def test_the_demo(cli, tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "demo"
    done = cli("demo", "--out", out, *tiny)
    assert done.code == 0
    assert done.out.startswith(f"30 articles added, 30 in {out / 'store'} (")
    table = json.loads((out / "matrix" / "matrix.json").read_text())
    models = [row["name"] for row in table["rows"] if row["kind"] == "model"]
    assert models == ["amn", "lstm", "gru", "transformer"]
    assert all(f"\n{row['name']} " in done.out for row in table["rows"])
    best = max((r for r in table["rows"] if r["kind"] == "model"), key=lambda r: r["cosine"])["name"]
    for title in ("Best", "Worst"):
        assert f"\n{title} predictions of {best}:\n" in done.out
    for label in ("last read ", "came next ", "nearest   "):
        assert sum(line.startswith(f"    {label}") for line in done.out.splitlines()) == 2 * examples(table)
    assert f"table    {out / 'matrix' / 'matrix.json'}" in done.out
    page = out / "matrix" / "report" / "report.html"
    assert f"report   {page}   (open it in a browser)" in done.out
    assert all(f">{name}<" in page.read_text() for name in models)

    def undrawable(*_: object, **__: object) -> None:
        raise MissingDependencyError("matplotlib is not installed", remedy="install it")

    monkeypatch.setattr(report, "make_report", undrawable)
    again = cli("demo", "--out", out, *tiny, "--quiet")
    assert again.code == 0
    assert again.out.startswith("0 articles added, 30 in ")
    assert "train " not in again.err
    assert "report   left out: matplotlib is not installed" in again.out


def examples(table: dict) -> int:
    """Three of each kind, at most one of a document."""
    return min(3, table["documents"])
