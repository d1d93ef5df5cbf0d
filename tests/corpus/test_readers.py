"""Folders and text files: what is read, in which order, and what every error says."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextvec.corpus.documents import ReaderOptions, ReadReport, normalise_text, read_source
from nextvec.corpus.readers import base
from nextvec.corpus.readers import base as streams
from nextvec.errors import ConfigError, DocumentError


def read(path: Path | list[Path], **options: object) -> list:
    return list(read_source(path, options=ReaderOptions(**options)))


def test_folder_is_read_recursively_in_the_order_of_its_paths(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "one.txt").write_text("First.")
    (tmp_path / "a.md").write_text("Second.")
    (tmp_path / "c.html").write_text("<p>Third.</p>")
    documents = read(tmp_path)
    assert [(d.doc_id, d.text) for d in documents] == [
        ("a.md", "Second."),
        ("b/one.txt", "First."),
        ("c.html", "Third."),
    ]
    assert {d.source for d in documents} == {tmp_path.name}
    assert [d.title for d in documents] == ["a", "one", "c"]


def test_what_a_folder_holds_besides_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Text.")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / ".hidden.txt").write_text("no")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.txt").write_text("no")
    (tmp_path / "short.txt").write_text("ab")
    report = ReadReport()
    documents = list(read_source(tmp_path, options=ReaderOptions(min_characters=3), report=report))
    assert [d.doc_id for d in documents] == ["a.txt"]
    assert (report.documents, report.characters) == (1, 5)
    assert dict(report.skipped) == {
        "files with unknown extension '.png'": 1,
        "hidden files": 1,
        "hidden or linked folders": 1,
        "shorter than 3 characters": 1,
    }
    assert str(report).startswith("1 documents read, 5 characters; skipped: 1 files with unknown")


def test_text_is_normalised(tmp_path: Path) -> None:
    raw = "\ufeff  One\r\nline.\t \r\n \r\n\r\n\n Cafe\u0301\x00 soft\u00adhyphen \x0bend\n"
    (tmp_path / "a.txt").write_bytes(raw.encode())
    (document,) = read(tmp_path / "a.txt")
    assert document.text == "One\nline.\n\n Café softhyphen\nend"
    assert document.doc_id == "a.txt"
    assert document.source == "a"


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",))))
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise_text(text)
    assert normalise_text(once) == once
    assert once == once.strip()
    assert "\n\n\n" not in once
    assert "\r" not in once


def test_html_keeps_text_and_drops_the_page_around_it(tmp_path: Path) -> None:
    page = """<html><head><title> The  page </title><style>p{}</style></head><body>
    <nav>Home</nav><h1>Heading</h1><p>One <b>bold</b>
    word.</p><script>evil()</script><!-- note --><p>a<br>b</p><ul><li>x</li><li><p>y</p></li></ul>
    <table><tr><td>1</td><td>2</td></tr><tr><td>3</td></tr></table><pre>  k
      l</pre></body></html>"""
    (tmp_path / "p.html").write_text(page)
    report = ReadReport()
    (document,) = read_source(tmp_path / "p.html", report=report)
    assert document.title == "The page"
    assert document.text == "One bold word.\n\na\nb\n\n- x\n- y\n\n1 2\n3\n\n  k\n      l"
    assert report.headings == 1
    (with_headings,) = read(tmp_path / "p.html", headings=True)
    assert with_headings.text.startswith("Heading\n\nOne bold")


def test_html_furniture_goes_by_role_by_what_is_hidden_and_by_lists_of_a_header(tmp_path: Path) -> None:
    page = """<body style="display:none"><header><h2>Site</h2><ul><li>Home</li></ul>
    <p>By an author.</p></header>
    <div role="navigation"><p>Menu</p></div><div role=contentinfo>Imprint</div>
    <p hidden>Never shown.</p><p hidden="until-found">Folded text.</p>
    <div style="color:red; DISPLAY : none">Template</div><p style="display:block">Shown.</p>
    <ul><li>A list of the text</li></ul>"""
    (tmp_path / "p.html").write_text(page)
    (document,) = read(tmp_path / "p.html")
    assert document.text == "By an author.\n\nFolded text.\n\nShown.\n\n- A list of the text"
    assert document.page


def test_a_link_to_a_document_already_read_is_no_second_document(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "b.txt").write_text("The text.")
    (folder / "a.txt").symlink_to(folder / "b.txt")
    (tmp_path / "other.txt").write_text("Another.")
    for name in ("c.txt", "d.txt"):
        (folder / name).symlink_to(tmp_path / "other.txt")
    report = ReadReport()
    found = list(read_source(folder, report=report))
    assert [(d.doc_id, d.text) for d in found] == [("b.txt", "The text."), ("c.txt", "Another.")]
    assert report.skipped == {"links to a document that is read already": 2}


def test_html_is_decoded_as_it_declares(tmp_path: Path) -> None:
    (tmp_path / "l.html").write_bytes('<meta charset="iso-8859-1"><p>Größe</p>'.encode("latin-1"))
    assert read(tmp_path / "l.html")[0].text == "Größe"
    (tmp_path / "u.html").write_text('<meta charset="klingon"><p>x</p>')
    with pytest.raises(DocumentError, match=r"u\.html: declares the unknown encoding 'klingon'"):
        read(tmp_path / "u.html")


def test_markdown_leaves_no_markup(tmp_path: Path) -> None:
    source = (
        "---\ntags: [x]\n---\n# Top *title*\n\nA *word* and [a link](http://example.org) `code`\nwrapped.\n\n"
        "1. one\n2. two\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
    )
    (tmp_path / "n.md").write_text(source)
    (document,) = read(tmp_path / "n.md")
    assert document.title == "Top title"
    assert document.text == "A word and a link code wrapped.\n\n- one\n- two\n\na b\n1 2"


def test_compressed_text_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"Zipped.", mtime=0))
    (tmp_path / "b.md.bz2").write_bytes(bz2.compress(b"Also *zipped*."))
    assert [(d.title, d.text) for d in read(tmp_path)] == [("a", "Zipped."), ("b", "Also zipped.")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"fine\nbad \xff byte", r"a\.txt: byte 0xff in line 2 is not utf-8; convert"),
        ("a.txt", b" \n", r"a\.txt: document without text; remove it, or give --skip-empty"),
        ("a.txt.gz", b"not gzip", r"a\.txt\.gz: is damaged or truncated"),
        ("a.txt.gz", gzip.compress(b"x" * 999, mtime=0)[:-9], r"a\.txt\.gz: is damaged or truncated"),
        ("a.txt.bz2", bz2.compress(b"x" * 999)[:-9], r"a\.txt\.bz2: is damaged or truncated"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DocumentError, match=message):
        read(tmp_path / name)


def test_paths_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="no such file or folder; check the path"):
        read_source(tmp_path / "missing")
    with pytest.raises(DocumentError, match="folder without documents; put files in it"):
        read_source(tmp_path)
    with pytest.raises(DocumentError, match="no source given"):
        read_source([])


def test_an_id_seen_before_names_both_places(tmp_path: Path) -> None:
    folders = [tmp_path / "x", tmp_path / "y"]
    for folder in folders:
        folder.mkdir()
        (folder / "a.txt").write_text(f"Text of {folder.name}.")
    with pytest.raises(DocumentError, match=r"y/a\.txt: document id 'a\.txt' was seen before, in .*x/a\.txt"):
        read(folders)
    assert [d.doc_id for d in read(folders, qualify_ids=True)] == ["x/a.txt", "y/a.txt"]


def test_options_change_what_is_read(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.txt").write_bytes("é".encode("latin-1") * (name != "a"))
    with pytest.raises(DocumentError, match=r"a\.txt: document without text"):
        read(tmp_path, encoding="latin-1")
    assert [d.text for d in read(tmp_path, encoding="latin-1", skip_empty=True)] == ["é", "é"]
    assert len(read(tmp_path, encoding="latin-1", skip_empty=True, limit=1)) == 1
    assert read(tmp_path, encoding="latin-1", skip_empty=True, source="mine")[0].source == "mine"


@pytest.mark.parametrize(
    "options", [{"min_characters": -1}, {"limit": 0}, {"source": " "}, {"encoding": "utf-9"}]
)
def test_options_that_cannot_be_meant(options: dict) -> None:
    with pytest.raises(ConfigError):
        ReaderOptions(**options)


def test_a_document_above_the_bound_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_DOCUMENT_BYTES", 100)
    (tmp_path / "a.txt").write_text("x" * 101)
    with pytest.raises(DocumentError, match=r"a\.txt: longer than .* split it"):
        read(tmp_path)
    monkeypatch.undo()
    assert base.MAX_DOCUMENT_BYTES == 64 * 2**20


@pytest.mark.parametrize(("suffix", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress)])
def test_a_decompression_bomb_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, compress
) -> None:
    monkeypatch.setattr(streams, "FREE_BYTES", 10_000)
    monkeypatch.setattr(streams, "MAX_RATIO", 20)
    path = tmp_path / f"a.jsonl.{suffix}"
    path.write_bytes(compress(b"\n" * 300_000))
    with pytest.raises(DocumentError, match="a decompression bomb"):
        read(path)
