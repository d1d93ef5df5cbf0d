"""JSONL, CSV, TSV and Parquet."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nextvec.corpus.documents import ReaderOptions, read_source
from nextvec.corpus.readers import base as streams
from nextvec.corpus.readers import rows as tables
from nextvec.errors import DocumentError

ROWS = [
    {"id": "1", "url": "u", "title": "One", "text": "First, text.\n\nMore."},
    {"id": "2", "url": "u", "title": "Two", "text": 'With "quotes".'},
]


def read(path: Path, **options: object) -> list:
    return list(read_source(path, options=ReaderOptions(**options)))


def write(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        quoted = [['"' + str(v).replace('"', '""') + '"' for v in row.values()] for row in rows]
        path.write_text("\r\n".join(mark.join(cells) for cells in [list(rows[0]), *quoted]) + "\r\n")
    return path


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet"])
def test_the_columns_of_the_hugging_face_wikipedia_need_no_options(tmp_path: Path, suffix: str) -> None:
    documents = read(write(tmp_path / f"wiki.{suffix}", ROWS))
    assert [(d.doc_id, d.source, d.title, d.text) for d in documents] == [
        ("1", "wiki", "One", "First, text.\n\nMore."),
        ("2", "wiki", "Two", 'With "quotes".'),
    ]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_other_names(tmp_path: Path, suffix: str) -> None:
    rows = [{"key": 7, "body": "Text.", "head": "H", "from": "s"}]
    path = write(tmp_path / f"t.{suffix}", rows)
    with pytest.raises(DocumentError, match=r"no column 'id' \(there are: 'key', 'body'.*--id-column NAME"):
        read(path)
    options = {"id_column": "key", "text_column": "body", "title_column": "head", "source_column": "from"}
    (document,) = read(path, **options)
    assert (document.doc_id, document.source, document.title) == ("7", "s", "H")
    with pytest.raises(DocumentError, match="no column 'absent'"):
        read(path, **{**options, "title_column": "absent"})


def test_doc_id_and_source_are_known_names_and_a_title_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"doc_id": "a/1", "source": "books", "text": "T."}\n', mtime=0))
    (document,) = read(path)
    assert (document.doc_id, document.source, document.title) == ("a/1", "books", "")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "2", "text": ', r"d\.jsonl:2: is not JSON .* write one JSON object a line"),
        ('["2"]', r"d\.jsonl:2: is a JSON list, not an object"),
        ('{"id": "2"}', r"d\.jsonl:2: no column 'text'"),
        ('{"id": null, "text": "T."}', r"d\.jsonl:2: 'id' is None"),
        ('{"id": "2", "text": 5}', r"d\.jsonl:2: 'text' is int, not text"),
        ('{"id": "2", "text": null}', r"d\.jsonl:2: document without text"),
        ('{"id": "2", "text": "\\ud800"}', r"d\.jsonl:2: holds half of a surrogate pair"),
        ('{"id": "1", "text": "T."}', r"d\.jsonl:2: document id '1' was seen before"),
        ('{"id": "\\u0000", "text": "T."}', r"d\.jsonl:2: document with a blank id"),
        ("[" * 100_000, r"d\.jsonl:2: is not JSON"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(f'{{"id": "1", "text": "T."}}\n{line}\n')
    with pytest.raises(DocumentError, match=message):
        read(path)


def test_undecodable_bytes_are_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(b'{"id": "1", "text": "T."}\n{"id": "2", "text": "\xe9"}\n')
    with pytest.raises(DocumentError, match=r"d\.jsonl:2: byte 0xe9 is not utf-8"):
        read(tmp_path / "d.jsonl")
    assert read(tmp_path / "d.jsonl", encoding="latin-1")[1].text == "é"
    with pytest.raises(DocumentError, match="utf-16 cannot be read line by line"):
        read(tmp_path / "d.jsonl", encoding="utf-16")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,text\n1,a,b\n", r"t\.csv:2: has 3 fields, the header 2"),
        ('id,text\n1,"a\n', r"t\.csv:2: is not CSV"),
        ("id,text,id\n1,a,2\n", r"t\.csv:1: two columns have the same name"),
        ("id,text\n,a\n", r"t\.csv:2: 'id' is ''"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(DocumentError, match=message):
        read(tmp_path / "t.csv")


def test_long_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "t.csv", [{"id": "1", "text": "long " * 60_000}])  # above csv's own default limit
    assert len(read(path)[0].text) == 299_999
    monkeypatch.setattr(streams, "MAX_DOCUMENT_BYTES", 1000)
    with pytest.raises(DocumentError, match=r"t\.csv:2: longer than"):
        read(path)


def test_parquet_is_read_in_batches_and_damage_is_named(tmp_path: Path) -> None:
    rows = [{"id": i, "text": f"Document {i}.", "title": None} for i in range(3 * tables.BATCH_ROWS + 1)]
    path = write(tmp_path / "p.parquet", rows)
    documents = read(path)
    assert [d.doc_id for d in documents] == [str(i) for i in range(len(rows))]
    assert documents[0].title == ""
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DocumentError, match=r"p\.parquet: cannot be read as Parquet after row 0"):
        read(path)


def test_a_parquet_row_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "p.parquet", [{"id": "a", "text": "T."}, {"id": "b", "text": None}])
    with pytest.raises(DocumentError, match=r"p\.parquet: row 1: document without text"):
        read(path)
    assert [d.doc_id for d in read(path, skip_empty=True)] == ["a"]
