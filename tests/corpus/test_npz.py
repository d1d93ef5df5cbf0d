from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.corpus.npz import chain_windows, export_npz, import_npz
from nextvec.corpus.store import Store
from nextvec.errors import StoreError, VectorError, WindowError


def cut(documents: list[np.ndarray], c: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windows (contexts, targets, document numbers) of documents [T, D], in order."""
    spots = [(i, k) for i, d in enumerate(documents) for k in range(c, len(d))]
    contexts = np.stack([documents[i][k - c : k] for i, k in spots])
    return contexts, np.stack([documents[i][k] for i, k in spots]), np.array([i for i, _ in spots])


def documents(*lengths: int, d: int = 4) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.standard_normal((n, d)).astype(np.float32) for n in lengths]


def sequences(store: Store) -> list[np.ndarray]:
    return [store.vectors[d.first : d.first + d.count] for d in store.documents]


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(3, 9), min_size=1, max_size=5),
    c=st.integers(1, 2),
    seed=st.integers(0, 99),
    with_ids=st.booleans(),
)
def test_documents_come_back_from_shuffled_windows(
    lengths: list[int], c: int, seed: int, with_ids: bool
) -> None:
    contexts, targets, ids = cut(documents(*lengths), c)
    order = np.random.default_rng(seed).permutation(len(ids))
    chains = chain_windows(contexts[order], targets[order], ids[order] if with_ids else None)
    found = {tuple(order[chain.windows].tolist()) for chain in chains}
    assert found == {tuple(np.flatnonzero(ids == i).tolist()) for i in range(len(lengths))}
    assert all(chain.piece == 1 for chain in chains) or not with_ids


def test_windows_that_do_not_chain_start_a_piece_of_their_own() -> None:
    contexts, targets, _ = cut(documents(10), 3)
    keep = [0, 1, 3, 4, 5]  # window 2 is missing, so 3 does not follow 1
    chains = chain_windows(contexts[keep], targets[keep], np.array(["x"] * 5))
    assert [(c.doc_id, c.piece, c.windows) for c in chains] == [("x", 1, [0, 1]), ("x", 2, [2, 3, 4])]


def test_chains_do_not_cross_documents() -> None:
    contexts, targets, _ = cut(documents(8), 2)
    chains = chain_windows(contexts, targets, np.array([1, 1, 1, 2, 2, 2]))
    assert [c.windows for c in chains] == [[0, 1, 2], [3, 4, 5]]


def test_a_document_that_repeats_itself_is_kept_whole() -> None:
    beat = np.eye(2, 4, dtype=np.float32)
    contexts, targets, ids = cut([np.tile(beat, (6, 1))], 3)
    chains = chain_windows(contexts, targets, ids)
    assert [c.windows for c in chains] == [list(range(9))]


def write(path: Path, **arrays: Any) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def test_an_npz_of_the_brief_becomes_a_store(tmp_path: Path) -> None:
    docs = documents(8, 6, 11)
    contexts, targets, ids = cut(docs, 5)
    names = np.array(["alpha", "beta", "gamma"])[ids]
    texts = np.array([f"concept {i}" for i in range(len(ids))])
    file = write(
        tmp_path / "w.npz",
        context_sequences=contexts,
        target_vectors=targets,
        doc_ids=names,
        concept_texts=texts,
    )
    report = import_npz(file, tmp_path / "s", encoder_name="gtr", quiet=True)
    assert (report.windows, report.documents, report.chunks, report.broken) == (10, 3, 25, 0)
    store = Store.open(tmp_path / "s", verify=True)
    assert [d.doc_id for d in store.documents] == ["alpha", "beta", "gamma"]
    for got, expected in zip(sequences(store), docs, strict=True):
        np.testing.assert_array_equal(got, expected)
    assert store.texts(range(8)) == ["", "", "", "", "", "concept 0", "concept 1", "concept 2"]
    assert store.sources == ("w",)
    again = import_npz(file, tmp_path / "s", encoder_name="gtr", quiet=True)
    assert (again.documents, again.skipped) == (0, {"in the store already": 3})


def test_without_doc_ids_each_chain_is_a_document(tmp_path: Path) -> None:
    docs = documents(8, 6)
    contexts, targets, _ = cut(docs, 5)
    file = write(tmp_path / "w.npz", context_sequences=contexts, target_vectors=targets)
    import_npz(file, tmp_path / "s", encoder_name="gtr", source="brief", quiet=True)
    store = Store.open(tmp_path / "s")
    assert [d.doc_id for d in store.documents] == ["000000", "000001"]
    assert store.sources == ("brief",)
    np.testing.assert_array_equal(sequences(store)[1], docs[1])


@pytest.mark.parametrize("context", [1, 3])
def test_a_store_survives_the_round_trip(store: Store, tmp_path: Path, context: int) -> None:
    report = export_npz(store, tmp_path / "w.npz", context=context, texts="all", quiet=True)
    assert (report.windows, report.documents, report.too_short) == (10 * (4 - context), 10, 0)
    import_npz(tmp_path / "w.npz", tmp_path / "back", encoder_name="test", dtype="float16", quiet=True)
    back = Store.open(tmp_path / "back")
    assert [d.doc_id for d in back.documents] == [d.doc_id for d in store.documents]
    assert [d.sha256 for d in back.documents] == [d.sha256 for d in store.documents]
    np.testing.assert_array_equal(np.asarray(back.vectors), np.asarray(store.vectors))
    assert back.texts(range(40)) == store.texts(range(40))


def test_what_is_exported(store: Store, tmp_path: Path) -> None:
    export_npz(store, tmp_path / "w.npz", context=2, documents=[3, 1], quiet=True)
    with np.load(tmp_path / "w.npz") as arrays:
        assert arrays["context_sequences"].dtype == np.float32
        assert arrays["doc_ids"].tolist() == ["d3", "d3", "d1", "d1"]
        assert arrays["concept_texts"].tolist()[:2] == ["Chunk 2 of document 3.", "Chunk 3 of document 3."]
        np.testing.assert_array_equal(arrays["context_sequences"][1], store.vectors[13:15])
        np.testing.assert_array_equal(arrays["target_vectors"][1], store.vectors[15])
    export_npz(store, tmp_path / "n.npz", context=2, texts="none", quiet=True)
    with np.load(tmp_path / "n.npz") as arrays:
        assert sorted(arrays) == ["context_sequences", "doc_ids", "target_vectors"]
    first = (tmp_path / "w.npz").read_bytes()
    export_npz(store, tmp_path / "w.npz", context=2, documents=[3, 1], quiet=True)
    assert (tmp_path / "w.npz").read_bytes() == first


def test_exports_that_make_no_sense(store: Store, tmp_path: Path) -> None:
    with pytest.raises(WindowError, match="more than 4 chunks"):
        export_npz(store, tmp_path / "w.npz", context=4, quiet=True)
    for options in ({"context": 0}, {"texts": "some"}):
        with pytest.raises(StoreError):
            export_npz(store, tmp_path / "w.npz", quiet=True, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "w.npz").exists()


def good() -> dict[str, Any]:
    contexts, targets, ids = cut(documents(8, 6), 5)
    return {"context_sequences": contexts, "target_vectors": targets, "doc_ids": ids}


def spoil(name: str, index: tuple[int, ...], value: float) -> np.ndarray:
    array = good()[name].copy()
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"doc_ids": np.array(["a", "b", "c", "d"], object)},
            "doc_ids: holds pickled Python objects.*astype",
        ),
        ({"doc_ids": np.arange(3)}, r"doc_ids is int64 \[3\]"),
        ({"doc_ids": np.ones(4)}, "doc_ids is float64"),
        ({"target_vectors": good()["target_vectors"][:3]}, r"target_vectors is \[3, 4\]"),
        ({"target_vectors": good()["target_vectors"].astype(np.float16)}, "target_vectors float16"),
        ({"context_sequences": good()["target_vectors"]}, "context_sequences is float32"),
        ({"concept_texts": np.array(["x"])}, "concept_texts"),
        ({"target_vectors": spoil("target_vectors", (2, 1), np.nan)}, "target_vectors: row 2: is NaN"),
        ({"context_sequences": spoil("context_sequences", (1, 2, 0), np.inf)}, "context_sequences: row 7"),
        ({"target_vectors": np.asfortranarray(good()["target_vectors"])}, "Fortran"),
    ],
)
def test_bad_arrays_are_named_and_nothing_written(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    file = write(tmp_path / "w.npz", **(good() | change))
    with pytest.raises(VectorError, match=message) as caught:
        import_npz(file, tmp_path / "s", encoder_name="gtr", quiet=True)
    assert str(file) in str(caught.value)
    assert not (tmp_path / "s").exists()


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    zeros = np.zeros((4, 5, 2**16), np.float32)
    file = write(tmp_path / "w.npz", **(good() | {"context_sequences": zeros}))
    assert file.stat().st_size < zeros.nbytes / 100
    with pytest.raises(VectorError, match="unpacks to"):
        import_npz(file, tmp_path / "s", encoder_name="gtr", max_bytes=2**20, quiet=True)


def test_a_header_that_promises_more_than_there_is(tmp_path: Path) -> None:
    file = write(tmp_path / "w.npz", **good())
    with zipfile.ZipFile(file) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    members["target_vectors.npy"] = members["target_vectors.npy"].replace(b"(4, 4)", b"(9, 4)")
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(VectorError, match="header has"):
        import_npz(file, tmp_path / "s", encoder_name="gtr", quiet=True)


def test_files_that_are_no_npz(tmp_path: Path) -> None:
    (tmp_path / "w.npz").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(VectorError, match=r"not a readable \.npz"):
        import_npz(tmp_path / "w.npz", tmp_path / "s", encoder_name="gtr", quiet=True)
    with pytest.raises(VectorError, match="not found"):
        import_npz(tmp_path / "no.npz", tmp_path / "s", encoder_name="gtr", quiet=True)
    file = write(tmp_path / "v.npz", target_vectors=good()["target_vectors"])
    with pytest.raises(VectorError, match="lacks the array context_sequences"):
        import_npz(file, tmp_path / "s", encoder_name="gtr", quiet=True)
    file = write(tmp_path / "x.npz", **good())
    import_npz(file, tmp_path / "unknown", quiet=True)
    assert "unknown" in Store.open(tmp_path / "unknown").encoder["name"]
    damaged = bytearray(file.read_bytes())
    damaged[200:260] = bytes(60)
    file.write_bytes(damaged)
    with pytest.raises(VectorError):
        import_npz(file, tmp_path / "s", encoder_name="gtr", quiet=True)
