"""The loop: it learns, it tells what it does, it stops where it must, and `brief` is the brief's own loop."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
import torch
from torch import nn

from nextvec.checkpoint import random_state, read_checkpoint, seed_everything, set_random_state
from nextvec.corpus.store import Store
from nextvec.data.sampling import batch_windows, epoch_rng
from nextvec.data.splits import split_documents
from nextvec.data.windows import Windows
from nextvec.errors import ConfigError, NextvecWarning, RunError, SplitError, TrainingError, WindowError
from nextvec.models.registry import build
from nextvec.models.saving import load_model
from nextvec.progress import sparkline
from nextvec.training import loop
from nextvec.training.build import make_optimiser
from nextvec.training.config import OptimConfig
from nextvec.training.history import RunningMoments, read_history, spread
from nextvec.training.loop import train
from nextvec.training.session import TrainingSession

D = 12  # of the tiny store


def test_a_run_learns_and_leaves_everything_behind(store, tiny, tmp_path):
    result = train(store, tiny("optim.epochs=8"), tmp_path / "run", quiet=True)
    history = read_history(tmp_path / "run")
    assert [line["epoch"] for line in history] == list(range(1, 9))
    assert history[-1]["validation"]["cosine"] > history[0]["validation"]["cosine"] + 0.05
    assert result.cosine == max(line["validation"]["cosine"] for line in history)
    assert (result.stopped, result.epochs, result.updates) == ("epochs", 8, history[-1]["update"])
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["cosine"] == result.cosine
    for name in (
        "config.toml",
        "config.json",
        "model.safetensors",
        "run.json",
        "last/checkpoint.safetensors",
    ):
        assert (tmp_path / "run" / name).is_file()
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()
    environment = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (environment["device"], environment["precision"]) == ("cpu", "float32")
    assert environment["parameters"] == result.parameters


def test_history_holds_every_measure(store, tiny, tmp_path):
    train(store, tiny("optim.epochs=2", "loss.cosine=0.1"), tmp_path / "run", quiet=True)
    line = read_history(tmp_path / "run")[1]
    for measured in (line["train"], line["validation"]):
        assert measured["loss.cosine"] == pytest.approx(1 - measured["cosine"], rel=1e-4)
        assert measured["loss"] == pytest.approx(
            measured["loss.mse"] + 0.1 * measured["loss.cosine"], rel=1e-4
        )
    assert line["validation"]["loss"] > 0
    assert {"variance_ratio", "std_ratio", "std_min", "std_above_0.01"} <= set(line["validation"])
    assert set(line["term_gradient_norms"]) == {"mse", "cosine"}
    assert line["gradient_norm"] > 0
    assert line["positions"] == read_history(tmp_path / "run")[0]["positions"] > 0
    assert line["seconds"] >= line["train_seconds"] > 0
    assert line["positions_per_second"] == pytest.approx(line["positions"] / line["train_seconds"])
    assert line["lr"] > 0


def test_the_saved_best_reproduces_its_figure(store, tiny, tmp_path):
    """The best model, read back from disk, has the validation cosine that the history claims for it."""
    config = tiny("optim.epochs=4")
    result = train(store, config, tmp_path / "run", quiet=True)
    model, _ = load_model(tmp_path / "run")
    assert cosine_of(model.eval(), store, config) == pytest.approx(result.cosine, abs=1e-6)


def cosine_of(model: nn.Module, store: Store, config) -> float:
    """Validation cosine, written the obvious way: document by document, window by window."""
    split = split_documents(store, config.data.split)
    cosines = []
    for i in split.validation:
        document = store.documents[i]
        rows = torch.from_numpy(store.vectors[document.first : document.first + document.count])
        for start in range(0, len(rows) - 1, config.data.context):
            x = rows[start : min(start + config.data.context, len(rows) - 1)]
            with torch.no_grad():
                predicted = model(x[None]).raw[0]
            cosines += nn.functional.cosine_similarity(
                predicted, rows[start + 1 : start + 1 + len(x)]
            ).tolist()
    return float(np.mean(cosines))


def test_same_seed_same_weights_other_seed_others(store, tiny, tmp_path):
    def weights(name: str, *assignments: str) -> torch.Tensor:
        train(store, tiny("optim.epochs=1", *assignments), tmp_path / name, quiet=True)
        return read_checkpoint(tmp_path / name).tensors["model/head.weight"]

    first = weights("a")
    assert torch.equal(first, weights("b"))
    assert torch.equal(first, weights("workers", "data.workers=2"))
    assert not torch.equal(first, weights("c", "runtime.seed=1"))


def test_brief_equals_the_brief_s_own_loop(store, tiny, tmp_path):
    """A plain transcription of the PRD's loop, over the same batches, gives the same losses epoch by
    epoch.
    """
    config = tiny("optim.lr=5e-3", "optim.epochs=6", "optim.plateau_patience=0", recipe="brief")
    train(store, config, tmp_path / "run", quiet=True)
    history = read_history(tmp_path / "run")

    split = split_documents(store, config.data.split)
    windows = {name: brief_windows(store, split.of(name)) for name in ("train", "validation")}
    seed_everything(config.runtime.seed)
    model = build("lstm", "small", store.dimension, hidden=16)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.5, patience=0)
    criterion = nn.MSELoss()
    order = order_of_batches(store, config, split.train)
    for line in history:
        model.train()
        losses, rate = [], optimiser.param_groups[0]["lr"]
        for rows in order(line["epoch"] - 1):
            context, target = windows["train"][0][rows], windows["train"][1][rows]
            optimiser.zero_grad()
            loss = criterion(model(context).raw[:, -1], target)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            losses += [loss.item()] * len(rows)
        model.eval()
        with torch.no_grad():
            validation = criterion(
                model(windows["validation"][0]).raw[:, -1], windows["validation"][1]
            ).item()
        scheduler.step(validation)
        assert line["train"]["loss.mse"] == pytest.approx(np.mean(losses), rel=1e-4)
        assert line["validation"]["mse"] == pytest.approx(validation, rel=1e-4)
        assert line["validation"]["loss"] == pytest.approx(validation, rel=1e-4)
        assert line["lr"] == pytest.approx(rate, rel=1e-9)
    assert len({line["lr"] for line in history}) > 1, "the plateau was never reached: too few epochs"


def brief_windows(store: Store, documents) -> tuple[torch.Tensor, torch.Tensor]:
    """Every window of 5 and its target, in store order."""
    contexts, targets = [], []
    for i in documents:
        d = store.documents[i]
        rows = store.vectors[d.first : d.first + d.count]
        contexts += [rows[t - 5 : t] for t in range(5, len(rows))]
        targets += [rows[t] for t in range(5, len(rows))]
    return torch.from_numpy(np.stack(contexts)), torch.from_numpy(np.stack(targets))


def order_of_batches(store: Store, config, documents):
    """The order in which `train` visits the windows, as indices into `brief_windows`."""
    documents = Windows.of_documents(store.documents, documents)

    def order(epoch: int) -> list[np.ndarray]:
        rng = epoch_rng(config.runtime.seed, epoch)
        windows = documents.cut(config.data.shape, rng)
        assert (np.diff(windows.start) > 0).all()
        return batch_windows(windows, config.optim.batch_size, 1, rng)

    return order


@pytest.mark.parametrize(("scaling", "unit_scale"), [("norm", 1.0), ("component", D**-0.5)])
def test_training_is_the_same_whatever_the_encoders_scale(make_store, tiny, tmp_path, scaling, unit_scale):
    """Vectors 50 times as long train the same network to the same cosine; unit stores have an exact scale."""
    config, stores = tiny("optim.epochs=2", f"model.scaling={scaling}"), {1.0: "unit", 50.0: "long"}
    results = [train(make_store(scale=s), config, tmp_path / n, quiet=True) for s, n in stores.items()]
    scales = [load_model(tmp_path / name)[0].scale.item() for name in stores.values()]
    assert scales[0] == np.float32(unit_scale)
    assert scales[1] == pytest.approx(50.0 * unit_scale, rel=1e-5)
    assert results[0].cosine == pytest.approx(results[1].cosine, abs=1e-4)
    unit, long = (read_history(tmp_path / name)[-1]["validation"] for name in stores.values())
    assert long["loss"] == pytest.approx(unit["loss"], rel=1e-3)
    assert long["mse"] == pytest.approx(2500 * unit["mse"], rel=1e-3)
    assert long["std_min_encoder"] == pytest.approx(50 * unit["std_min_encoder"], rel=1e-3)


def test_a_loss_that_is_not_finite_stops_before_the_step(store, tiny, tmp_path, monkeypatch):
    config = tiny("optim.epochs=2")
    seen: dict[str, torch.Tensor] = {}
    real = loop.refuse_non_finite

    def spoil(session, batch, loss, norm):
        if session.state.update == 3:
            seen.update({k: v.clone() for k, v in session.model.state_dict().items()})
            seen["session"] = session.model
            loss.total.data.fill_(math.nan)
        real(session, batch, loss, norm)

    monkeypatch.setattr(loop, "refuse_non_finite", spoil)
    with pytest.raises(TrainingError, match=r"update 4 has mse .* documents: doc-\d+.*; lower optim.lr"):
        train(store, config, tmp_path / "run", quiet=True)
    model = seen.pop("session")
    assert all(torch.equal(value, seen[name]) for name, value in model.state_dict().items())


def test_a_gradient_that_is_not_finite_stops_too(store, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "clip_gradients", lambda *_: torch.tensor(math.inf))
    with pytest.raises(TrainingError, match="gradient norm inf"):
        train(store, tiny(), tmp_path / "run", quiet=True)


def test_a_device_is_not_waited_for_at_every_update_and_nothing_bad_is_saved(
    store, tiny, tmp_path, monkeypatch
):
    """As on a GPU: figures are looked at together, and before a checkpoint is written."""
    monkeypatch.setattr(loop, "AT_ONCE", ())
    real_update, real_save, saved, requested = loop.update, TrainingSession.save, [], []

    def spoil(session, batch):
        with monkeypatch.context() as patch:
            for name in ("item", "tolist", "__float__", "__int__", "__bool__"):
                patch.setattr(torch.Tensor, name, watched(name, session))
            real_update(session, batch)
        if session.state.update == 4:
            session.unchecked[-1].figures.fill_(math.nan)

    def watched(name, session):
        real = getattr(torch.Tensor, name)

        def ask(tensor, *rest):
            # The norms of each term's gradient are taken at the first update of an epoch.
            if "nextvec" in sys._getframe(1).f_code.co_filename and session.state.batch > 0:
                requested.append((name, sys._getframe(1).f_code.co_name))
            return real(tensor, *rest)

        return ask

    def save(session):
        real_save(session)
        saved.append(session.state.update)

    monkeypatch.setattr(loop, "update", spoil)
    monkeypatch.setattr(TrainingSession, "save", save)
    config = tiny("optim.epochs=3", "runtime.checkpoint_every_s=0.000001")
    with pytest.raises(TrainingError, match=r"update 4 has mse nan .* documents: doc-\d+"):
        train(store, config, tmp_path / "run", quiet=True)
    assert saved == [1, 2, 3]
    checkpoint = read_checkpoint(tmp_path / "run")
    assert checkpoint is not None
    assert checkpoint.metadata["state"]["update"] == 3
    assert requested == []


def test_figures_are_looked_at_every_so_many_updates(store, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "AT_ONCE", ())
    monkeypatch.setattr(loop, "CHECK_EVERY", 2)
    real, seen = loop.refuse_non_finite, []

    def spoil(session, batch, loss, norm):
        seen.append(session.state.update + 1)
        if session.state.update == 2:
            loss.total.data.fill_(math.inf)
        real(session, batch, loss, norm)

    monkeypatch.setattr(loop, "refuse_non_finite", spoil)
    with pytest.raises(TrainingError, match="update 3 has"):
        train(store, tiny("optim.epochs=2"), tmp_path / "run", quiet=True)
    assert seen == [1, 2, 3, 4]


def test_all_loss_weights_zero_are_refused_and_nothing_is_written(store, tiny, tmp_path):
    with pytest.raises(ConfigError, match="every loss weight is zero"):
        train(store, tiny("loss.mse=0.0"), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_context_longer_than_every_document_is_refused_and_nothing_is_written(store, tiny, tmp_path):
    with pytest.raises(WindowError, match="longest document has"):
        train(store, tiny("data.context=500", "data.min_context=500"), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_an_empty_validation_split_is_refused(store, tiny, tmp_path):
    with pytest.raises(SplitError, match="no document is in the split 'validation'"):
        train(store, tiny("data.split.validation=0.0"), tmp_path / "run", quiet=True)


def test_a_folder_that_holds_something_is_left_alone(store, tiny, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="is there already"):
        train(store, tiny(), tmp_path / "run", quiet=True)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_a_collapse_stops_the_run_and_keeps_the_best(store, tiny, tmp_path, monkeypatch):
    """Re-introduces a collapse in one epoch (0.54 to 0.34): the weights are destroyed after epoch 2."""
    real = loop.train_epoch

    def collapse(session, signals, progress):
        real(session, signals, progress)
        if session.state.epoch == 2:
            with torch.no_grad():
                session.model.head.weight.neg_()
                session.model.head.bias.neg_()

    monkeypatch.setattr(loop, "train_epoch", collapse)
    config = tiny("optim.epochs=9")
    with pytest.warns(NextvecWarning, match="collapsed"):
        result = train(store, config, tmp_path / "run", quiet=True)
    assert (result.stopped, result.epochs, result.epoch) == ("collapse", 3, 2)
    best = load_model(tmp_path / "run")[0].eval()
    assert cosine_of(best, store, config) == pytest.approx(result.cosine, abs=1e-6)


def test_early_stopping_and_the_update_cap(store, tiny, tmp_path):
    still = train(
        store, tiny("optim.lr=1e-12", "optim.epochs=50", "optim.patience=2"), tmp_path / "a", quiet=True
    )
    assert still.stopped == "patience"
    assert still.epochs < 50
    capped = train(store, tiny("optim.max_updates=5", "optim.epochs=50"), tmp_path / "b", quiet=True)
    assert (capped.stopped, capped.updates) == ("max_updates", 5)


def test_clip_zero_clips_nothing_but_is_measured(store, tiny, tmp_path):
    train(store, tiny("optim.clip=0.0", "optim.epochs=1"), tmp_path / "free", quiet=True)
    train(store, tiny("optim.clip=1e-9", "optim.epochs=1"), tmp_path / "tight", quiet=True)
    free, tight = (read_history(tmp_path / name)[0] for name in ("free", "tight"))
    assert free["gradient_norm"] > 1e-3
    assert free["train"]["loss"] != tight["train"]["loss"]


def test_clipping_holds_what_the_objective_learns_too(store, tiny, tmp_path, monkeypatch):
    """A learned temperature is clipped with the model: its gradient counts in the norm and is scaled with
    it."""
    options = ("loss.mse=0.0", "loss.infonce=1.0", "loss.learn_temperature=true", "optim.clip=1e-6")
    steps = []
    update = loop.update

    def watched(session, batch):
        temperature = session.objective.terms["infonce"].log_temperature
        others = [p for p in session.parameters if p is not temperature]
        session.optimiser.register_step_pre_hook(lambda *_: steps.append(total_norm([*others, temperature])))
        session.optimiser.register_step_pre_hook(lambda *_: temperatures.append(total_norm([temperature])))
        monkeypatch.setattr(loop, "update", update)
        update(session, batch)

    temperatures = []
    monkeypatch.setattr(loop, "update", watched)
    train(store, tiny(*options, "optim.max_updates=3"), tmp_path / "run", quiet=True)
    assert len(steps) == 3
    assert steps == pytest.approx([1e-6] * 3, rel=0.02)
    assert all(0 < t <= 1e-6 for t in temperatures)


def total_norm(parameters):
    """Of the gradients of all of these together."""
    return float(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))


def test_decay_spares_biases_unless_told_otherwise():
    def groups(decay: str) -> list[tuple[int, float]]:
        config = OptimConfig(weight_decay=0.1, decay=decay)
        optimiser = make_optimiser(nn.Linear(3, 2), nn.Module(), config, fused=False)
        return [(p.ndim, g["weight_decay"]) for g in optimiser.param_groups for p in g["params"]]

    assert groups("matrices") == [(2, 0.1), (1, 0.0)]
    assert groups("all") == [(2, 0.1), (1, 0.1)]


@pytest.mark.parametrize("dimension", [3, 17])
def test_moments_are_numpys(dimension):
    rows = torch.randn(100, dimension, dtype=torch.float64)
    moments = RunningMoments(dimension, torch.device("cpu"))
    for block in rows.split(7):
        moments.add(block)
    assert moments.variance.numpy() == pytest.approx(rows.numpy().var(axis=0), rel=1e-9)


def test_spread_tells_an_oracle_from_a_collapsed_model():
    rows = torch.randn(500, 8, dtype=torch.float64) * 0.05
    moments = {"target": rows, "oracle": rows, "collapsed": rows.mean(0).expand(500, 8), "half": rows / 2}
    measured = {}
    for name, vectors in moments.items():
        measured[name] = RunningMoments(8, torch.device("cpu"))
        measured[name].add(vectors)
    assert spread(measured["oracle"], measured["target"])["variance_ratio"] == pytest.approx(1.0)
    assert spread(measured["half"], measured["target"])["variance_ratio"] == pytest.approx(0.25)
    assert spread(measured["half"], measured["target"])["std_ratio"] == pytest.approx(0.5)
    flat = spread(measured["collapsed"], measured["target"])
    assert flat["variance_ratio"] == pytest.approx(0.0, abs=1e-9)
    assert (flat["std_above_0.01"], flat["std_above_0.01_encoder"]) == (0.0, 1.0)


def test_a_terminal_shows_how_validation_goes(store, tiny, tmp_path, monkeypatch):
    output = []
    monkeypatch.setattr(loop.Progress, "advance", lambda self, *_, **shown: output.append(shown.get("live")))
    train(store, tiny("optim.epochs=3"), tmp_path / "run", quiet=True)
    cosines = [line["validation"]["cosine"] for line in read_history(tmp_path / "run")]
    best = max(cosines)
    lines = [line for line in output if line is not None]
    assert [len(line.partition(" ")[0]) for line in lines] == [1, 2, 3]
    assert lines[-1] == (
        f"{sparkline(cosines)} {cosines[-1]:.4f}, best {best:.4f} (epoch {cosines.index(best) + 1})"
    )


def test_the_generators_of_all_devices_are_saved_and_put_back(monkeypatch):
    """As on a machine of two GPUs, and on one of Apple's."""
    states = {0: torch.tensor([1]), 1: torch.tensor([2]), "mps": torch.tensor([3])}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [states[0], states[1]])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, i: states.update({i: state}))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: states["mps"])
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state: states.update(mps=state))
    before, metadata = dict(states), random_state()[1]
    tensors = random_state()[0]
    states.clear()
    set_random_state(tensors, metadata)
    assert states == before
    states.clear()
    set_random_state(
        {"torch": tensors["torch"], "numpy": tensors["numpy"], "cuda": torch.tensor([9])}, metadata
    )
    assert states == {1: torch.tensor([9])}, "a checkpoint of an earlier version"


def test_misses_are_those_of_the_saved_model_on_validation(store, tiny, tmp_path):
    config = tiny("model.options.resampled=300", "data.horizons=[1, 2]")
    train(store, config, tmp_path / "run", quiet=True)
    split = split_documents(store, config.data.split)
    for folder in (tmp_path / "run", tmp_path / "run" / "final"):
        model, _ = load_model(folder)
        assert model.misses is not None
        missed = []
        with torch.inference_mode():
            for i in split.validation:
                document = store.documents[i]
                rows = torch.from_numpy(store.vectors[document.first : document.first + document.count])
                for at in range(1, len(rows)):
                    for first in range(max(0, at - 6), at):
                        raw = model.after(rows[None, first:at]).raw[0]
                        missed.append((rows[at] - raw) / model.scale)
        nearest = torch.cdist(model.misses.values.double(), torch.stack(missed).double()).min(1).values
        assert nearest.max() < 1e-4
        assert model.misses.values.std(0).min() > 0.01
