from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from corpus.ingesting import Run, contents, write
from nextvec.corpus.chunking import ParagraphChunker, WordChunker
from nextvec.corpus.documents import ReaderOptions
from nextvec.corpus.encoders import EncoderConfig
from nextvec.corpus.ingest import continued, shards
from nextvec.corpus.store import Store, StoreWriter
from nextvec.errors import DocumentError, EncoderError, EncoderMismatchError, NextvecError, StoreError


def article(i: int, paragraphs: int | None = None) -> dict[str, str]:
    count = 2 + i % 5 if paragraphs is None else paragraphs
    text = "\n\n".join(f"Paragraph {k} of article {i} says something of its own." for k in range(count))
    return {"id": f"a{i:03d}", "title": f"Article {i}", "source": f"s{i % 2}", "text": text}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "articles.jsonl", [article(i) for i in range(30)])


def test_documents_become_chunks_with_their_vectors(run: Run, source: Path, text_encoder: type) -> None:
    report = run(source, dtype="float32")
    chunks = sum(2 + i % 5 for i in range(30))
    assert (report.documents, report.chunks, report.skipped) == (30, chunks, {})
    assert report.path == "cpu float32"
    assert report.chunks_per_second > 0
    store = Store.open(report.store, verify=True)
    assert report.shards == len(store.info["shards"]) > 3
    assert store.sources == ("s0", "s1")
    assert [d.doc_id for d in store.documents] == [article(i)["id"] for i in range(30)]
    assert store.documents[4].title == "Article 4"
    for i in (0, 17, 29):
        assert store.document_text(article(i)["id"]) == article(i)["text"]
    expected = np.stack([text_encoder().vector(t) for t in store.texts(range(chunks))])
    np.testing.assert_array_equal(np.asarray(store.vectors), expected)
    assert store.info["chunker"] == ParagraphChunker().describe()


def test_chunks_longer_than_the_encoder_reads_are_counted(run: Run, tmp_path: Path) -> None:
    text = "Five words are in here.\n\nBut there are seven words in here."
    report = run(write(tmp_path / "x.jsonl", [{"id": "x", "text": text}]))
    assert report.truncated == 1


def test_shards_are_closed_by_the_document_that_fills_them() -> None:
    assert list(shards([3, 3, 5, 1, 9, 2], 6, int)) == [[3, 3], [5, 1], [9], [2]]
    assert list(shards([], 6, int)) == []


def test_ingesting_again_changes_no_byte(run: Run, source: Path, tmp_path: Path) -> None:
    run(source)
    before = contents(tmp_path / "store")
    again = run(source)
    assert (again.documents, again.chunks, again.shards) == (0, 0, 0)
    assert again.skipped == {"in the store already": 30}
    assert contents(tmp_path / "store") == before
    run(source, "other")
    assert contents(tmp_path / "other") == before


def test_appending_leaves_the_shards_alone(run: Run, source: Path, tmp_path: Path) -> None:
    run(source)
    before = contents(tmp_path / "store")
    more = write(tmp_path / "more.jsonl", [article(i) for i in (3, 40, 41)])
    report = run(more)
    assert (report.documents, report.shards, report.skipped) == (2, 1, {"in the store already": 1})
    after = contents(tmp_path / "store")
    assert {k: v for k, v in after.items() if k in before and k != "store.json"} == {
        k: v for k, v in before.items() if k != "store.json"
    }
    assert len(Store.open(tmp_path / "store", verify=True).documents) == 32


@pytest.mark.parametrize("calls", [0, 1, 3])
def test_an_ingest_that_failed_goes_on_where_it_was(
    run: Run, source: Path, tmp_path: Path, text_encoder: type, calls: int
) -> None:
    run(source, "whole")
    broken = text_encoder(fail_after=calls, failure=EncoderError("the server went away"))
    with pytest.raises(EncoderError, match="went away"):
        run(source, encoder=broken)
    assert (tmp_path / "store").exists() == (calls > 0)
    if calls:
        assert len(Store.open(tmp_path / "store", verify=True).info["shards"]) == calls
    run(source)
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from corpus.conftest import TextEncoder
from nextvec.corpus import ingest as room, writer
from nextvec.corpus.chunking import ParagraphChunker

at, count = sys.argv[4], int(sys.argv[5])
seen = 0

def dying(function):
    def call(*args, **kwargs):
        global seen
        if seen == count:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1
        return function(*args, **kwargs)
    return call

if at == "encode":
    TextEncoder.encode = dying(TextEncoder.encode)
elif at == "manifest":
    writer.write_json = dying(writer.write_json)
elif at == "table":
    writer.pq.write_table = dying(writer.pq.write_table)
else:
    os.fsync = dying(os.fsync)
out, chunker = Path(sys.argv[3]), ParagraphChunker()
room.ingest(sys.argv[2], out, encoder=TextEncoder(), chunker=chunker, shard_chunks=20, quiet=True)
"""


@pytest.mark.parametrize(
    ("at", "count"), [("encode", 2), ("manifest", 0), ("manifest", 2), ("table", 3), ("fsync", 9)]
)
def test_after_kill_9_the_store_ends_up_the_same(
    run: Run, source: Path, tmp_path: Path, at: str, count: int
) -> None:
    run(source, "whole")
    script = [
        sys.executable,
        "-c",
        KILLED,
        str(Path(__file__).parents[1]),
        str(source),
        str(tmp_path / "store"),
        at,
    ]
    died = subprocess.run([*script, str(count)], capture_output=True, text=True, check=False, env=os.environ)
    assert died.returncode == -signal.SIGKILL, died.stderr
    run(source)
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


@contextlib.contextmanager
def refused(folder: Path, *errors: type[NextvecError]) -> Iterator[None]:
    """The body raises one of the errors, on one line with a remedy, and the folder is as it was."""
    before = contents(folder) if folder.exists() else None
    with pytest.raises(errors) as caught:
        yield
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    assert (contents(folder) if folder.exists() else None) == before


@pytest.mark.parametrize("there", [False, True])
def test_bad_input_leaves_the_disk_as_it_was(run: Run, source: Path, tmp_path: Path, there: bool) -> None:
    if there:
        run(source)
    store = tmp_path / "store"
    good = [article(i) for i in range(50, 90)]
    cases = {
        "changed": [*good, {**article(50), "text": "Another text under the same id."}],
        "surrogate": [*good, {"id": "x", "text": "half \ud800 a pair"}],
        "without": [*good, {"id": "x", "text": ""}],
        "nothing": [],
    }
    for name, articles in cases.items():
        file = write(tmp_path / f"{name}.jsonl", articles)
        with refused(store, DocumentError, StoreError):
            run(file)
    (tmp_path / "empty").mkdir()
    for missing in ("empty", "nowhere"):
        with refused(store, DocumentError):
            run(tmp_path / missing)


def test_a_changed_document_is_named(run: Run, source: Path, tmp_path: Path) -> None:
    run(source)
    changed = write(tmp_path / "changed.jsonl", [article(90), article(7, paragraphs=9)])
    with pytest.raises(StoreError, match="'a007' is there with another text"):
        run(changed)


def test_a_changed_document_takes_the_place_of_the_old_one_if_asked(
    run: Run, source: Path, tmp_path: Path
) -> None:
    run(source)
    before = {d.doc_id: d.sha256 for d in Store.open(tmp_path / "store").documents}
    changed = write(tmp_path / "changed.jsonl", [article(90), article(7, paragraphs=9)])
    report = run(changed, replace_changed=True)
    assert (report.documents, report.replaced, report.skipped) == (2, 1, {})
    store = Store.open(tmp_path / "store", verify=True)
    after = {d.doc_id: d.sha256 for d in store.documents}
    assert len(store.documents) == len(after) == len(before) + 1
    assert {name for name in before if after[name] != before[name]} == {"a007"}
    assert store.find("a007").count == 9
    again = run(changed, replace_changed=True)
    assert (again.documents, again.replaced) == (0, 0)


def test_another_encoder_chunker_or_damage_stops_before_reading(
    run: Run, source: Path, tmp_path: Path, text_encoder: type
) -> None:
    run(source)
    other = text_encoder()
    other.fingerprint = {"name": "other", "fingerprint": "0" * 64}
    store = tmp_path / "store"
    with refused(store, EncoderMismatchError):
        run(source, encoder=other)
    with refused(store, StoreError):
        run(source, chunker=WordChunker())
    shard = store / "chunks" / "0001.parquet"
    shard.write_bytes(shard.read_bytes()[:100])
    with refused(store, StoreError):
        run(source)


def test_reader_options_reach_the_reader(run: Run, source: Path) -> None:
    report = run(source, options=ReaderOptions(limit=3, source="mine"))
    assert report.documents == 3
    assert Store.open(report.store).sources == ("mine",)


def test_the_spool_leaves_nothing_behind(run: Run, source: Path, tmp_path: Path) -> None:
    run(source)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["articles.jsonl", "store"]


@pytest.mark.parametrize(
    ("last", "requested", "goes_on_in"),
    [
        ("cpu bfloat16", "auto", "bfloat16"),
        ("cpu float32", "auto", "float32"),
        ("cpu bfloat16", "float32", "float32"),
        ("cuda bfloat16", "auto", "auto"),
        ("imported", "auto", "auto"),
    ],
)
def test_a_store_goes_on_in_the_precision_it_began_with(
    store: Store,
    writer: Callable[..., StoreWriter],
    tmp_path: Path,
    last: str,
    requested: str,
    goes_on_in: str,
) -> None:
    from nextvec.corpus.store import NewDocument

    with writer() as w:
        w.add_shard([NewDocument.from_chunks("last", ["one"])], np.ones((1, 8)), path=last)
    config = EncoderConfig(device="cpu", precision=requested)
    assert continued(config, store.path).precision == goes_on_in
    assert continued(config, tmp_path / "new").precision == requested


FOOTER = (
    "Copyright of all the pages of this site, which may be used under the conditions that are given there."
)


def pages(folder: Path, ending: str, count: int = 4) -> Path:
    folder.mkdir(exist_ok=True)
    for i in range(count):
        own = [f"Passage {k} of page {i} says something that stands nowhere else." for k in range(4)]
        marks = "<p>{}</p>" if ending == "html" else "{}"
        text = "\n\n".join(marks.format(p) for p in [*own, FOOTER])
        (folder / f"{i}.{ending}").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("ending", "drop", "left_out"),
    [("html", None, 4), ("html", False, 0), ("txt", None, 0), ("txt", True, 4)],
)
def test_recurring_paragraphs_go_from_pages_and_elsewhere_when_asked(
    run: Run, tmp_path: Path, ending: str, drop: bool | None, left_out: int
) -> None:
    report = run(pages(tmp_path / "p", ending), drop_boilerplate=drop)
    assert (report.recurring, report.chunks) == (1, 20 - left_out)
    (passage,) = report.boilerplate
    assert (passage.text, passage.documents, passage.left_out) == (FOOTER, 4, left_out)
    texts = Store.open(report.store, verify=True).document_text(f"0.{ending}")
    assert (FOOTER in texts) is (left_out == 0)


def test_two_documents_make_no_boilerplate_and_copies_are_kept_whole(run: Run, tmp_path: Path) -> None:
    two = run(pages(tmp_path / "two", "html", 2), out="a")
    assert (two.recurring, two.chunks) == (0, 10)
    versions = tmp_path / "versions"
    versions.mkdir()
    for i in range(4):  # four versions of one page: what they share is no boilerplate
        shared = "".join(f"<p>Passage {k} is the same in every version of it.</p>" for k in range(5))
        (versions / f"{i}.html").write_text(f"{shared}<p>Changed in version {i}.</p>")
    report = run(versions, out="b")
    assert report.chunks == 24
    assert {(p.documents, p.left_out) for p in report.boilerplate} == {(4, 0)}


def test_pages_are_known_again_whatever_recurs_around_them(run: Run, tmp_path: Path) -> None:
    folder = pages(tmp_path / "p", "html", 2)
    assert run(folder).chunks == 10
    again = run(pages(folder, "html", 5))  # the footer is boilerplate now
    assert (again.documents, again.chunks) == (3, 12)
    assert again.skipped == {"in the store already": 2}
