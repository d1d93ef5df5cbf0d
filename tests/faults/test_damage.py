"""One bit flipped, or the end cut off, in every kind of file: a typed error that names the file, or the same
content as before; never another content. `make test` tries some places, `make faults` some thousand."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from decoding.inverting import tiny, write_pairs
from nextvec.checkpoint import CONFIG, FILE, read_checkpoint
from nextvec.config import from_dict, read_toml, write_toml
from nextvec.corpus.store import Store
from nextvec.data.trained import TRAINED_ON, TrainedOn
from nextvec.decoding.inverter import train_inverter
from nextvec.decoding.inverter.folder import load_saved
from nextvec.disk import UNSEALED, check_seal, seal, write_json
from nextvec.errors import EvaluationError, NextvecError, RunError, StoreError
from nextvec.evaluation.results import KeptPredictions
from nextvec.evaluation.table import TABLE, read_table
from nextvec.experiments.doctor import examine
from nextvec.experiments.matrix import PLAN, MatrixPlan
from nextvec.experiments.runs import RunFolder
from nextvec.inference.export import export_predictor
from nextvec.inference.exported import ExportedPredictor
from nextvec.inference.predictor import RunPredictor
from nextvec.models.saving import GOLDEN, WEIGHTS, load_model
from nextvec.retrieval.backends import open_index
from nextvec.training.loop import train
from nextvec.vectors import UnitVectors


def weights(folder: Path) -> Any:
    return [(name, value.numpy().tobytes()) for name, value in load_model(folder)[0].state_dict().items()]


def checkpoint(folder: Path) -> Any:
    found = read_checkpoint(folder)
    assert found is not None
    return [(n, t.numpy().tobytes()) for n, t in sorted(found.tensors.items())], found.metadata


def trained_on(folder: Path) -> Any:
    found = TrainedOn.load(folder / TRAINED_ON)
    return [keys.tobytes() for keys in (found.chunks, found.documents, found.ids)]


def answers(folder: Path) -> Any:
    found = KeptPredictions.read(folder / "answers.safetensors")
    values = {row: {m: v.tobytes() for m, v in each.items()} for row, each in found.values.items()}
    return found.store, found.target.tobytes(), found.last.tobytes(), found.document.tobytes(), values


def configuration(folder: Path) -> Any:
    return RunFolder.read(folder, history=False).settings


def metadata(folder: Path) -> Any:
    return RunFolder.read(folder, history=False).metadata


def metrics(folder: Path) -> Any:
    return RunFolder.read(folder, history=False).result


def history(folder: Path) -> Any:
    return RunFolder.read(folder).record().epochs


def table(folder: Path) -> Any:
    return read_table(folder)


def plan(folder: Path) -> Any:
    return from_dict(MatrixPlan, read_toml(folder / PLAN), where=folder / PLAN)


def decoder(folder: Path) -> Any:
    found = load_saved(folder / "decoder")
    weights = [(name, value.numpy().tobytes()) for name, value in found.network.state_dict().items()]
    return found.tokens.sha256, found.space, found.length, weights


def exported(folder: Path) -> Any:
    found = ExportedPredictor(folder / "export")
    answer = found.predict(np.ones((1, 3, found.dimension), np.float32), np.full(1, 3))[0]
    return answer.tobytes(), found.encoder, found.training


def graph(folder: Path) -> Any:
    index = open_index(f"faiss-hnsw:{folder / 'index'}", Store.open(folder))
    found = index.search(UnitVectors(np.eye(1, 16, dtype=np.float32), "world"), 5)
    return found.scores.tobytes(), found.rows.tobytes()


def rows(folder: Path) -> Any:
    return np.asarray(Store.open(folder).vectors).tobytes()


def texts(folder: Path) -> Any:
    return Store.open(folder).chunks.to_pylist()


def documents(folder: Path) -> Any:
    return Store.open(folder).documents


KINDS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "weights": (WEIGHTS, weights),
    "golden": (GOLDEN, weights),
    "checkpoint": (str(FILE), checkpoint),
    "trained_on": (TRAINED_ON, trained_on),
    "answers": ("answers.safetensors", answers),
    "vectors": ("vectors/0000.npy", rows),
    "chunks": ("chunks/0001.parquet", texts),
    "documents": ("documents/0000.parquet", documents),
    "manifest": ("store.json", rows),
    "config": ("config.toml", configuration),
    "model": ("config.json", weights),
    "facts": ("run.json", metadata),
    "metrics": ("metrics.json", metrics),
    "history": ("history.jsonl", history),
    "plan": ("matrix.toml", plan),
    "table": ("matrix.json", table),
}
MADE: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "decoder": ("decoder/decoder.json", decoder),
    "decoder weights": ("decoder/model.safetensors", decoder),
    "decoder golden": ("decoder/golden.safetensors", decoder),
    "tokens": ("decoder/tokenizer.json", decoder),
    "export": ("export/export.json", exported),
    "export graph": ("export/model.onnx", exported),
    "index note": ("index/*.json", graph),
    "index": ("index/*.faiss", graph),
}
"""What takes longer to make, or to read: `make faults` alone tries these."""


@pytest.fixture(scope="module")
def place(world: Store, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store and a run in one folder, with answers."""
    folder = tmp_path_factory.mktemp("damage")
    shutil.copytree(world.path, folder, dirs_exist_ok=True)
    shutil.copytree(trained, folder, dirs_exist_ok=True)
    ordinals = np.arange(6)
    values = {"lstm": {"cosine": np.linspace(0, 1, 6, dtype=np.float32)}}
    write_json(folder / TABLE, {"rows": [{"name": "lstm"}], "failed": {}}, sealed=True)
    write_toml(folder / PLAN, MatrixPlan(str(folder), ("lstm",), 2))
    KeptPredictions("f" * 16, ordinals, ordinals, ordinals, values, {}).write(folder / "answers.safetensors")
    return folder


@pytest.fixture(scope="module")
def everything(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with a decoder, an export and an index."""
    folder = tmp_path_factory.mktemp("everything")
    shutil.copytree(place, folder, dirs_exist_ok=True)
    pairs = write_pairs(folder / "pairs")
    train_inverter(pairs, tiny(pairs), folder / "decoder", quiet=True)
    export_predictor(RunPredictor(folder), folder / "export")
    graph(folder)
    return folder


def injure(place: Path, kind: str, flips: int, cuts: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """Each injection: what it is, and a call that tries it."""
    name, read = {**KINDS, **MADE}[kind]
    [path] = place.glob(name)
    good, expected = path.read_bytes(), read(place)
    rng = np.random.default_rng(0)
    head = (
        range(min(1024, len(good))) if flips > 1024 else rng.integers(min(1024, len(good)), size=flips // 2)
    )

    def flipped(at: int) -> bytes:
        return good[:at] + bytes([good[at] ^ 1 << int(rng.integers(8))]) + good[at + 1 :]

    try:
        for at in (*head, *rng.integers(len(good), size=flips)):
            yield f"byte {at}", partial(check, place, path, flipped(int(at)), read, expected)
        for length in (0, 1, 7, 8, 9, len(good) - 1, *rng.integers(len(good), size=cuts)):
            yield f"cut to {length}", partial(check, place, path, good[:length], read, expected)
    finally:
        path.write_bytes(good)
    assert read(place) == expected


def check(place: Path, path: Path, damaged: bytes, read: Callable[[Path], Any], expected: Any) -> None:
    path.write_bytes(damaged)
    try:
        found = read(place)
    except NextvecError as e:
        assert path.name in str(e)  # noqa: PT017 - no error is right too
    except Exception as e:
        raise AssertionError(f"{type(e).__name__}: {e}") from e
    else:
        assert found == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_never_another_content(place: Path, kind: str) -> None:
    for _, injection in injure(place, kind, flips=12, cuts=2):
        injection()


@pytest.mark.faults
@pytest.mark.parametrize("kind", [*KINDS, *MADE])
def test_thousands_of_flipped_bits_are_never_another_content(everything: Path, kind: str, tally: Any) -> None:
    with tally(f"a flipped bit, a file cut short: {kind}") as injections:
        for where, injection in injure(everything, kind, flips=2000, cuts=100):
            with injections.attempt(where):
                injection()


@pytest.mark.parametrize(
    ("kind", "error"),
    [("weights", RunError), ("checkpoint", RunError), ("answers", EvaluationError), ("vectors", StoreError)],
)
def test_a_flipped_bit_of_content_is_found_and_named(
    place: Path, kind: str, error: type[NextvecError]
) -> None:
    name, read = KINDS[kind]
    path = place / name
    good = path.read_bytes()
    damaged = bytearray(good)
    damaged[-2] ^= 0x40
    path.write_bytes(bytes(damaged))
    try:
        with pytest.raises(error, match=r"has changed since it was written \(sha256 differs\)") as caught:
            read(place)
    finally:
        path.write_bytes(good)
    assert caught.value.where == str(path)


def test_a_sealed_file_has_the_same_bytes_each_time_and_one_without_a_seal_is_read(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    held = {"a": torch.arange(4.0)}
    for name in ("x", "y"):
        save_file(
            held, tmp_path / name, metadata={"z": "é", "format": "pt", "b": '{"sha256":"no"}', **UNSEALED}
        )
        seal(tmp_path / name)
        assert check_seal(tmp_path / name, RunError, "restore it")
        assert torch.equal(load_file(tmp_path / name)["a"], held["a"])
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    save_file(held, tmp_path / "old", metadata={"format": "pt"})
    assert not check_seal(tmp_path / "old", RunError, "restore it")


def test_a_configuration_that_was_cut_is_taken_from_the_checkpoint(
    world: Store, make_tiny: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    train(world, make_tiny("lstm", "optim.epochs=1"), run, quiet=True)
    (run / "metrics.json").unlink()
    whole = (run / CONFIG).read_text()
    for damaged, why in (
        (whole[: whole.index("[optim]")], "has changed since it was written"),
        (whole[whole.index("\n") : whole.index("[optim]")], "is not what the run was started with"),
        (whole[whole.index("\n") : whole.index("[optim]") + 3], "is not TOML"),
    ):
        (run / CONFIG).write_text(damaged)
        caplog.clear()
        train(world, None, run, resume=True, quiet=True)
        assert why in caplog.text
        assert "the configuration inside the checkpoint is taken" in caplog.text
        assert (run / CONFIG).read_text() == whole


def test_the_doctor_names_what_is_damaged_and_what_can_be_saved(
    world: Store, trained: Path, tmp_path: Path
) -> None:
    store = Path(shutil.copytree(world.path, tmp_path / "store"))
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    for folder in (store, run):
        assert not examine(folder).damaged
    assert {file.state for at in (store, run) for file in examine(at).files} == {"ok"}
    for folder, name, message in (
        (store, "vectors/0001.npy", "shard 0001: the texts of its 20 documents are whole"),
        (run, WEIGHTS, f"the last one is whole: use {run / 'final'}"),
        (run, str(FILE), "training cannot be resumed; the models that were saved can be used"),
    ):
        good = (folder / name).read_bytes()
        (folder / name).write_bytes(good[:-2] + bytes([good[-2] ^ 1]) + good[-1:])
        found = examine(folder)
        assert [file.file for file in found.damaged] == [str(folder / name)]
        assert any(message in line for line in found.advice)
        (folder / name).write_bytes(good)
    with pytest.raises(RunError, match="is not a store, run, matrix, decoder or export"):
        examine(tmp_path)
    with pytest.raises(RunError, match="nosuch: no such file or folder"):
        examine(tmp_path / "nosuch")
