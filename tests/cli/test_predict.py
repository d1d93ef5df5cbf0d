"""`nextvec predict` and `nextvec rollout`: a text in, what comes next out."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from by_hand import by_hand
from nextvec.corpus.store import Store
from nextvec.inference.predictor import RunPredictor
from nextvec.vectors import unit
from passages import documents

RIVER = documents()["river-arden"]


@pytest.fixture
def note(tmp_path: Path) -> Path:
    path = tmp_path / "note.txt"
    path.write_text(RIVER, encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def one_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaded once for all tests of this file, as it is by name."""
    from nextvec.corpus import reading

    real = reading.load_encoder
    monkeypatch.setattr(reading, "load_encoder", lambda config: LOADED.setdefault(config, real(config)))


LOADED: dict[Any, Any] = {}


def test_predict_writes_the_runs_own_vector(
    cli: Callable[..., Any], text_store: Store, text_run: Path, note: Path, tmp_path: Path
) -> None:
    command = ("predict", text_run, "--file", note, "--nearest", 2)
    done = cli(*command, "--vector", tmp_path / "raw.npy", "--json", tmp_path / "output.json")
    assert (done.code, done.err) == (0, "")
    document = text_store.find("river-arden.txt")
    vectors = text_store.vectors[document.first : document.first + 8]
    raw = RunPredictor(text_run).predict(vectors[None], np.array([8]))[0]
    written = np.load(tmp_path / "raw.npy", allow_pickle=False)
    np.testing.assert_allclose(written, raw, atol=0.02)
    assert "small-gru read 8 chunks" in done.out
    assert "The next passage" in done.out
    assert "not stated" in done.out
    assert done.out.count("retrieved") == 2
    assert "generated" not in done.out
    output = cli(*command, "--json", "-").json
    assert len(output["predictions"][0]["nearest"]) == 2
    for passage in output["predictions"][0]["nearest"]:
        assert passage["text"] in " ".join(done.out.split())
    cli(*command, "--vector", tmp_path / "unit.npy", "--output-type", "cosine")
    np.testing.assert_allclose(np.load(tmp_path / "unit.npy"), unit(written), atol=1e-5)


def test_predict_from_standard_input_without_a_store(
    cli: Callable[..., Any], text_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(RIVER.encode())))
    done = cli("predict", text_run, "--file", "-", "--nearest", 0, "--store", "nowhere", "--json", "-")
    assert done.code == 0
    [output] = done.json["predictions"]
    assert (output["read"], output["nearest"], output["decoded"], output["confidence"]) == (8, [], None, None)


def test_rollout_tells_every_step(
    cli: Callable[..., Any], text_run: Path, note: Path, tmp_path: Path
) -> None:
    command = ("rollout", text_run, "--file", note, "--steps", 3, "--max-repetition", 1)
    done = cli(*command, "--vector", tmp_path / "v.npy")
    assert (done.code, done.err) == (0, "")
    assert [f"Step {k}:" in done.out for k in (1, 2, 3, 4)] == [True, True, True, False]
    assert done.out.rstrip().endswith("3 of 3 steps")
    assert np.load(tmp_path / "v.npy").shape == (3, 384)
    lengths = np.linalg.norm(np.load(tmp_path / "v.npy"), axis=1)
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-5)
    free = cli(*command, "--no-rescale", "--json", "-").json["steps"]
    kept = cli(*command, "--json", "-").json["steps"]
    assert free[0]["length"] == kept[0]["length"]
    assert free[1]["length"] != kept[1]["length"]


def test_rollout_stops_where_the_guard_says_and_snaps_where_it_is_told(
    cli: Callable[..., Any], text_run: Path, note: Path
) -> None:
    command = ("rollout", text_run, "--file", note, "--steps", 6)
    done = cli(*command, "--min-cosine", "0.999")
    assert "Step 2" not in done.out
    assert "1 of 6 steps; the last one drifted" in done.out
    snapping = ("--snap", "--snap-threshold", "-1", "--snap-blend", 1, "--max-repetition", 1)
    steps = cli(*command, *snapping, "--json", "-").json["steps"]
    assert len({step["snapped"]["row"] for step in steps}) == 6
    assert "snapped to" in cli(*command, *snapping).out
    never = cli(*command, "--snap", "--snap-threshold", 1, "--max-repetition", 1, "--json", "-").json["steps"]
    assert {step["snapped"] for step in never} == {None}


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("predict RUN --text Bread. --query Salt.", ["trained without queries", "--task conditional"]),
        ("predict RUN --text Bread. --store other", ["vectors of the encoder another where those of"]),
        ("predict RUN --text Bread. --decoder nowhere", ["nowhere: is not a decoder", "vec2text:FOLDER"]),
        (
            "predict moved --text Bread.",
            ["gone: the store that moved was trained on is not there", "--store"],
        ),
        ("predict RUN --text Bread. --store nowhere", ["nowhere: is not a store", "nextvec ingest"]),
        ("rollout RUN --text Bread. --sample", ["no distribution to sample from"]),
        ("rollout RUN --text Bread. --snap --nearest 0 --store nowhere", ["nowhere: is not a store"]),
    ],
)
def test_bad_input_is_one_line(
    cli: Callable[..., Any],
    make_world: Callable[..., Store],
    text_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    says: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    make_world(tmp_path / "other", encoder="another")
    shutil.copytree(text_run, tmp_path / "moved")
    config = tmp_path / "moved" / "config.json"
    config.write_text(by_hand(config).replace(str(RunPredictor(text_run).training["store"]), "gone"))
    done = cli(*command.replace("RUN", str(text_run)).split())
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    for part in says:
        assert part in done.err
