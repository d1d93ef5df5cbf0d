from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corpus.ingesting import contents
from nextvec.corpus.store import NewDocument, Store, StoreWriter, describe_store
from nextvec.errors import (
    BusyError,
    DocumentError,
    EncoderMismatchError,
    NextvecError,
    StoreError,
    VectorError,
)

Make = Callable[..., StoreWriter]


def one(doc_id: str = "new", chunks: int = 3) -> NewDocument:
    return NewDocument.from_chunks(doc_id, [f"{doc_id} {k}" for k in range(chunks)], source="s")


def vectors(n: int = 3, d: int = 8) -> np.ndarray:
    return np.random.default_rng(n * d).standard_normal((n, d))


def test_appending_adds_a_shard_and_rewrites_none(store: Store, writer: Make) -> None:
    before = contents(store.path)
    with writer() as w:
        w.add_shard([one()], vectors(), path="cpu bfloat16")
    after = contents(store.path)
    assert {k: after[k] for k in before if k != "store.json"} == {
        k: v for k, v in before.items() if k != "store.json"
    }
    grown = Store.open(store.path, verify=True)
    assert len(grown) == 43
    assert grown.documents[-1].doc_id == "new"
    assert grown.documents[-1].first == 40
    assert grown.info["shards"][-1]["path"] == "cpu bfloat16"


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        with StoreWriter(tmp_path / name, encoder={"fingerprint": "f"}, dimension=8, chunker={}) as w:
            w.add_shard([one("a"), one("b", 2)], vectors(5), path="p")
            w.add_shard([one("c")], vectors(), path="p")
        made.append(contents(tmp_path / name))
    assert made[0] == made[1]


def test_float32_is_kept_exactly(writer: Make) -> None:
    given = vectors().astype(np.float32)
    with writer(dtype="float32") as w:
        w.add_shard([one()], given, path="p")
    np.testing.assert_array_equal(np.asarray(Store.open(w.path).vectors), given)


def test_nothing_is_made_before_the_first_shard(writer: Make) -> None:
    with writer() as w:
        assert not w.path.exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, "NaN"), (np.inf, "NaN or infinite"), (1e6, "float16"), (0.0, "zero"), (1e-9, "zero")],
)
def test_a_bad_row_is_named_and_nothing_is_written(
    store: Store, writer: Make, value: float, message: str
) -> None:
    before = contents(store.path)
    bad = vectors()
    bad[1] = value
    with writer() as w, pytest.raises(VectorError, match=message) as caught:
        w.add_shard([one()], bad, path="p")
    assert "chunk 1 of document 'new'" in str(caught.value)
    assert contents(store.path) == before


@pytest.mark.parametrize("shape", [(3, 7), (2, 8), (24,)])
def test_a_wrong_shape_is_refused(writer: Make, shape: tuple[int, ...]) -> None:
    with writer() as w, pytest.raises(VectorError, match=r"needs \[3, 8\]"):
        w.add_shard([one()], np.ones(shape), path="p")
    assert not w.path.exists()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"encoder": {"name": "other", "fingerprint": "0"}}, EncoderMismatchError),
        ({"dimension": 16}, VectorError),
        ({"dtype": "float32"}, VectorError),
        ({"normalised": True}, VectorError),
        ({"encoder_normalises": False}, VectorError),
        ({"chunker": {"kind": "paragraph"}}, StoreError),
    ],
)
def test_a_store_takes_only_its_own_kind(
    store: Store, writer: Make, change: dict[str, Any], error: type[NextvecError]
) -> None:
    with pytest.raises(error) as caught:
        writer(**change)
    assert caught.value.remedy
    assert str(store.path) in str(caught.value)


def test_a_dtype_that_cannot_be_stored(writer: Make) -> None:
    with pytest.raises(VectorError, match="choose float16 or float32"):
        writer(dtype="bfloat16")


def test_an_id_comes_once(store: Store, writer: Make) -> None:
    with writer() as w:
        with pytest.raises(DocumentError, match="'d3' is there already"):
            w.add_shard([one("d3")], vectors(), path="p")
        with pytest.raises(DocumentError, match="'twice'"):
            w.add_shard([one("twice"), one("twice")], vectors(6), path="p")
    assert len(Store.open(store.path)) == 40


def test_an_empty_document_and_half_a_surrogate_are_refused(writer: Make) -> None:
    with writer() as w:
        with pytest.raises(DocumentError, match="no chunks"):
            w.add_shard([one(chunks=0)], vectors(0), path="p")
        with pytest.raises(DocumentError, match="Unicode"):
            w.add_shard([NewDocument.from_chunks("x", ["\ud800"])], vectors(1), path="p")


def test_a_second_writer_waits_outside(store: Store, writer: Make) -> None:
    with writer(), pytest.raises(BusyError, match=rf"is being written by process {os.getpid()}"), writer():
        pytest.fail("two writers at once")
    with writer() as w:
        w.add_shard([one()], vectors(), path="p")
    assert len(Store.open(store.path)) == 43


def test_a_writer_that_looked_too_early_is_stopped(store: Store, writer: Make) -> None:
    early = writer()
    with writer() as w:
        w.add_shard([one()], vectors(), path="p")
    with pytest.raises(StoreError, match="changed by another process"), early:
        pytest.fail("it would write over the other's shard")


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path, writer: Make) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match="holds other files"):
        writer()
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="not a folder"):
        StoreWriter(tmp_path / "file", encoder={"fingerprint": "f"}, dimension=8, chunker={})


def test_what_a_killed_writer_left_is_swept(store: Store, writer: Make) -> None:
    clean = contents(store.path)
    for name in (
        "vectors/0003.npy",
        "chunks/0003.parquet",
        "vectors/.0003.npy.ab12.tmp",
        ".store.json.x.tmp",
    ):
        (store.path / name).write_bytes(b"half a shard")
    assert len(Store.open(store.path)) == 40
    with writer():
        pass
    assert contents(store.path) == clean


def test_a_damaged_store_is_not_extended(store: Store, writer: Make) -> None:
    (store.path / "vectors" / "0000.npy").unlink()
    with pytest.raises(StoreError, match="missing"):
        writer()


def output(store: Store) -> dict[str, list[str]]:
    return {d.doc_id: store.texts(range(d.first, d.first + d.count)) for d in store.documents}


def test_deleted_documents_are_in_no_document_and_compacting_removes_them(store: Store, writer: Make) -> None:
    before, vectors_of = (
        output(store),
        {d.doc_id: store.vectors[d.first : d.first + d.count] for d in store.documents},
    )
    gone = [store.documents[0].doc_id, store.documents[-1].doc_id]
    shards = contents(store.path)
    with writer() as w:
        assert w.delete(gone) == 2
    left = Store.open(store.path, verify=True)
    kept = {name: texts for name, texts in before.items() if name not in gone}
    assert output(left) == kept
    assert left.minhashes().shape[0] == len(kept)
    assert {k: v for k, v in contents(store.path).items() if k != "store.json"} == {
        k: v for k, v in shards.items() if k != "store.json"
    }
    rows = sum(len(before[name]) for name in gone)
    assert describe_store(store.path)["deleted"] == rows
    assert left.info["format"] == 2
    with writer() as w:
        assert w.compact() == rows
    small = Store.open(store.path, verify=True)
    assert output(small) == kept
    assert len(small) == len(store) - rows
    assert (small.info["format"], describe_store(store.path)["deleted"]) == (1, 0)
    for document in small.documents:
        found = small.vectors[document.first : document.first + document.count]
        np.testing.assert_array_equal(found, vectors_of[document.doc_id])
    names = {shard["name"] for shard in small.info["shards"]}
    assert {p.stem for p in (store.path / "vectors").iterdir()} == names
    with writer() as w:
        w.add_shard([one(gone[0])], vectors(), path="p")
    assert output(Store.open(store.path, verify=True)).keys() == {*kept, gone[0]}


def test_a_replaced_document_goes_with_its_views_in_one_write(tmp_path: Path, writer: Make) -> None:
    path = tmp_path / "store"
    whole = NewDocument.from_chunks("d", ["one", "two", "three"])
    view = replace(whole, doc_id="d~1/2", view_of="d", texts=["one two", "three"], gaps=["", " "],
                   starts=[0, 8], ends=[7, 13])  # fmt: skip
    with writer() as w:
        w.add_shard([whole, one("e"), view], vectors(8), path="p")
    with writer() as w:
        with pytest.raises(DocumentError, match="'d' is there already"):
            w.add_shard([one("d", 2)], vectors(2), path="p")
        w.add_shard([one("d", 2)], vectors(2), path="p", replace=True)
        assert w.known.keys() == {"d", "e"}
    assert output(Store.open(path, verify=True)) == {"e": ["e 0", "e 1", "e 2"], "d": ["d 0", "d 1"]}
    with writer() as w:
        assert w.compact() == 5
    assert output(Store.open(path, verify=True)) == {"e": ["e 0", "e 1", "e 2"], "d": ["d 0", "d 1"]}


def test_what_cannot_be_deleted_deletes_nothing(store: Store, writer: Make) -> None:
    there = store.documents[0].doc_id
    with writer() as w, pytest.raises(StoreError, match="has no document 'nobody'"):
        w.delete([there, "nobody"])
    assert output(Store.open(store.path)) == output(store)


def test_a_compacting_that_dies_leaves_the_store_as_it_was(
    store: Store, writer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writer() as w:
        w.delete([store.documents[0].doc_id])
    before = output(Store.open(store.path))
    with writer() as w, monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "_commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            w.compact()
    assert output(Store.open(store.path, verify=True)) == before
    with writer():
        pass
    assert len(list((store.path / "vectors").iterdir())) == len(store.info["shards"])
