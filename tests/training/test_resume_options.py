"""Resuming changes no bit, whatever draws the batches, the objective remembers or the model draws."""

from __future__ import annotations

import pytest

from nextvec.models import registry
from nextvec.training.loop import train
from training.resuming import assert_equal_runs, killed_and_resumed

EVERY = {
    "one window of a document": ("data.max_per_document=1",),
    "mixing": ("data.mixing={ar1=2.0}", "data.mixing_temperature=2.0"),
    "curriculum over context": ("data.curriculum=context",),
    "curriculum over coherence": ("data.curriculum=coherence",),
    "whole documents": ("data.whole=true", "data.context=30"),
    "several horizons": ("data.horizons=[1,3]",),
    "middle": ("data.task=middle", "data.context=4", "data.min_context=4"),
    "queries": ("data.conditional=0.5",),
    "broken continuations": ("data.broken=0.5", "loss.continuation=1.0"),
    "a bank and a learned temperature": (
        "loss.mse=0.0", "loss.infonce=1.0", "loss.bank=64", "loss.learn_temperature=true",
    ),
    "moments": ("loss.moment=0.1", "loss.variance=0.1", "loss.mmd=0.1"),
    "fitted residual and gate": ("model.options.residual=ridge", "model.options.gate=true"),
    "a normaliser": ("model.options.standardise=true",),
    "samples": ("model.options.head=energy",),
}  # fmt: skip
MODELS = [name for name in registry.names() if name != "lstm"]


@pytest.mark.filterwarnings("ignore::nextvec.errors.NextvecWarning")
@pytest.mark.parametrize("what", EVERY)
def test_every_sampler_objective_and_head(store, tiny, tmp_path, monkeypatch, what):
    short = ("optim.epochs=2", "optim.batch_size=2", "runtime.checkpoint_every_s=0.0")
    config = tiny("model.options.dropout=0.3", *short, *EVERY[what])
    train(store, config, tmp_path / "whole", quiet=True)
    killed_and_resumed(store, config, tmp_path / "run", monkeypatch, 5)
    assert_equal_runs(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("model", MODELS)
def test_every_architecture(store, tiny, tmp_path, monkeypatch, model):
    short = ("optim.epochs=1", "optim.max_updates=6", "runtime.checkpoint_every_s=0.0")
    config = tiny(f"model.name={model}", "model.options.hidden=32", *short)
    train(store, config, tmp_path / "whole", quiet=True)
    killed_and_resumed(store, config, tmp_path / "run", monkeypatch, 3)
    assert_equal_runs(tmp_path / "run", tmp_path / "whole")
