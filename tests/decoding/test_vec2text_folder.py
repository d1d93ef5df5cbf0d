"""What is checked before vec2text is started: its decoder's folder, its environment, its options."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nextvec.decoding.vec2text import Vec2Text, setup
from nextvec.decoding.vec2text.setup import (
    MANIFEST,
    PYTHON,
    RECORD,
    REQUIREMENTS,
    DecoderFolder,
    Environment,
    PartSources,
    default_folder,
    make,
    prepare,
    vec2text_process,
)
from nextvec.disk import sha256_file
from nextvec.errors import DecoderError, NextvecError
from nextvec.json_process import JsonProcess
from nextvec.vectors import RawVectors

FAKE = """
import base64, json, sys
print(json.dumps({"versions": {}, "dimension": DIMENSION}), flush=True)
for line in sys.stdin:
    said = json.loads(line)
    said["bytes"] = len(base64.b64decode(said.pop("vectors")))
    texts = [json.dumps(said), said["empty"]][: said["count"]]
    print(json.dumps({"texts": texts, "scores": [0.5] * len(texts)}), flush=True)
"""


@pytest.fixture
def decoder_folder(tmp_path: Path) -> Path:
    """Everything in its place, nothing in it."""
    folder = tmp_path / "decoder"
    for name in ("inversion", "corrector", "base", "embedder"):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text('{"embedder_model_name": "gtr_base"}')
        if name != "base":
            (folder / name / "model.safetensors").write_bytes(name.encode())
    weights = sha256_file(folder / "embedder" / "model.safetensors")
    encoder = {"fingerprint": "mean", "weights_sha256": weights}
    (folder / MANIFEST).write_text(json.dumps({"kind": "vec2text", "encoder": encoder, "dimension": 4}))
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment that looks whole."""
    folder = tmp_path / "environment"
    folder.mkdir()
    record = {"requirements_sha256": sha256_file(REQUIREMENTS), "python": PYTHON}
    (folder / RECORD).write_text(json.dumps(record))
    monkeypatch.setenv("NEXTVEC_VEC2TEXT", str(folder))
    return folder


def play(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let a script stand for vec2text."""

    def worker(self: Environment, *_: str, timeout: float) -> JsonProcess:
        return vec2text_process([sys.executable, "-I", "-S", "-c", script], timeout)

    monkeypatch.setattr(Environment, "worker", worker)


def raw(n: int, dimension: int = 4) -> RawVectors:
    return RawVectors(np.ones((n, dimension), np.float32), "mean")


def test_steps_beam_and_vectors_reach_the_process(
    decoder_folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    play(monkeypatch, FAKE.replace("DIMENSION", "4"))
    with Vec2Text(decoder_folder, steps=7, beam=3) as decoder, caplog.at_level("INFO", "nextvec.decoding"):
        first, second = decoder.decode(raw(2))
    assert json.loads(first[0].text) == {"count": 2, "steps": 7, "beam": 3, "empty": "…", "bytes": 2 * 4 * 4}
    assert second[0].text == "…"
    assert "wrote nothing for 1 of 2 vectors" in caplog.text


def test_answers_that_do_not_fit_are_refused(
    decoder_folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(monkeypatch, FAKE.replace("DIMENSION", "4"))
    with (
        Vec2Text(decoder_folder) as decoder,
        pytest.raises(DecoderError, match="no text for each of 3 vectors"),
    ):
        decoder.decode(raw(3))
    play(monkeypatch, FAKE.replace("DIMENSION", "5"))
    with Vec2Text(decoder_folder) as decoder:
        with pytest.raises(DecoderError, match="takes 5 dimensions, its folder has 4"):
            decoder.decode(raw(1))
        assert decoder.worker.pid is None


@pytest.mark.parametrize(
    "options",
    [{"steps": -1}, {"beam": 0}, {"steps": 0, "beam": 2}, {"device": "tpu"}, {"timeout": 0}],
    ids=str,
)
def test_options_that_cannot_be_meant(decoder_folder: Path, here: Path, options: dict[str, Any]) -> None:
    with pytest.raises(DecoderError) as caught:
        Vec2Text(decoder_folder, **options)
    assert caught.value.remedy


def spoil(folder: Path, how: str) -> None:
    weights = folder / "corrector" / "model.safetensors"
    match how:
        case "no description":
            (folder / MANIFEST).unlink()
        case "another kind":
            (folder / MANIFEST).write_text('{"kind": "inverter"}')
        case "no encoder":
            (folder / MANIFEST).write_text('{"kind": "vec2text", "dimension": 4}')
        case "no weights":
            weights.unlink()
        case "pickled weights":
            weights.rename(weights.with_name("pytorch_model.bin"))
        case "no configuration":
            (folder / "base" / "config.json").unlink()
        case "another encoder":
            (folder / "embedder" / "model.safetensors").write_bytes(b"other")
        case "weights in pieces":
            (folder / "embedder" / "model-2.safetensors").write_bytes(b"more")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("no description", r"decoder\.json: not found"),
        ("another kind", r"decoder\.json: describes no vec2text decoder"),
        ("no encoder", r"decoder\.json: does not hold which encoder's vectors it takes"),
        ("no weights", r"corrector: holds no weights"),
        ("pickled weights", r"pytorch_model\.bin: holds pickled weights, which are never read; convert them"),
        ("no configuration", r"base/config\.json: not found"),
        ("another encoder", r"model\.safetensors: not the weights that decoder\.json describes"),
        ("weights in pieces", r"embedder: holds weights in several files"),
    ],
)
def test_a_folder_that_is_not_whole(decoder_folder: Path, here: Path, how: str, says: str) -> None:
    assert DecoderFolder.open(decoder_folder).encoder["fingerprint"] == "mean"
    spoil(decoder_folder, how)
    with pytest.raises(DecoderError, match=says) as caught:
        Vec2Text(decoder_folder)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("embedder_model_name", "gtr_base_st", "made for the encoder 'gtr_base_st', not 'gtr_base'"),
        ("embedder_model_api", "text-embedding-ada-002", "made for the encoder 'text-embedding-ada-002'"),
    ],
)
def test_a_corrector_of_another_encoder(
    decoder_folder: Path, tmp_path: Path, key: str, value: str, says: str
) -> None:
    config = decoder_folder / "corrector" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), key: value}))
    given = PartSources(
        *(str(decoder_folder / name) for name in ("inversion", "corrector", "embedder", "base"))
    )
    with pytest.raises(DecoderError, match=says):
        prepare(tmp_path / "new", given, lambda made: None)
    assert not (tmp_path / "new").exists()


def test_nothing_is_made_over_another_folder(decoder_folder: Path) -> None:
    with pytest.raises(DecoderError, match="is there already"):
        prepare(decoder_folder, PartSources(), lambda made: None)


def test_parts_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DecoderError, match="'jxm/gtr__nq__32' cannot be fetched from the hub") as caught:
        prepare(tmp_path / "new", PartSources(), lambda made: None)
    assert caught.value.remedy
    assert not list(tmp_path.iterdir())


def test_where_the_environment_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEXTVEC_VEC2TEXT", raising=False)
    monkeypatch.setattr(sys, "prefix", "/venv")
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    assert default_folder() == Path("/venv/share/nextvec/vec2text")
    monkeypatch.setattr(sys, "prefix", "/usr")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "nextvec" / "vec2text"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert default_folder() == Path.home() / ".local" / "share" / "nextvec" / "vec2text"
    monkeypatch.setenv("NEXTVEC_VEC2TEXT", "/elsewhere")
    assert default_folder() == Path("/elsewhere")


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (None, "the environment of vec2text is not there; make it: nextvec decoder setup vec2text"),
        ({"requirements_sha256": "0"}, "with other pins; make it"),
        ({"python": "2.7"}, f"for Python 2.7, not {PYTHON}; make it"),
        ([], "with other pins; make it"),
    ],
    ids=["none", "pins", "python", "no record"],
)
def test_an_environment_that_will_not_do(decoder_folder: Path, here: Path, record: Any, says: str) -> None:
    assert Environment.find().folder == here
    file = here / RECORD
    if record is None:
        file.unlink()
    else:
        file.write_text(json.dumps({**json.loads(file.read_text()), **record} if record else record))
    with pytest.raises(DecoderError) as caught:
        Vec2Text(decoder_folder)
    assert says in str(caught.value)
    assert NextvecError.exit_code == 2


def install_nothing(target: Path) -> None:
    (target / "installed").mkdir(parents=True)


def test_setting_up_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data" / "vec2text"
    monkeypatch.setattr(setup, "_install", install_nothing)
    play(monkeypatch, "import sys; sys.exit('No module named torch')")
    with pytest.raises(DecoderError, match="No module named torch"):
        make(folder, quiet=True)
    assert list(folder.parent.iterdir()) == []

    play(monkeypatch, 'print(\'{"versions": {"vec2text": "1"}}\')')
    made, versions = make(folder, quiet=True)
    assert (made.folder, versions) == (folder, {"vec2text": "1"})
    assert list(folder.parent.iterdir()) == [folder]
    before = (folder / RECORD).stat().st_ino
    make(folder, quiet=True)
    assert (folder / RECORD).stat().st_ino == before, "made again though it was whole"
    (folder / RECORD).write_text("{}")
    make(folder, quiet=True)
    assert Environment.find(folder).folder == folder, "other pins are replaced"
    assert list(folder.parent.iterdir()) == [folder]


def test_setting_up_leaves_what_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for folder in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(DecoderError, match="holds something else; name a folder that is new or empty"):
            make(folder, quiet=True)
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.tex"]


def test_pips_last_word_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = tmp_path / "requirements.txt"
    lost.write_text("-r nowhere.txt\n")
    monkeypatch.setattr(setup, "REQUIREMENTS", lost)
    with pytest.raises(DecoderError, match=r"pip could not install .*nowhere\.txt") as caught:
        make(tmp_path / "new", quiet=True)
    assert "\n" not in str(caught.value)
    assert [f.name for f in tmp_path.iterdir()] == ["requirements.txt"]
