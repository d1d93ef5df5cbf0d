from __future__ import annotations

import importlib
import itertools
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from by_hand import by_hand
from nextvec.corpus.layout import widen
from nextvec.corpus.store import Store, describe_store
from nextvec.errors import StoreError


def test_a_store_gives_back_what_was_written(store: Store, rows: np.ndarray) -> None:
    assert len(store) == 40
    assert store.dimension == 8
    assert store.sources == ("a", "b")
    assert not store.normalised
    np.testing.assert_array_equal(np.asarray(store.vectors), rows)
    assert store.chunks["position"].to_pylist() == [0, 1, 2, 3] * 10
    assert store.chunks["doc_id"].to_pylist()[16] == "d4"
    document = store.documents[7]
    assert (document.doc_id, document.source, document.title) == ("d7", "b", "Title 7")
    assert (document.first, document.count) == (28, 4)
    assert store.index["d7"] == 7
    assert store.minhashes().shape == (10, 64)


def test_texts_come_in_the_order_asked_for(store: Store) -> None:
    assert store.texts([39, 0, 17]) == [
        "Chunk 3 of document 9.",
        "Chunk 0 of document 0.",
        "Chunk 1 of document 4.",
    ]
    with pytest.raises(IndexError):
        store.texts([40])
    with pytest.raises(IndexError):
        store.texts([-1])


def test_a_documents_text_is_joined_from_chunks_and_gaps(store: Store) -> None:
    text = store.document_text("d5")
    assert text == " ".join(f"Chunk {k} of document 5." for k in range(4))
    chunks = store.chunks.slice(20, 4).to_pylist()
    assert [text[c["start"] : c["end"]] for c in chunks] == [c["text"] for c in chunks]
    with pytest.raises(StoreError, match="no document 'nobody'"):
        store.document_text("nobody")


def test_document_hashes_are_of_the_text(store: Store) -> None:
    import hashlib

    text = store.document_text("d2")
    assert store.documents[2].sha256 == hashlib.sha256(text.encode()).hexdigest()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(indices=st.lists(st.integers(0, 39), max_size=30))
def test_gather_equals_plain_indexing(store: Store, rows: np.ndarray, indices: list[int]) -> None:
    requested = np.array(indices, np.int64)
    np.testing.assert_array_equal(store.vectors.gather(requested), rows[requested])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    key=st.one_of(
        st.integers(-40, 39),
        st.slices(40),
        st.lists(st.integers(-40, 39), min_size=1, max_size=9),
        st.lists(st.booleans(), min_size=40, max_size=40),
    )
)
def test_indexing_is_numpys(store: Store, rows: np.ndarray, key: int | slice | list[int]) -> None:
    plain = np.array(key) if isinstance(key, list) else key
    got = store.vectors[plain]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, rows[plain])


def test_gather_keeps_the_shape_and_refuses_rows_outside(store: Store, rows: np.ndarray) -> None:
    requested = np.array([[3, 39, 16], [15, 16, 0]])
    np.testing.assert_array_equal(store.vectors.gather(requested), rows[requested])
    assert store.vectors.gather(np.zeros((0, 5), np.int64)).shape == (0, 5, 8)
    for outside in (-1, 40):
        with pytest.raises(IndexError, match=f"row {outside} of 40"):
            store.vectors.gather(np.array([0, outside]))
    with pytest.raises(IndexError, match="mask"):
        store.vectors[np.array([True, False])]


def test_blocks_cover_every_row_once(store: Store, rows: np.ndarray) -> None:
    starts, blocks = zip(*store.vectors.blocks(7), strict=True)
    assert list(starts) == [0, 7, 14, 21, 28, 35]
    np.testing.assert_array_equal(np.concatenate(blocks), rows)


def test_what_is_gathered_is_a_copy(store: Store, rows: np.ndarray) -> None:
    store.vectors.gather(np.arange(4))[:] = 0
    store.vectors[0:3][:] = 0
    np.testing.assert_array_equal(np.asarray(store.vectors), rows)


@pytest.mark.parametrize("imported", [False, True], ids=["without torch", "with torch"])
def test_widening_is_exact_for_every_finite_float16(imported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if imported:
        importlib.import_module("torch")
    else:
        monkeypatch.setitem(sys.modules, "torch", None)
    half = np.arange(2**16, dtype=np.uint16).view(np.float16)
    half = half[np.isfinite(half)]
    half.flags.writeable = False  # as what lies in a file is
    np.testing.assert_array_equal(widen(half).view(np.uint32), half.astype(np.float32).view(np.uint32))


def test_a_store_travels_to_workers_by_path(store: Store, rows: np.ndarray) -> None:
    sent = pickle.dumps((store, store.vectors))
    assert len(sent) < 2000
    other, vectors = pickle.loads(sent)  # noqa: S301 - our own bytes, as a DataLoader's worker gets them
    np.testing.assert_array_equal(np.asarray(other.vectors), rows)
    np.testing.assert_array_equal(vectors[5], rows[5])


def test_opening_reads_no_table(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import nextvec.corpus.store as module

    def refuse(*_: object) -> None:
        raise AssertionError("a table was read")

    for reader in ("read_table", "read_documents"):
        monkeypatch.setattr(module, reader, refuse)
    reopened = Store.open(store.path)
    assert reopened.vectors.shape == (40, 8)
    with pytest.raises(AssertionError):
        _ = reopened.documents
    with pytest.raises(AssertionError):
        _ = reopened.chunks


def test_the_fingerprint_is_of_encoder_chunker_and_normalisation(store: Store) -> None:
    seen = {store.fingerprint}
    assert Store.open(store.path).fingerprint in seen
    for key, value in (
        ("encoder", {"fingerprint": "g"}),
        ("chunker", {"kind": "other"}),
        ("normalised", True),
    ):
        other = Store.open(store.path)
        other.info[key] = value
        seen.add(other.fingerprint)
    assert len(seen) == 4


def test_describe(store: Store, rows: np.ndarray) -> None:
    described = describe_store(store.path)
    assert described["documents"] == 10
    assert described["chunks"] == 40
    assert described["sources"] == {"a": {"documents": 5, "chunks": 20}, "b": {"documents": 5, "chunks": 20}}
    assert [s["rows"] for s in described["shards"]] == [16, 20, 4]
    norms = np.linalg.norm(rows, axis=1)
    assert described["norm"]["mean"] == pytest.approx(norms.mean(), rel=1e-6)
    assert described["norm"]["max"] == pytest.approx(norms.max(), rel=1e-6)
    files = [p for p in store.path.rglob("*") if p.is_file()]
    assert described["bytes"] == sum(p.stat().st_size for p in files)


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(data[: len(data) * 2 // 3])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "longer":
        path.write_bytes(data + b"\0" * 16)
    elif how == "noise":
        path.write_bytes(b"\x93NUMPY" + bytes(range(256)))


FILES = ("vectors/0001.npy", "chunks/0001.parquet", "documents/0001.parquet")


@pytest.mark.parametrize(
    ("file", "how"),
    [*itertools.product(FILES, ("missing", "truncated", "empty", "noise")), (FILES[0], "longer")],
)
def test_a_damaged_shard_is_named(store: Store, file: str, how: str) -> None:
    damage(store.path / file, how)
    with pytest.raises(StoreError) as caught:
        Store.open(store.path)
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("file", FILES)
def test_one_altered_byte_is_found_by_verifying(store: Store, file: str) -> None:
    assert len(Store.open(store.path, verify=True)) == 40
    data = bytearray((store.path / file).read_bytes())
    data[len(data) // 2] ^= 1
    (store.path / file).write_bytes(data)
    with pytest.raises(StoreError) as caught:
        Store.open(store.path, verify=True)
    assert file in str(caught.value)


def test_an_altered_vector_is_found_when_its_shard_is_first_read(store: Store) -> None:
    file = store.path / FILES[0]
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    opened = Store.open(store.path)
    assert opened.vectors[15].shape == (8,)  # of the shard before, which is whole
    with pytest.raises(StoreError, match=r"vectors/0001\.npy: .*sha256 differs"):
        opened.vectors[16]
    with pytest.raises(StoreError, match="sha256 differs"):
        Store.open(store.path, verify=True)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"format": 1', '"format": 9', "format 9"),
        ('"dimension": 8', '"dimension": "8"', "dimension"),
        ('"dimension": 8', '"dimension": 4', r"has float16 \[16, 4\]"),
        ('"dtype": "float16"', '"dtype": "object"', "dtype"),
        ('"name": "0001"', '"name": "../0001"', "name"),
        ('"rows": 16', '"rows": 17', "sum of its shards"),
        ('"rows": 16', '"rows": -16', "rows"),
        ('"fingerprint"', '"nothing"', "fingerprint"),
        ('"shards": [', '"shards": [3,', "shard 0"),
        ("{", "", "not JSON"),
    ],
)
def test_a_manifest_that_cannot_be_right_is_refused(store: Store, old: str, new: str, message: str) -> None:
    manifest = store.path / "store.json"
    text = by_hand(manifest)
    assert old in text
    manifest.write_text(text.replace(old, new, 1))
    with pytest.raises(StoreError, match=message):
        Store.open(store.path)


def test_a_folder_that_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nextvec ingest"):
        Store.open(tmp_path)
    with pytest.raises(StoreError, match="nextvec ingest"):
        Store.open(tmp_path / "nowhere")


def test_chunks_are_read_shard_by_shard_in_any_order_asked_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nextvec.corpus.store.KEPT_BYTES", 0)  # one shard at a time
    assert len(store.info["shards"]) > 1
    rows = np.random.default_rng(0).integers(0, len(store), 50)
    columns = ["text", "doc_id"]
    assert store.take(rows, columns).to_pylist() == store.chunks.select(columns).take(rows).to_pylist()
    assert store.take([], columns).num_rows == 0
    assert len(store._recent) == 1
    starts = [start for start, _ in store.chunk_tables()]
    assert starts == [0, *np.cumsum([shard["rows"] for shard in store.info["shards"]])[:-1]]
    with pytest.raises(IndexError, match=f"row {len(store)} of"):
        store.texts([0, len(store)])
