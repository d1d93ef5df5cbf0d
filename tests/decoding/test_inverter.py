"""The inverter as a decoder, and its folder."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from by_hand import by_hand
from decoding.inverting import D, tiny, write_pairs
from nextvec.corpus.chunking import make_chunker
from nextvec.corpus.reading import Space, TextReader
from nextvec.corpus.store import Store
from nextvec.decoding.base import Decoded
from nextvec.decoding.inverter import Inverter, Writing, train_inverter
from nextvec.errors import DecoderError, EncoderMismatchError, VectorError
from nextvec.vectors import RawVectors, UnitVectors, unit


class HashEncoder:
    """Vectors from the hash of each text."""

    name = "hash"
    dimension = D
    max_tokens = 64
    normalises = unit = False
    path = "cpu float32"

    def __init__(self, fingerprint: str = "world") -> None:
        self.fingerprint = {"name": self.name, "kind": "test", "fingerprint": fingerprint}

    def encode(self, texts: Sequence[str], advance: object = None) -> np.ndarray:
        seeds = [int.from_bytes(hashlib.sha256(t.encode()).digest()[:8], "little") for t in texts]
        return np.stack([np.random.default_rng(s).standard_normal(D).astype(np.float32) for s in seeds])

    def count_tokens(self, texts: Sequence[str]) -> list[tuple[int, int]]:
        return [(len(text.split()), 0) for text in texts]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def folder(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("decoders") / "inverter"
    settings = ("optim.max_updates=40", "optim.epochs=100", "optim.batch_tokens=64", "tokens.length=24")
    train_inverter(store, tiny(store, *settings), out, quiet=True)
    return out


@pytest.fixture
def inverter(folder: Path) -> Inverter:
    return Inverter(folder)


@pytest.fixture
def vectors(store: Store) -> RawVectors:
    return RawVectors(store.vectors[:7], "world")


def reader(space: Space, encoder: HashEncoder | None = None) -> TextReader:
    return TextReader(space, encoder or HashEncoder(), make_chunker("sentence"))


def test_texts_are_written_and_ranked(inverter: Inverter, vectors: RawVectors) -> None:
    found = inverter.decode(vectors, 3)
    assert len(found) == 7
    for texts in found:
        assert 1 <= len(texts) <= 3
        assert all(t.text and t.text == t.text.strip() and t.how == "generated" for t in texts)
        assert all(t.row is None for t in texts)
        scores = [t.score for t in texts]
        assert scores == sorted(scores, reverse=True)
        assert max(scores) < 0
        assert len({t.text for t in texts}) == len(texts)
    assert len({texts[0].text for texts in found}) > 1, "every vector has the same text"


def test_a_vector_decodes_alone_as_among_others(
    inverter: Inverter, vectors: RawVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = inverter.text(vectors)
    monkeypatch.setattr("nextvec.decoding.inverter.decoder.ROWS", 8)
    assert inverter.text(vectors) == together


def test_more_texts_than_beams_may_be_asked_for(inverter: Inverter, vectors: RawVectors) -> None:
    found = inverter.decode(vectors, 9)
    assert max(len(texts) for texts in found) > inverter.writing.beam


def test_with_a_reader_the_closest_is_the_best(folder: Path, vectors: RawVectors) -> None:
    plain = Inverter(folder, Writing(beam=8, samples=12, temperature=1.0))
    choosing = plain.with_reader(reader(plain.space))
    assert plain.reader is None
    gains = []
    for texts, beams, vector in zip(
        choosing.decode(vectors, 8), plain.decode(vectors, 8), vectors.values, strict=True
    ):
        cosines = cosines_of(texts, vector)
        np.testing.assert_allclose([t.score for t in texts], cosines, atol=1e-5)
        assert list(cosines) == sorted(cosines, reverse=True)
        gains.append(cosines[0] - max(cosines_of(beams, vector)))
    assert min(gains) > -1e-6, "a beam was closer"
    assert max(gains) > 0.01, "samples are of no use"


def cosines_of(texts: list[Decoded], vector: np.ndarray) -> np.ndarray:
    return unit(HashEncoder().encode([t.text for t in texts])) @ unit(vector)


def test_another_encoders_reader_or_vectors_are_refused(inverter: Inverter, vectors: RawVectors) -> None:
    other = Space({"name": "hash", "fingerprint": "other"}, inverter.space.chunker, normalised=False)
    with pytest.raises(EncoderMismatchError, match=r"TextReader\(inverter\.space\)"):
        inverter.with_reader(reader(other, HashEncoder("other")))
    with pytest.raises(EncoderMismatchError, match="encoder other where those of world"):
        inverter.decode(RawVectors(vectors.values, "other"))


def test_unit_vectors_and_other_shapes_are_refused(inverter: Inverter, vectors: RawVectors) -> None:
    with pytest.raises(VectorError, match="raw vectors are needed, not UnitVectors"):
        inverter.decode(vectors.unit())  # type: ignore[arg-type]
    assert isinstance(vectors.unit(), UnitVectors)
    with pytest.raises(DecoderError, match="decoder 'inverter': vectors of shape"):
        inverter.decode(RawVectors(vectors.values[:, :3], "world"))


def test_it_knows_what_it_was_trained_on_and_for(inverter: Inverter, store: Store) -> None:
    assert inverter.space == Space.of(store)
    assert inverter.encoder == "world"
    assert inverter.dimension == D
    assert len(inverter.trained_on.documents) == 2
    assert inverter.training["store_fingerprint"] == store.fingerprint


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(by_hand(path)), **changes}))


def spoil_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({n: t * 1.1 for n, t in tensors.items()}, folder / "model.safetensors")


def rename_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["norm.wait"] = tensors.pop("norm.weight")
    save_file(tensors, folder / "model.safetensors")


def wild_golden(folder: Path) -> None:
    golden = load_file(folder / "golden.safetensors")
    golden["tokens"] = torch.full_like(golden["tokens"], 10**6)
    save_file(golden, folder / "golden.safetensors")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES = {
    "no manifest": (lambda f: (f / "decoder.json").unlink(), r"decoder\.json: not found; give a folder"),
    "no JSON": (lambda f: (f / "decoder.json").write_text("{"), r"decoder\.json: is not JSON"),
    "another kind": (lambda f: edit(f / "decoder.json", kind="x"), r"decoder\.json: is not an inverter"),
    "another format": (lambda f: edit(f / "decoder.json", format=2), r"decoder\.json: is not an inverter"),
    "no space": (lambda f: edit(f / "decoder.json", space={}), r"decoder\.json: lacks what an inverter"),
    "no fingerprint": (
        lambda f: edit(f / "decoder.json", space={"encoder": {}, "chunker": {}, "normalised": False}),
        r"decoder\.json: lacks what an inverter",
    ),
    "sizes": (lambda f: edit(f / "decoder.json", length=10**9), r"decoder\.json: has sizes"),
    "network": (
        lambda f: edit(f / "decoder.json", network={"width": 10**9}),
        r"decoder\.json: .*width is 1000000000",
    ),
    "unknown key": (lambda f: edit(f / "decoder.json", network={"depth": 2}), r"unknown key 'depth'"),
    "vocabulary": (lambda f: edit(f / "decoder.json", vocabulary=9), r"decoder\.json: names 9 tokens of"),
    "tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), r"tokenizer\.json: is not the token"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors: not found"),
    "cut weights": (lambda f: cut(f / "model.safetensors"), r"model\.safetensors: has changed since"),
    "other weights": (spoil_weights, r"model\.safetensors: .*answers off by .*; restore the folder"),
    "a tensor's name": (rename_a_tensor, r"model\.safetensors: tensor 'norm\.weight' is missing"),
    "other code": (
        lambda f: (edit(f / "decoder.json", code_version="0" * 16), spoil_weights(f)),
        r"the code, the weights .*; install the code of version 0{16} or retrain",
    ),
    "cut golden": (lambda f: cut(f / "golden.safetensors"), r"golden\.safetensors: has changed since"),
    "wild golden": (wild_golden, r"golden\.safetensors: is not a golden file"),
    "no list": (lambda f: (f / "trained_on.safetensors").unlink(), r"trained_on\.safetensors: .*restore"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_named(folder: Path, tmp_path: Path, damage: str) -> None:
    spoil, says = DAMAGES[damage]
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert Inverter(copy).encoder == "world"
    spoil(copy)
    with pytest.raises(DecoderError, match=says):
        Inverter(copy)


def test_loading_draws_no_random_numbers(folder: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    Inverter(folder, Writing(seed=3))
    assert torch.equal(torch.get_rng_state(), before)
