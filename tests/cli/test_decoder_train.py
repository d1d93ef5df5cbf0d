"""`nextvec decoder train`: figures, a folder that opens, going on, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from decoding.inverting import TINY, write_pairs
from nextvec.corpus.store import Store
from nextvec.decoding.inverter import Inverter
from nextvec.disk import write_text


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture
def flags(store: Store, tmp_path: Path) -> tuple[object, ...]:
    """What makes it a matter of a second: a file, and the split's."""
    import tomli_w

    write_text(tmp_path / "tiny.toml", tomli_w.dumps(TINY))
    return ("--config", tmp_path / "tiny.toml", "--split-file", store.path.parent / "split.json")


def test_a_decoder_is_trained_and_told_of(cli, store: Store, flags, tmp_path: Path) -> None:
    done = cli("decoder", "train", store.path, "--out", tmp_path / "out", *flags, "--max-updates", 3)
    assert done.code == 0, done.err
    assert "inverter: validation loss" in done.out
    assert f"nextvec decoder evaluate {tmp_path / 'out'}" in done.out
    assert "train inverter" in done.err
    assert Inverter(tmp_path / "out").encoder == "world"


def test_figures_as_json_and_the_flags_win(cli, store: Store, flags, tmp_path: Path) -> None:
    command = ("--tokens", "bytes", "--lr", 0.02, "--set=network.layers=1", "--seed", 4, "--quiet")
    done = cli("decoder", "train", store.path, "--out", tmp_path / "out", *flags, *command, "--json", "-")
    assert done.code == 0, done.err
    assert (done.json["updates"], done.json["stopped"]) == (TINY["optim"]["max_updates"], "max_updates")
    output = json.loads((tmp_path / "out" / "decoder.json").read_text())
    assert output["vocabulary"] == 256
    assert output["network"]["layers"] == 1
    assert (output["config"]["optim"]["lr"], output["config"]["runtime"]["seed"]) == (0.02, 4)


def test_a_finished_training_is_resumed_without_a_word_more(cli, store: Store, flags, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli("decoder", "train", store.path, "--out", out, *flags).code == 0
    weights = (out / "model.safetensors").read_bytes()
    again = cli("decoder", "train", store.path, "--out", out, "--resume", "--json", "-")
    assert again.code == 0, again.err
    assert again.json["updates"] == TINY["optim"]["max_updates"]
    assert (out / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("--set", "network.depth=2"), ("unknown key 'network.depth'", "did you mean 'network.width'?")),
        (("--set", "tokens.vocabulary=9"), ("vocabulary is 9", "must be")),
        (("--sources", "web"), ("no document of source 'web'", "its sources are: s")),
        (("--seconds", "-1"), ("max_seconds", "must be at least 0")),
    ],
)
def test_bad_input(cli, store: Store, flags, tmp_path: Path, command, says) -> None:
    done = cli("decoder", "train", store.path, "--out", tmp_path / "out", *flags, *command)
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert all(part in done.err for part in says), done.err
    assert not (tmp_path / "out").exists()
