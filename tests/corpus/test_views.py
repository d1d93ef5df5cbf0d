"""Views: the laws of shifted cutting, and what an ingest with several phases writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from corpus.ingesting import Run, contents, write
from nextvec.corpus.chunking import (
    Chunk,
    Chunker,
    ParagraphChunker,
    SentenceChunker,
    TokenChunker,
    WordChunker,
    originals,
    shifts,
)
from nextvec.corpus.fingerprints import minhash_text, text_sha256
from nextvec.corpus.npz import export_npz
from nextvec.corpus.spans import word_spans
from nextvec.corpus.store import NewDocument, Store, StoreWriter, describe_store
from nextvec.corpus.survey import ALIKE, KNOWN, KNOWN_VIEW
from nextvec.errors import ConfigError, DocumentError, EncoderError, StoreError

WORDS = WordChunker(12, 4, 20)
HALF, QUARTER = Fraction(1, 2), Fraction(1, 4)


def characters(text: str) -> list[tuple[int, int]]:
    return [(i, i + 1) for i, c in enumerate(text) if not c.isspace()]


def blanks(text: str) -> list[tuple[int, int]]:
    return word_spans(text)


phases = st.fractions(min_value=0, max_value=Fraction(15, 16), max_denominator=16)
sentences = st.integers(1, 9).map(lambda n: "The " + "word " * n + "ends.")
paragraphs = st.lists(sentences, min_size=1, max_size=12).map(" ".join)
prose = st.lists(paragraphs, min_size=1, max_size=4).map("\n\n".join)
anything = st.text(st.sampled_from(list(" \n\n.!?\"'()-1aAé你。\u3000\xa0\t\u0301😀")), max_size=200)


# A sentence ends inside what the whole text counts as one word.
@example(text="?😀你1 1", size=1, phase=Fraction(0))
@settings(max_examples=300, deadline=None)
@given(text=st.one_of(prose, anything), size=st.integers(1, 12), phase=phases)
def test_every_view_gives_the_text_back_in_chunks_of_the_promised_sizes(
    text: str, size: int, phase: Fraction
) -> None:
    least = min(size, 3)
    words = WordChunker(size, least, size + 2).chunk(text, phase)
    tokens = TokenChunker(characters, "characters", size, least).chunk(text, phase)
    for chunks in (words, tokens):
        assert "".join(c.gap + c.text for c in chunks) == text.rstrip()
        for c in chunks:
            assert text[c.start : c.end] == c.text == c.text.strip() != ""
            assert not c.gap.strip()
    assert all(len(word_spans(c.text)) < size + 2 + least for c in words)
    assert all(len(characters(c.text)) <= size for c in tokens)


@settings(max_examples=100, deadline=None)
@given(text=st.one_of(prose, anything), size=st.integers(1, 12))
def test_phase_0_is_no_phase(text: str, size: int) -> None:
    for chunker in (WordChunker(size, 1, size + 2), TokenChunker(characters, "characters", size, 1)):
        assert chunker.chunk(text, Fraction(0)) == chunker.chunk(text)


def sizes(chunks: Sequence[Chunk]) -> list[int]:
    return [len(c.text.split()) for c in chunks]


def text_of(*paragraphs: int) -> str:
    """Paragraphs of so many sentences of five words, all different."""
    return "\n\n".join(
        " ".join(f"Sentence {p} {k} stands here." for k in range(n)) for p, n in enumerate(paragraphs)
    )


def test_words_begin_every_paragraph_with_a_part_of_a_chunk() -> None:
    chunker = WordChunker(20, 5, 40)
    assert sizes(chunker.chunk(text_of(12, 8))) == [20, 20, 20, 20, 20]
    assert sizes(chunker.chunk(text_of(12, 8), HALF)) == [10, 20, 20, 10, 10, 20, 10]
    assert sizes(chunker.chunk(text_of(12, 8), QUARTER)) == [15, 20, 20, 5, 15, 20, 5]
    assert sizes(chunker.chunk(text_of(12, 8), Fraction(3, 4))) == [5, 20, 20, 15, 5, 20, 15]


def test_the_first_chunk_is_never_under_the_minimum() -> None:
    assert sizes(WordChunker(20, 10, 40).chunk(text_of(12), Fraction(9, 10))) == [10, 20, 20, 10]


def test_a_long_sentence_does_not_join_a_first_chunk_that_is_to_be_short() -> None:
    long = "It " + "goes on and " * 9 + "on."
    assert sizes(WordChunker(20, 5, 40).chunk(f"{text_of(1)} {long}")) == [34]
    assert sizes(WordChunker(20, 5, 40).chunk(f"{text_of(1)} {long}", HALF)) == [5, 29]
    assert sizes(WordChunker(20, 6, 40).chunk(f"{text_of(1)} {long}", HALF)) == [34]


def test_tokens_begin_every_paragraph_with_what_fits_in_a_part_of_a_chunk() -> None:
    chunker = TokenChunker(blanks, "blanks", 20, 5)
    assert sizes(chunker.chunk(text_of(10, 5))) == [20, 20, 10, 20, 5]
    assert sizes(chunker.chunk(text_of(10, 5), HALF)) == [10, 20, 20, 10, 15]
    assert sizes(chunker.chunk(text_of(10, 5), Fraction(1, 3))) == [10, 20, 20, 10, 15]


def test_a_paragraph_shorter_than_the_first_chunk_stays_whole() -> None:
    assert sizes(WordChunker(20, 5, 40).chunk(text_of(2, 2, 2), QUARTER)) == [10, 10, 10]


@pytest.mark.parametrize("chunker", [SentenceChunker(), ParagraphChunker()])
def test_boundaries_of_the_text_cannot_be_shifted(chunker: Chunker) -> None:
    with pytest.raises(ConfigError, match="cannot be shifted; cut by words or tokens"):
        chunker.chunk("One sentence. Another one.", HALF)
    with pytest.raises(ConfigError, match="cannot be shifted"):
        shifts(chunker, 2)
    assert shifts(chunker, 1) == ()


def test_phases_are_parts_of_a_chunk() -> None:
    assert shifts(WORDS, 4) == (QUARTER, HALF, Fraction(3, 4))
    for wrong in (0, -1, 17):
        with pytest.raises(ConfigError, match="give 1 to 16"):
            shifts(WORDS, wrong)
    for phase in (Fraction(-1, 2), Fraction(1)):
        with pytest.raises(ConfigError, match="not a fraction of a chunk"):
            WORDS.chunk("Some words.", phase)


# What ingest makes of them.


def article(i: int) -> dict[str, str]:
    return {
        "id": f"a{i}",
        "title": f"Article {i}",
        "source": f"s{i % 2}",
        "text": text_of(4 + i % 7, 9, 1 + i % 3),
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "articles.jsonl", [article(i) for i in range(12)])


@pytest.fixture
def chunker() -> Chunker:
    return WORDS


def test_views_are_documents_of_their_own(run: Run, source: Path, text_encoder: type) -> None:
    report = run(source, phases=2, dtype="float32")
    assert (report.documents, report.views, report.skipped) == (12, 12, {})
    store = Store.open(report.store, verify=True)
    assert len(store.documents) == 24
    assert len(store) == report.chunks
    for i, document in enumerate(store.documents):
        original = article(i // 2)
        assert document.doc_id == original["id"] + ("~1/2" if i % 2 else "")
        assert document.view_of == (original["id"] if i % 2 else None)
        assert document.original == original["id"]
        assert (document.source, document.title) == (original["source"], original["title"])
        assert store.document_text(document.doc_id) == original["text"]
        assert document.sha256 == text_sha256(original["text"])
        rows = range(document.first, document.first + document.count)
        cut = WORDS.chunk(original["text"], HALF if i % 2 else Fraction(0))
        assert store.texts(list(rows)) == [c.text for c in cut]
    np.testing.assert_array_equal(originals(store.documents), np.repeat(np.arange(12) * 2, 2))
    expected = np.stack([text_encoder().vector(t) for t in store.texts(range(len(store)))])
    np.testing.assert_array_equal(np.asarray(store.vectors), expected)


def test_a_view_cut_like_another_is_not_stored_but_counted(run: Run, tmp_path: Path) -> None:
    short = {"id": "short", "text": text_of(1, 1)}
    collapsing = {"id": "long", "text": text_of(9)}  # 12 words, shifted: sentences of 5 allow but three views
    report = run(write(tmp_path / "x.jsonl", [short, collapsing]), phases=16)
    cuts = {tuple(sizes(WORDS.chunk(collapsing["text"], Fraction(k, 16)))) for k in range(16)}
    assert report.views == len(cuts) - 1 > 0
    assert report.skipped == {ALIKE: 15 + 15 - report.views}
    assert len(Store.open(report.store).documents) == 2 + report.views


def test_with_one_phase_nothing_is_new_on_disk(run: Run, source: Path, tmp_path: Path) -> None:
    run(source)
    run(source, "one", phases=1)
    assert contents(tmp_path / "one") == contents(tmp_path / "store")
    for file in (tmp_path / "one" / "documents").iterdir():
        assert "view_of" not in pq.read_schema(file).names
    for document in Store.open(tmp_path / "one").documents:
        assert document.view_of is None


def test_ingesting_again_changes_no_byte(run: Run, source: Path, tmp_path: Path) -> None:
    run(source, phases=4)
    before = contents(tmp_path / "store")
    again = run(source, phases=4)
    assert (again.documents, again.views, again.chunks, again.shards) == (0, 0, 0, 0)
    assert again.skipped[KNOWN] == 12
    assert again.skipped[KNOWN_VIEW] + again.skipped.get(ALIKE, 0) == 36
    assert run(source).skipped == {KNOWN: 12}
    assert contents(tmp_path / "store") == before


@pytest.mark.parametrize("calls", [0, 1, 2, 5])
def test_an_ingest_of_views_that_failed_goes_on_where_it_was(
    run: Run, source: Path, tmp_path: Path, text_encoder: type, calls: int
) -> None:
    run(source, "whole", phases=4)
    with pytest.raises(EncoderError):
        run(source, phases=4, encoder=text_encoder(fail_after=calls, failure=EncoderError("went away")))
    run(source, phases=4)
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


def test_views_can_come_later_and_in_two_turns(run: Run, source: Path, tmp_path: Path) -> None:
    run(source)
    before = contents(tmp_path / "store")
    later = run(source, phases=2)
    assert (later.documents, later.views) == (0, 12)
    more = run(source, phases=4)
    assert more.documents == 0
    assert more.skipped[KNOWN_VIEW] == 12  # 2/4 of a chunk is 1/2
    after = contents(tmp_path / "store")
    assert all(after[name] == data for name, data in before.items() if name != "store.json")
    store = Store.open(tmp_path / "store", verify=True)
    assert len(store.documents) == 12 + later.views + more.views
    assert {d.original for d in store.documents[12:24]} == {f"a{i}" for i in range(12)}


def test_an_id_that_looks_like_a_views_is_just_an_id(run: Run, tmp_path: Path) -> None:
    text = text_of(9, 9)
    one, other = {"id": "a", "text": text}, {"id": "a~1/2", "text": text_of(5, 9)}
    report = run(write(tmp_path / "plain.jsonl", [other]), phases=2)
    assert [d.view_of for d in Store.open(report.store).documents] == [None, "a~1/2"]
    before = contents(tmp_path / "store")
    with pytest.raises(StoreError, match="'a~1/2' has the id of a view of 'a'; give the document another id"):
        run(write(tmp_path / "clash.jsonl", [one]), phases=2)
    assert contents(tmp_path / "store") == before
    for articles in ([one, other], [one, {**other, "text": text}]):
        with pytest.raises(StoreError, match="has the id of a view"):
            run(write(tmp_path / "clash.jsonl", articles), "new", phases=2)


def test_a_chunker_without_phases_is_refused_before_anything_is_read(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be shifted"):
        run(tmp_path / "nowhere", chunker=ParagraphChunker(), phases=2)
    assert list(tmp_path.iterdir()) == []


def test_info_counts_views_apart(run: Run, source: Path) -> None:
    plain, viewed = (describe_store(run(source, f"with {n}", phases=n).store) for n in (1, 2))
    assert plain["views"] == {"documents": 0, "chunks": 0}
    assert viewed["views"]["documents"] == 12
    assert viewed["views"]["chunks"] + viewed["chunks"] == sum(s["rows"] for s in viewed["shards"])
    for same in ("documents", "chunks", "chunks_per_document", "sources", "fingerprint"):
        assert viewed[same] == plain[same]


def test_windows_are_exported_of_originals(run: Run, source: Path, tmp_path: Path) -> None:
    made = []
    for n in (1, 2):
        store = Store.open(run(source, f"with {n}", phases=n, dtype="float32").store)
        made.append(export_npz(store, tmp_path / f"{n}.npz", context=2, quiet=True))
    assert made[0].windows == made[1].windows
    assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "2.npz").read_bytes()


# The writer and the store on their own.


def document(doc_id: str, text: str = "one two", view_of: str | None = None) -> NewDocument:
    made = [text_sha256(text), minhash_text(text), [text], [""], [0], [len(text)]]
    return NewDocument(doc_id, "s", "", *made, view_of)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "view", [document("v", view_of="nobody"), document("v", "other", "d"), document("v", view_of="d~1/2")]
)
def test_a_view_of_nothing_is_refused(writer: Callable[..., StoreWriter], view: NewDocument) -> None:
    with writer() as w:
        w.add_shard([document("d"), document("d~1/2", view_of="d")], np.ones((2, 8)), path="p")
        before = contents(w.path)
        with pytest.raises(DocumentError, match="'v' is not a view"):
            w.add_shard([view], np.ones((1, 8)), path="p")
        assert contents(w.path) == before


def test_shards_with_and_without_views_make_one_store(
    store: Store, writer: Callable[..., StoreWriter]
) -> None:
    with writer() as w:
        w.add_shard([document("new"), document("new~1/2", view_of="new")], np.ones((2, 8)), path="p")
        w.add_shard([document("last")], np.ones((1, 8)), path="p")
    grown = Store.open(store.path, verify=True)
    assert [d.view_of for d in grown.documents] == [None] * 11 + ["new", None]
    assert grown.documents[:10] == store.documents
    assert grown.minhashes().shape == (13, 64)
    columns = [pq.read_schema(f).names for f in sorted((store.path / "documents").iterdir())]
    assert ["view_of" in names for names in columns] == [False, False, False, True, False]
    with writer() as w:
        assert w.views == {"new~1/2": "new"}


def test_a_view_without_its_original_is_a_damaged_store(
    store: Store, writer: Callable[..., StoreWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StoreWriter, "_check_ids", lambda *_: None)
    with writer() as w:
        w.add_shard([document("x~1/2", view_of="x")], np.ones((1, 8)), path="p")
    with pytest.raises(StoreError, match="'x~1/2' is a view of 'x', not found before it; ingest"):
        _ = Store.open(store.path).documents
