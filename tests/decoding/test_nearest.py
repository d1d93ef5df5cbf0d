"""The decoder that retrieves: real chunks, labelled so, scored by cosine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nextvec.corpus.store import NewDocument, Store, StoreWriter
from nextvec.decoding.nearest import Nearest
from nextvec.errors import DecoderError, EncoderMismatchError, RetrievalError, VectorError
from nextvec.vectors import RawVectors, UnitVectors, unit


def raw(world: Store, *rows: int) -> RawVectors:
    return RawVectors(3 * world.vectors[np.array(rows)], "world")


def test_a_chunk_is_found_by_its_own_vector(world: Store) -> None:
    decoder = Nearest(world)
    found = decoder.decode(raw(world, 7, 300), n=3)
    assert [[len(some), some[0].row] for some in found] == [[3, 7], [3, 300]]
    for some in found:
        assert [decoded.text for decoded in some] == world.texts([decoded.row for decoded in some])
        assert {decoded.how for decoded in some} == {"retrieved"}
        assert some[0].score == pytest.approx(1)
        assert [d.score for d in some] == sorted((d.score for d in some), reverse=True)
        units = unit(world.vectors[[d.row for d in some]])
        assert [d.score for d in some] == pytest.approx((units @ units[0]).tolist(), abs=1e-5)
    assert decoder.text(raw(world, 7)) == world.texts([7])
    assert (decoder.name, decoder.encoder, decoder.dimension) == ("nearest", "world", 16)


def test_only_chunks_of_the_documents_named(world: Store) -> None:
    decoder = Nearest(world, documents=[1, 4])
    rows = {decoded.row for decoded in decoder.decode(raw(world, 0), n=100)[0]}
    assert rows == {*range(12, 24), *range(48, 60)}


def test_diverse_texts(world: Store) -> None:
    plain, same, diverse = (Nearest(world, trade_off=t).decode(raw(world, 7), 6)[0] for t in (None, 1.0, 0.3))
    assert plain == same
    assert diverse[0] == plain[0]
    rows = [[decoded.row for decoded in some] for some in (plain, diverse)]
    assert len(set(rows[1])) == 6
    spread = [np.triu(unit(world.vectors[r]) @ unit(world.vectors[r]).T, 1).sum() for r in rows]
    assert spread[1] < spread[0]


def test_chunks_without_a_text_are_not_found(tmp_path: Path) -> None:
    vectors = np.eye(4, dtype=np.float32)
    with StoreWriter(
        tmp_path,
        encoder={"name": "e", "fingerprint": "e"},
        dimension=4,
        chunker={"kind": "imported"},
        dtype="float32",
    ) as writer:
        writer.add_shard([NewDocument.from_chunks("a", ["one", " ", "", "four"])], vectors, path="test")
    decoder = Nearest(Store.open(tmp_path))
    found = decoder.decode(RawVectors(vectors, "e"), n=9)
    assert [[decoded.row for decoded in some] for some in found] == [[0, 3], [0, 3], [0, 3], [3, 0]]


def test_bad_input(world: Store) -> None:
    decoder = Nearest(world)
    with pytest.raises(VectorError, match="as they were before"):
        decoder.decode(UnitVectors(unit(world.vectors[:1]), "world"))
    with pytest.raises(EncoderMismatchError, match="encoder another"):
        decoder.decode(RawVectors(world.vectors[:1], "another"))
    with pytest.raises(DecoderError, match="request 1 or more"):
        decoder.decode(raw(world, 1), n=0)
    with pytest.raises(DecoderError, match=r"trade-off of 1\.5; give 0 \(diverse\)"):
        Nearest(world, trade_off=1.5)
    with pytest.raises(RetrievalError, match="no rows to search"):
        Nearest(world, documents=[])
