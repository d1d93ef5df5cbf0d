"""The inverter's training: it learns, it goes on as if it had never stopped, it stops where it must."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from decoding.inverting import TEXTS, tiny, write_pairs
from nextvec.checkpoint import read_checkpoint
from nextvec.corpus.store import Store
from nextvec.data.splits import SplitConfig, split_documents
from nextvec.data.trained import TrainedOn
from nextvec.decoding.inverter import Inverter, Writing, train, train_inverter
from nextvec.decoding.inverter.state import open_session
from nextvec.decoding.inverter.tokenizer import Pairs
from nextvec.errors import DecoderError, RunError, SplitError, TrainingError
from nextvec.interrupt import TrainingInterrupted
from nextvec.vectors import RawVectors


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.mark.parametrize(("kind", "texts"), [("bpe", 12), ("bytes", 4)])
def test_a_few_texts_are_learned_by_heart(store: Store, tmp_path: Path, kind: str, texts: int) -> None:
    updates = 120
    settings = (
        "network.width=64",
        "network.heads=4",
        "optim.lr=0.004",
        "optim.epochs=1",
        "optim.max_updates=0",
    )
    config = tiny(store, f"tokens.kind={kind}", *settings)
    session = open_session(store, config, tmp_path, resume=False)
    everything = session.training.batch(np.arange(texts))
    for _ in range(updates):
        train.update(session, everything, updates)
    session.keep({})
    inverter = Inverter(tmp_path, Writing(beam=1, no_repeat=0))
    assert inverter.text(RawVectors(store.vectors[:texts], "world")) == list(TEXTS[:texts])


def test_history_best_and_what_it_was_trained_on(store: Store, tmp_path: Path) -> None:
    config = tiny(store, "optim.max_updates=0", "optim.epochs=3", "optim.batch_tokens=128")
    result = train_inverter(store, config, tmp_path / "out", quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "out" / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    losses = [line["validation"]["loss"] for line in lines]
    assert (result.epoch, result.loss) == (int(np.argmin(losses)) + 1, min(losses))
    assert result.stopped == "epochs"
    output = json.loads((tmp_path / "out" / "decoder.json").read_text())
    assert output["training"]["chunks"] == len(TEXTS)
    assert output["epoch"] == result.epoch
    seen = TrainedOn.load(tmp_path / "out" / "trained_on.safetensors")
    split = split_documents(store, SplitConfig(file=str(store.path.parent / "split.json")))
    assert np.array_equal(seen.chunks, TrainedOn.of(store, split.train).chunks)


def stop_at(monkeypatch: pytest.MonkeyPatch, update: int) -> None:
    """SIGTERM comes to this process before that update."""
    real = train.update

    def stopping(session, batch, batches) -> None:
        if session.state.update == update:
            os.kill(os.getpid(), signal.SIGTERM)
        real(session, batch, batches)

    monkeypatch.setattr(train, "update", stopping)


@pytest.mark.parametrize("update", [1, 5])
def test_stopped_and_resumed_as_if_never_stopped(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: int
) -> None:
    config = tiny(
        store, "network.dropout=0.2", "optim.noise=0.3", "optim.batch_tokens=96", "optim.max_updates=9"
    )
    train_inverter(store, config, tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patch:
        stop_at(patch, update)
        with pytest.raises(TrainingInterrupted, match="go on with --resume") as stopped:
            train_inverter(store, config, tmp_path / "stopped", quiet=True)
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    torch.manual_seed(99)
    train_inverter(store, None, tmp_path / "stopped", resume=True, quiet=True)
    whole, resumed = (read_checkpoint(tmp_path / name) for name in ("whole", "stopped"))
    assert whole.metadata["state"]["update"] == 9
    assert whole.tensors.keys() == resumed.tensors.keys()
    assert [n for n, t in whole.tensors.items() if not torch.equal(t, resumed.tensors[n])] == []
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()


def test_stopped_before_the_first_update(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(store, "optim.noise=0.3", "optim.max_updates=2")
    train_inverter(store, config, tmp_path / "whole", quiet=True)
    real = train.topic_loss

    def stopping(session, batch):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(session, batch)

    with monkeypatch.context() as patch:
        patch.setattr(train, "topic_loss", stopping)
        with pytest.raises(TrainingInterrupted, match="after update 0"):
            train_inverter(store, config, tmp_path / "stopped", quiet=True)
    train_inverter(store, None, tmp_path / "stopped", resume=True, quiet=True)
    whole, resumed = (tmp_path / name / "model.safetensors" for name in ("whole", "stopped"))
    assert whole.read_bytes() == resumed.read_bytes()


def test_only_the_same_training_is_resumed(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train_inverter(store, tiny(store), out, quiet=True)
    with pytest.raises(RunError, match=r"started with optim\.lr = 0\.01, not 0\.02"):
        train_inverter(store, tiny(store, "optim.lr=0.02"), out, resume=True, quiet=True)
    (tmp_path / "other").mkdir()
    other = write_pairs(tmp_path / "other", seed=1)
    (tmp_path / "other" / "split.json").unlink()
    with pytest.raises(RunError, match=r"started with store\.vectors"):
        train_inverter(other, None, out, resume=True, quiet=True)
    with pytest.raises(RunError, match="holds no training to resume"):
        train_inverter(store, None, tmp_path / "nothing", resume=True, quiet=True)
    with pytest.raises(RunError, match="already and not empty; go on with --resume"):
        train_inverter(store, tiny(store), out, quiet=True)


def test_a_loss_that_is_not_finite_stops_before_the_step(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, kept = train.losses, []

    def spoiled(session, batch, noise):
        loss, topic = real(session, batch, noise)
        if session.state.update == 2:
            kept.append((session, session.network.state_dict()["tokens.weight"].clone()))
            return loss * torch.nan, topic
        return loss, topic

    monkeypatch.setattr(train, "losses", spoiled)
    with pytest.raises(TrainingError, match="update 3 has loss nan"):
        train_inverter(store, tiny(store, "optim.batch_tokens=64"), tmp_path / "out", quiet=True)
    (session, weights), *_ = kept
    assert torch.equal(session.network.tokens.weight, weights)


def test_chunks_without_text_teach_nothing(tmp_path: Path) -> None:
    store = write_pairs(tmp_path, texts=(" ",) * 12)
    with pytest.raises(DecoderError, match="no text to learn from; import it with its texts"):
        train_inverter(store, tiny(store), tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_a_split_without_validation_is_refused(store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.path.parent, tmp_path / "copy")
    split = {"train": ["a", "b", "c"], "validation": [], "test": []}
    (tmp_path / "copy" / "split.json").write_text(json.dumps(split))
    copy = Store.open(tmp_path / "copy" / "store")
    with pytest.raises(SplitError, match="no document is in the split 'validation'"):
        train_inverter(copy, tiny(copy), tmp_path / "out", quiet=True)


def pairs_of_lengths(store: Store, lengths: list[int], longest: int) -> Pairs:
    return Pairs(store.vectors, np.arange(len(lengths)), [list(range(n)) for n in lengths], 300, longest)


def test_an_epoch_holds_each_chunk_once_in_batches_that_fit(store: Store) -> None:
    pairs = pairs_of_lengths(store, [5, 40, 3, 17, 8, 30, 12, 12, 4, 6, 70, 9], 50)
    epochs = [pairs.epoch(0, epoch, 60, 2) for epoch in range(3)]
    for batches in (*epochs, pairs.fixed(60, 2)):
        assert sorted(i for batch in batches for i in batch.tolist()) == list(range(12))
        assert all(len(b) == 1 or (pairs.lengths[b].max() + 2) * len(b) <= 60 for b in batches)
    assert len({tuple(map(tuple, batches)) for batches in epochs}) == 3
    assert [b.tolist() for b in pairs.epoch(0, 1, 60, 2)] == [b.tolist() for b in epochs[1]]


def test_the_end_follows_a_text_but_not_a_cut_one(store: Store) -> None:
    batch = pairs_of_lengths(store, [2, 6], 4).batch(np.array([0, 1]))
    assert batch.tokens.tolist() == [[0, 1, 300, 300], [0, 1, 2, 3]]
    assert batch.targets.tolist() == [[0, 1, 300, 300, 300], [0, 1, 2, 3, 300]]
    assert batch.mask.sum(1).tolist() == [3, 4]
    assert torch.equal(batch.vectors, torch.from_numpy(store.vectors[:2]))


def test_the_rate_rises_and_falls() -> None:
    from nextvec.decoding.inverter.state import InverterOptimConfig

    config = InverterOptimConfig(lr=1.0, warmup=0.1)
    rates = [train.learning_rate(config, p / 100) for p in range(101)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0, abs=1e-9)
