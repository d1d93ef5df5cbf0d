"""vec2text from vectors to texts: its own classes in its own process, on tiny models made here."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from decoding.tiny_vec2text import TEXTS
from nextvec.corpus.encoders import EncoderConfig, load_encoder
from nextvec.decoding.load import DecoderOptions, Vec2TextOptions, open_decoder
from nextvec.decoding.vec2text import Vec2Text
from nextvec.decoding.vec2text.setup import PACKAGES, WORKER, Environment, PartSources, prepare, sites
from nextvec.errors import DecoderError, EncoderMismatchError
from nextvec.vectors import RawVectors


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four parts as they are published; made once, for all the processes that test at the same time."""
    folder = tmp_path_factory.getbasetemp().parent / "tiny-vec2text"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "corrector" / "model.safetensors").exists():
            packages = str(Environment.find().folder / PACKAGES)
            script = str(Path(__file__).with_name("tiny_vec2text.py"))
            command = [sys.executable, "-I", "-S", script, str(WORKER), packages, str(folder), *sites()]
            done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=folder.parent)
            assert done.returncode == 0, done.stderr
    return folder


def sources(parts: Path) -> PartSources:
    return PartSources(*(str(parts / name) for name in ("inversion", "corrector", "embedder", "base")))


@pytest.fixture(scope="module")
def folder(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder of these parts."""
    out = tmp_path_factory.mktemp("vec2text") / "decoder"
    return prepare(out, sources(parts), lambda made: None).folder


def encode(folder: Path) -> RawVectors:
    """The texts by the encoder in a folder."""
    encoder = load_encoder(EncoderConfig(str(folder), precision="float32", device="cpu"))
    return RawVectors(encoder.encode(TEXTS), encoder.fingerprint["fingerprint"])


@pytest.fixture(scope="module")
def vectors(folder: Path) -> RawVectors:
    return encode(folder / "embedder")


@pytest.fixture(scope="module")
def decoder(folder: Path) -> Iterator[Vec2Text]:
    """One process for all tests: steps and beam go with each question."""
    with Vec2Text(folder, device="cpu", steps=1) as decoder:
        yield decoder


def test_one_step_of_correction_finds_the_texts(decoder: Vec2Text, vectors: RawVectors) -> None:
    assert decoder.dimension == 768
    decoder.steps, decoder.beam = 0, 1
    hypotheses = decoder.decode(vectors)
    decoder.steps = 1
    corrected = decoder.decode(vectors, n=3)
    assert [len(some) for some in corrected] == [1] * len(TEXTS)
    assert [some[0].text for some in corrected] == list(TEXTS)
    assert {(some[0].how, some[0].row) for some in corrected} == {("generated", None)}
    # Encoded again by vec2text they have nextvec's own vectors: the two speak of the same encoder.
    np.testing.assert_allclose([some[0].score for some in corrected], 1, atol=1e-4)
    assert all(some[0].text and some[0].text not in TEXTS for some in hypotheses)
    assert max(some[0].score for some in hypotheses) < 0.9


def test_more_steps_and_a_beam_keep_what_is_right_and_repeat_themselves(
    decoder: Vec2Text, vectors: RawVectors
) -> None:
    decoder.steps, decoder.beam = 2, 2
    between = RawVectors(
        np.concatenate([vectors.values, vectors.values[:1] + vectors.values[1:2]]), vectors.encoder
    )
    first, second = decoder.decode(between), decoder.decode(between)
    assert first == second
    assert [some[0].text for some in first[: len(TEXTS)]] == list(TEXTS)
    assert first[-1][0].score < 0.999


def test_many_vectors_keep_their_order(decoder: Vec2Text, vectors: RawVectors) -> None:
    decoder.steps, decoder.beam = 1, 1
    order = np.random.default_rng(0).integers(len(TEXTS), size=21)
    shuffled = RawVectors(vectors.values[order], vectors.encoder)
    assert decoder.text(shuffled) == [TEXTS[i] for i in order]


def test_vectors_behind_the_dense_layer_are_refused(parts: Path, folder: Path, vectors: RawVectors) -> None:
    """The encoder as sentence-transformers publishes it differs by a module alone, and its vectors are noise
    to the corrector: the weights of its transformer, and the shape of what it gives, are the same."""
    published = encode(parts / "embedder")
    assert published.values.shape == vectors.values.shape
    assert not np.allclose(published.values, vectors.values, atol=0.1)
    with Vec2Text(folder) as decoder:
        with pytest.raises(EncoderMismatchError, match="encode the texts with that encoder"):
            decoder.decode(published)
        assert decoder.encoder == vectors.encoder
        assert decoder.worker.pid is None, "refused before anything is started"


def test_it_opens_by_name(folder: Path) -> None:
    options = DecoderOptions(vec2text=Vec2TextOptions(steps=3, beam=2))
    for spec in (str(folder), f"vec2text:{folder}"):
        with open_decoder(spec, options=options) as decoder:
            assert isinstance(decoder, Vec2Text)
            assert (decoder.steps, decoder.beam, decoder.how) == (3, 2, "generated")


def test_parts_of_another_encoder_are_refused(parts: Path, tmp_path: Path) -> None:
    """The inversion model holds a copy of the encoder it was trained on; nothing is made with another."""
    from safetensors.numpy import load_file, save_file

    other = tmp_path / "other"
    other.mkdir()
    for file in (parts / "embedder").glob("*.json"):
        (other / file.name).write_bytes(file.read_bytes())
    weights = load_file(parts / "embedder" / "model.safetensors")
    changed = "encoder.final_layer_norm.weight"
    save_file({**weights, changed: weights[changed] * 1.1}, other / "model.safetensors")
    given = PartSources(str(parts / "inversion"), str(parts / "corrector"), str(other), str(parts / "base"))
    with pytest.raises(DecoderError, match=r"trained on an encoder with another final_layer_norm\.weight"):
        prepare(tmp_path / "decoder", given, lambda made: None)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["other"]


@pytest.mark.slow
def test_weights_that_lack_a_tensor_are_named(parts: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    def spoil_and_load(made: Path) -> None:
        file = made / "corrector" / "model.safetensors"
        save_file({k: v for k, v in load_file(file).items() if k != "layernorm.bias"}, file)
        with Vec2Text(made) as decoder:
            decoder.start()

    with pytest.raises(DecoderError, match=r"corrector: weights without layernorm\.bias"):
        prepare(tmp_path / "decoder", sources(parts), spoil_and_load)
    assert not list(tmp_path.iterdir())
