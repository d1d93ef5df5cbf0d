"""Later readers: .json, .rst, .pdf, .docx, .epub, .zst, files without an ending; and what cannot be read."""

from __future__ import annotations

import bz2
import gzip
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nextvec.corpus import documents as front
from nextvec.corpus.documents import ReaderOptions, ReadReport, read_source
from nextvec.errors import ConfigError, DocumentError, MissingDependencyError


def read(path: Path, **options: object) -> list:
    return list(read_source(path, options=ReaderOptions(**options)))


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('[{"id": "a", "text": "One."}, {"id": "b", "text": "Two."}]', [("a", "One."), ("b", "Two.")]),
        ('["One.", "Two."]', [("0", "One."), ("1", "Two.")]),
        ('{"id": 7, "text": "One."}', [("7", "One.")]),
    ],
)
def test_json(tmp_path: Path, content: str, expected: list[tuple[str, str]]) -> None:
    (tmp_path / "d.json").write_text(content)
    assert [(d.doc_id, d.text) for d in read(tmp_path / "d.json")] == expected


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[1]", r"d\.json: item 0: is a JSON int, not an object"),
        ("[{]", r"d\.json: is not JSON"),
        ('[{"id": 1, "text": "x"}, {"id": 2}]', r"d\.json: item 1: no column 'text'"),
    ],
)
def test_json_that_is_no_documents_is_named(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "d.json").write_text(content)
    with pytest.raises(DocumentError, match=says):
        read(tmp_path / "d.json")


@pytest.mark.parametrize("mark", [",", ";", "|", "\t"])
def test_the_header_of_a_csv_tells_its_delimiter(tmp_path: Path, mark: str) -> None:
    rows = [["id", "title", "text"], ["1", "T", '"One; with, all | of them."']]
    (tmp_path / "t.csv").write_text("\n".join(mark.join(row) for row in rows))
    (document,) = read(tmp_path / "t.csv")
    assert (document.doc_id, document.title, document.text) == ("1", "T", "One; with, all | of them.")


def test_the_first_line_of_excel_names_the_delimiter(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("sep=;\r\ntext;title\r\nOne, two.;T\r\n")
    (document,) = read(tmp_path / "t.csv")
    assert (document.doc_id, document.title, document.text) == ("0", "T", "One, two.")


def test_a_delimiter_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id:text\n1:One.")
    assert [d.text for d in read(tmp_path / "t.csv", delimiter=":")] == ["One."]
    with pytest.raises(DocumentError, match="no column 'id'"):
        read(tmp_path / "t.csv")
    with pytest.raises(ConfigError, match="'::' is not a delimiter"):
        ReaderOptions(delimiter="::")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_rows_of_text_alone_are_numbered(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"text": ["One.", "Two."]}), path)
    else:
        path.write_text("text\nOne.\nTwo.\n" if suffix == "csv" else '{"text": "One."}\n\n{"text": "Two."}\n')
    assert [(d.doc_id, d.text) for d in read(path)] == [("0", "One."), ("1", "Two.")]


@pytest.mark.parametrize(
    ("suffix", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress), ("zst", zstd)]
)
def test_everything_may_be_compressed(tmp_path: Path, suffix: str, compress) -> None:
    pq.write_table(pa.table({"text": ["In a table."]}), tmp_path / "plain")
    contents = {
        "a.txt": b"A text.",
        "b.jsonl": b'{"id": "b", "text": "In a line."}\n',
        "c.parquet": (tmp_path / "plain").read_bytes(),
        "d": b"Without an ending.",
    }
    (tmp_path / "in").mkdir()
    for name, content in contents.items():
        (tmp_path / "in" / f"{name}.{suffix}").write_bytes(compress(content))
    texts = [d.text for d in read(tmp_path / "in")]
    assert texts == ["A text.", "In a line.", "In a table.", "Without an ending."]
    broken = tmp_path / f"x.txt.{suffix}"
    broken.write_bytes(compress(b"x" * 5000)[:-6])
    with pytest.raises(DocumentError, match="is damaged or truncated"):
        read(broken)


def test_a_file_without_an_ending_is_text_if_it_looks_like_it(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("Réad me.")
    (tmp_path / "program").write_bytes(b"\x7fELF\x00\x00")
    report = ReadReport()
    documents = list(read_source(tmp_path, report=report))
    assert [(d.doc_id, d.title, d.text) for d in documents] == [("README", "README", "Réad me.")]
    assert dict(report.skipped) == {"files with unknown extension ''": 1}


RST = """\
.. _label:
.. |name| replace:: nextvec

=====
Title
=====

A *first* paragraph with ``code()``, :ref:`a link <label>`, :class:`~a.b.Thing` and
`a site <https://example.org>`_ [1]_.

.. toctree::
   :maxdepth: 2

   other

.. note:: Mind **this**.

   And this::

       x = `1`

.. code-block:: python
   :caption: no

   def f(*args):
       pass

Section
-------

- One item
- Another

.. a comment

   that goes on

.. [1] The note.

=====  =====
left   right
=====  =====
cell   other
=====  =====
"""


def test_rst_is_read_without_its_markup(tmp_path: Path) -> None:
    (tmp_path / "a.rst").write_text(RST)
    report = ReadReport()
    (document,) = read_source(tmp_path / "a.rst", report=report)
    assert document.title == "Title"
    assert report.headings == 2
    paragraphs = document.text.split("\n\n")
    assert paragraphs[0] == "A first paragraph with code(), a link, Thing and\na site."
    assert paragraphs[1:3] == ["Mind this.", "And this:"]
    assert "x = `1`" in document.text
    assert "def f(*args):\n       pass" in document.text
    assert "- One item\n- Another" in document.text
    assert "The note." in document.text
    assert "cell   other" in document.text
    for gone in (
        "toctree",
        "maxdepth",
        "other\n\nMind",
        "label",
        "replace",
        "comment",
        "goes on",
        "===",
        "Section",
    ):
        assert gone not in document.text
    assert "Section" in read(tmp_path / "a.rst", headings=True)[0].text


def office(path: Path) -> None:
    """The smallest files of their kinds: two paragraphs."""
    if path.suffix == ".pdf":
        stream = b"BT /F1 12 Tf 50 700 Td (The first paragraph.) Tj 0 -40 Td (The second one.) Tj ET"
        objects = [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents 4 0 R "
            b"/Resources << /Font << /F1 5 0 R >> >> >>",
            b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        ]
        out, places = bytearray(b"%PDF-1.4\n"), []
        for number, held in enumerate(objects, 1):
            places.append(len(out))
            out += b"%d 0 obj\n%s\nendobj\n" % (number, held)
        table = b"".join(b"%010d 00000 n \n" % place for place in places)
        out += (
            b"xref\n0 6\n0000000000 65535 f \n%strailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n"
            % (
                table,
                len(out),
            )
        )
        path.write_bytes(bytes(out))
        return
    w, kind = "http://schemas.openxmlformats.org/wordprocessingml/2006/main", "application/xml"
    relations = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
    if path.suffix == ".docx":
        files = {
            "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
            f'<Default Extension="rels" ContentType="{kind}"/><Default Extension="xml" ContentType="{kind}"/>'
            "</Types>",
            "_rels/.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
            f'<Relationship Id="r1" Type="{relations}" Target="word/document.xml"/></Relationships>',
            "word/document.xml": f'<w:document xmlns:w="{w}"><w:body>'
            "<w:p><w:r><w:t>The first paragraph.</w:t></w:r></w:p>"
            "<w:p><w:r><w:t>The second one.</w:t></w:r></w:p></w:body></w:document>",
        }
    else:
        files = {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
            '<rootfiles><rootfile full-path="c.opf"/></rootfiles></container>',
            "c.opf": '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/">'
            "<metadata><dc:title>A book</dc:title></metadata>"
            '<manifest><item id="i" href="c.xhtml" media-type="application/xhtml+xml"/></manifest>'
            '<spine><itemref idref="i"/></spine></package>',
            "c.xhtml": "<html><body><p>The first paragraph.</p><p>The second one.</p></body></html>",
        }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)


@pytest.mark.parametrize("suffix", ["pdf", "docx", "epub"])
def test_a_file_of_an_office(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("markitdown")
    path = tmp_path / f"a.{suffix}"
    office(path)
    (document,) = read(path)
    first, second = document.text.index("The first paragraph."), document.text.index("The second one.")
    assert first < second
    assert (document.doc_id, document.page) == (f"a.{suffix}", False)
    (tmp_path / f"b.{suffix}").write_bytes(b"not one")
    with pytest.raises(DocumentError, match=rf"b\.{suffix}: is not a \.{suffix} file"):
        read(tmp_path / f"b.{suffix}")
    (tmp_path / f"c.{suffix}").write_bytes(path.read_bytes()[:60])
    with pytest.raises(DocumentError, match=rf"c\.{suffix}: cannot be read|without text"):
        read(tmp_path / f"c.{suffix}")


def test_without_markitdown_a_folder_tells_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front, "can_read_office", lambda: False)
    monkeypatch.setattr("nextvec.corpus.readers.pages.can_read_office", lambda: False)
    (tmp_path / "a.txt").write_text("Text.")
    (tmp_path / "b.pdf").write_bytes(b"%PDF")
    report = ReadReport()
    assert len(list(read_source(tmp_path, report=report))) == 1
    assert dict(report.skipped) == {"files of a kind that needs: pip install 'nextvec[documents]'": 1}
    with pytest.raises(MissingDependencyError, match="needs markitdown; pip install"):
        read(tmp_path / "b.pdf")


def test_files_that_cannot_be_read_are_listed_or_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Text.")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "c.md").write_text("More.")
    report = ReadReport()
    found = list(read_source(tmp_path, options=ReaderOptions(strict=False), report=report))
    assert [d.doc_id for d in found] == ["a.txt", "c.md"]
    assert dict(report.skipped) == {"files that could not be read": 1}
    assert [f"{tmp_path}/b.txt: byte 0xff in line 1 is not utf-8" in why for why in report.unread] == [True]
    with pytest.raises(DocumentError, match="byte 0xff"):
        read(tmp_path)
    with pytest.raises(DocumentError, match="byte 0xff"):  # of nothing else there is nothing to list it under
        read(tmp_path / "b.txt", strict=False)
    (tmp_path / "d.jsonl").write_text('{"id": 1, "text": "x"}\n{')
    with pytest.raises(DocumentError, match=r"d\.jsonl:2: is not JSON"):
        read(tmp_path, strict=False)
