"""New text comes into a store's space as the store's own texts did, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nextvec.corpus.chunking import WordChunker, make_chunker
from nextvec.corpus.encoders import EncoderConfig, load_encoder
from nextvec.corpus.encoders.base import Encoder
from nextvec.corpus.ingest import ingest
from nextvec.corpus.reading import Space, TextReader
from nextvec.corpus.store import Store
from nextvec.errors import DocumentError, EncoderError, EncoderMismatchError

TEXT = "A river rises in the hills. It runs to the sea.\n\nShips sail on it. The harbour is old and wide."
CHUNKER = make_chunker("sentence")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder(EncoderConfig(precision="float32"))


@pytest.fixture(scope="module")
def store(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("reading")
    (folder / "river.txt").write_text(TEXT)
    ingest(
        folder / "river.txt", folder / "store", encoder=encoder, chunker=CHUNKER, dtype="float32", quiet=True
    )
    return Store.open(folder / "store")


def test_the_same_text_gives_the_same_chunks_and_vectors(store: Store, encoder: Encoder) -> None:
    chunks, vectors = TextReader(Space.of(store), encoder).read(TEXT)
    assert [c.text for c in chunks] == store.texts(range(len(store)))
    np.testing.assert_allclose(vectors.values, store.vectors[:], atol=1e-5)
    assert vectors.encoder == store.encoder["fingerprint"]


def test_the_encoder_is_found_by_what_the_space_says(store: Store) -> None:
    reader = TextReader(Space.of(store))
    assert reader.encoder.fingerprint["fingerprint"] == reader.fingerprint == store.encoder["fingerprint"]


def test_vectors_are_unit_where_the_stores_are(store: Store, encoder: Encoder) -> None:
    raw = Space.of(store)
    unit = Space(raw.encoder, raw.chunker, normalised=True)
    lengths = [
        np.linalg.norm(TextReader(space, encoder).read(TEXT)[1].values, axis=1) for space in (raw, unit)
    ]
    assert np.abs(lengths[0] - 1).min() > 0.1
    np.testing.assert_allclose(lengths[1], 1, atol=1e-5)


def test_imported_chunks_are_continued_in_words(store: Store, encoder: Encoder) -> None:
    space = Space(store.encoder, {"kind": "imported"}, normalised=True)
    assert TextReader(space, encoder).chunker == WordChunker()
    assert TextReader(space, encoder, CHUNKER).chunker == CHUNKER


@pytest.mark.parametrize("text", ["", " \n\t "])
def test_a_text_of_nothing_is_refused(store: Store, encoder: Encoder, text: str) -> None:
    with pytest.raises(DocumentError, match=r"notes\.txt: no text in it; give a sentence"):
        TextReader(Space.of(store), encoder).read(text, "notes.txt")


def test_an_encoder_of_another_space_is_refused(store: Store, encoder: Encoder) -> None:
    other = Space({**store.encoder, "fingerprint": "other"}, store.info["chunker"], normalised=False)
    with pytest.raises(EncoderMismatchError, match="fingerprints differ"):
        TextReader(other, encoder)


@pytest.mark.parametrize(
    ("kind", "says"), [("imported", "--verify-encoder"), ("openai", "is a server's; name it: --endpoint")]
)
def test_an_encoder_known_by_name_only_is_not_guessed(store: Store, kind: str, says: str) -> None:
    with pytest.raises(EncoderError, match=says):
        TextReader(Space({**store.encoder, "kind": kind}, {"kind": "imported"}, normalised=True))


def test_tokens_are_cut_by_the_encoders_own_tokenizer(store: Store, encoder: Encoder, tmp_path: Path) -> None:
    from nextvec.corpus.chunking import tokenizer_from_file
    from nextvec.corpus.encoders.sentence_transformer import find_folder

    tokenizer, name = tokenizer_from_file(find_folder(encoder.name) / "tokenizer.json")
    cut = make_chunker("tokens", {"tokenizer": tokenizer, "tokenizer_id": name})
    reader = TextReader(Space(store.encoder, cut.describe(), normalised=False), encoder)
    assert [c.text for c in reader.chunk(TEXT)] == [c.text for c in cut.chunk(TEXT)]
    with pytest.raises(EncoderMismatchError, match="another tokenizer"):
        TextReader(
            Space(store.encoder, {**cut.describe(), "tokenizer_id": "sha256:0"}, normalised=False), encoder
        )


def test_the_tokenizer_of_a_servers_encoder_is_named(store: Store, encoder: Encoder) -> None:
    from nextvec.corpus.chunking import tokenizer_from_file
    from nextvec.corpus.encoders.sentence_transformer import find_folder

    file = find_folder(encoder.name) / "tokenizer.json"
    tokenizer, name = tokenizer_from_file(file)
    cut = make_chunker("tokens", {"tokenizer": tokenizer, "tokenizer_id": name})
    space = Space(store.encoder, cut.describe(), normalised=False)

    class Served:
        """Has no tokenizer here."""

        def __init__(self) -> None:
            self.fingerprint, self.name, self.unit = encoder.fingerprint, "private/model", False

    served: Any = Served()
    with pytest.raises(EncoderError, match="'private/model' is not here; name its tokenizer"):
        TextReader(space, served)
    reader = TextReader(space, served, tokenizer=file)
    assert [c.text for c in reader.chunk(TEXT)] == [c.text for c in cut.chunk(TEXT)]
