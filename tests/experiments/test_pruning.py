"""Pruning: what nobody reads can go without a trace, sizes, the run that comes of it, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from contract.lab import D as LAB_D
from contract.lab import make, run_steps, vectors
from nextvec.corpus.store import Store
from nextvec.errors import ConfigError, EncoderMismatchError, ModelError, RunError
from nextvec.experiments.pruning import PruningPlan, prune, prune_and_evaluate
from nextvec.experiments.pruning_units import (
    Importance,
    chosen,
    find_units,
    laid_out,
    matrices,
    nonzero,
    prunable,
    smaller,
    zeroed,
)
from nextvec.models import registry
from nextvec.models.architectures.transformer import Transformer
from nextvec.models.base import NextVectorModel
from nextvec.models.ops.parameters import count_parameters
from nextvec.training.loop import train

SIZES = {"hidden": 12, "width": 8, "ffn": 20}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "everything": {
        "head": "projection",
        "residual": "mean",
        "gate": True,
        "horizons": 2,
        "conditional": True,
        "confidence": True,
    },
}


def doubled(model: NextVectorModel) -> tuple[NextVectorModel, list[Tensor]]:
    """The same function in twice the units, each with a twin that nobody reads; where the old lie."""
    units = find_units(model)
    grown = dict(model.state_dict())
    for each in units:
        factor = 2**0.5 if each.product else 1.0  # the root of the number of terms
        for axes, twin in ((each.made, 1.0), (each.read, 0.0)):
            for axis in axes:
                old = grown[axis.name]
                blocks = old.unflatten(axis.dim, (axis.blocks, each.count, 1, each.span))
                pair = torch.cat((blocks, blocks * twin), axis.dim + 2).flatten(axis.dim, axis.dim + 3)
                grown[axis.name] = pair * (factor if each.product and axis in each.read else 1.0)
    sizes = {each.size: 2 * each.count for each in units}
    if "heads" in sizes:
        sizes["head_width"] = SIZES["hidden"] // model.config.heads
    large = type(model)(dataclasses.replace(model.config, **sizes)).eval()
    large.load_state_dict(grown)
    return large, [torch.arange(0, 2 * each.count, 2) for each in units]


def small(name: str, options: dict[str, Any]) -> NextVectorModel:
    fields = registry.resolve(name, d_embed=LAB_D)
    model = make(name, **{k: v for k, v in SIZES.items() if hasattr(fields, k)}, **options)
    if isinstance(model, Transformer):  # behind a ReLU a unit may never say anything
        for layer in model.layers:
            layer.ffn_in.bias.data += 1.0
    return model


def measured(model: NextVectorModel) -> Importance:
    importance = Importance(model, find_units(model))
    for seed in range(2):
        model.zero_grad()
        x = vectors(64, 7, seed=seed)  # enough that every unit that is read says something
        model(x[:, :-1]).ahead[..., 0, :].sub(x[:, 1:]).square().sum().backward()
        importance.add()
    return importance


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", prunable())
def test_units_that_nobody_reads_are_found_and_go_without_a_trace(name: str, options: dict[str, Any]) -> None:
    model = small(name, options)
    large, old = doubled(model)
    x = vectors(2, 6)
    expected = model(x).ahead
    torch.testing.assert_close(large(x).ahead, expected, rtol=1e-5, atol=1e-5)
    importance = measured(large)
    kept = chosen(find_units(large), importance.scores, 0.5)
    assert [indices.tolist() for indices in kept] == [indices.tolist() for indices in old]
    again = smaller(large, find_units(large), kept)
    assert count_parameters(again) == count_parameters(model)
    torch.testing.assert_close(again(x).ahead, large(x).ahead, rtol=1e-5, atol=1e-5)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", prunable())
def test_every_unit_lies_where_it_is_said_to(name: str) -> None:
    model = small(name, {})
    state = model.state_dict()
    for units in find_units(model):
        for axis in (*units.made, *units.read):
            assert laid_out(state[axis.name], axis, units.span).shape[0] == units.count, axis


@pytest.mark.parametrize("name", prunable())
def test_a_smaller_model_is_one_of_its_architecture(name: str) -> None:
    model = small(name, {})
    units = find_units(model)
    kept = chosen(units, measured(model).scores, 0.25)
    cut = smaller(model, units, kept)
    for each, indices in zip(units, kept, strict=True):
        assert getattr(cut.config, each.size) == len(indices) == max(1, round(0.25 * each.count))
    assert type(cut) is type(model)
    assert count_parameters(cut) < count_parameters(model)
    rebuilt = type(model)(cut.config)
    rebuilt.load_state_dict(cut.state_dict())
    x = vectors(2, 5)
    torch.testing.assert_close(run_steps(cut, x)[0], cut(x).raw, rtol=1e-4, atol=1e-5)
    assert torch.equal(cut.scale, model.scale)


def test_importance_is_what_the_loss_says() -> None:
    """The loss changes as the score's root says when a unit's readers are turned down a little."""
    model = make("mlp", hidden=12).double()
    units = find_units(model)[1]
    x = vectors(3, 7, torch.float64)

    def loss() -> Tensor:
        return model(x[:, :-1]).raw.sub(x[:, 1:]).square().sum()

    importance = Importance(model, [units])
    loss().backward()
    importance.add()
    unit, step = 5, 1e-6
    with torch.no_grad():
        before = loss()
        for axis in units.read:
            laid_out(dict(model.named_parameters())[axis.name], axis, units.span)[unit].mul_(1 - step)
        change = (before - loss()) / step
    assert importance.scores[0][unit].sqrt() == pytest.approx(abs(float(change)), rel=1e-4)


def test_magnitude_keeps_the_largest_of_every_matrix() -> None:
    model = make("gru", hidden=12, residual="weights")
    found = zeroed(model, 0.25)
    for before, after in zip(matrices(model), matrices(found), strict=True):
        kept = after != 0
        assert int(kept.sum()) == round(0.25 * before.numel())
        assert torch.equal(after[kept], before[kept])
        assert before[kept].abs().min() >= before[~kept].abs().max()
    for key, value in model.residual.state_dict().items():
        assert torch.equal(found.residual.state_dict()[key], value)
    assert nonzero(found) < nonzero(model) == count_parameters(found)


def test_a_run_comes_out_smaller_and_says_where_from(world: Store, trained: Path, tmp_path: Path) -> None:
    plan = PruningPlan(keep=(0.5,), updates=3, batches=2)
    (made,) = prune(trained, world, plan, tmp_path / "run", quiet=True)
    info = json.loads((made.folder / "config.json").read_text())
    assert info["config"]["hidden"] == 8
    assert info["origin"] == {
        "run": str(trained.resolve()), "method": "structured", "keep": 0.5, "keep_zeros": False,
    }  # fmt: skip
    assert json.loads((made.folder / "metrics.json").read_text())["updates"] == 3
    model = registry.build("lstm", "small", world.dimension, hidden=8)
    assert count_parameters(model) == count_parameters(made.cut)
    assert made.cut.lstm.hidden_size == 8


def test_a_table_of_shares(world: Store, trained: Path, tmp_path: Path) -> None:
    plan = PruningPlan(keep=(1.0, 0.5), updates=3, batches=2)
    table = prune_and_evaluate(trained, world, plan, tmp_path / "runs", quiet=True)
    first, control, half = table.lines
    assert (first.keep, control.keep, half.keep) == (None, 1.0, 0.5)
    assert control.sizes == {}
    assert half.sizes == {"hidden": 8}
    assert control.cut_cosine == pytest.approx(first.cosine, abs=1e-6)
    assert half.cut_cosine is not None
    assert half.cut_cosine < first.cosine
    assert half.parameters < control.parameters == first.parameters
    assert half.bytes < control.bytes
    assert Path(str(half.folder)).name == "keep-0.5"
    assert first.versus is None
    assert half.versus is not None
    assert half.versus.value == pytest.approx(half.cosine - first.cosine, abs=1e-6)
    assert all(line.p50_ms > 0 for line in table.lines)
    json.dumps(table.to_json(), allow_nan=False)


def test_zeros_stay_zeros_while_it_trains_on(
    world: Store, make_tiny: Callable[..., Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(world, make_tiny("mlp", "optim.weight_decay=0.1"), run, quiet=True)
    (made,) = prune(run, world, PruningPlan((0.5,), "magnitude", 5), tmp_path / "out", quiet=True)
    from nextvec.inference.predictor import load

    after = load(made.folder)
    for cut, now in zip(matrices(made.cut), matrices(after), strict=True):
        assert torch.equal(cut == 0, now == 0)
        assert not torch.equal(cut, now)


def test_a_pruned_run_that_was_stopped_goes_on(
    world: Store, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nextvec.interrupt import TrainingInterrupted
    from nextvec.training import loop

    plan = PruningPlan((0.5,), "magnitude", 6)
    (whole,) = prune(trained, world, plan, tmp_path / "whole", quiet=True)
    real = loop.validate

    def stop(session: Any, signals: Any) -> Any:
        signals.received = 15
        return real(session, signals)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "validate", stop)
        with pytest.raises(TrainingInterrupted):
            prune(trained, world, plan, tmp_path / "stopped", quiet=True)
    with pytest.raises(RunError, match="another run, or one pruned otherwise"):
        prune(trained, world, PruningPlan((0.25,), "magnitude", 6), tmp_path / "stopped", quiet=True)
    [again] = prune(trained, world, plan, tmp_path / "stopped", quiet=True)
    assert again.folder == tmp_path / "stopped"
    ours, theirs = (tmp_path / name / "model.safetensors" for name in ("stopped", "whole"))
    assert ours.read_bytes() == theirs.read_bytes()
    origin = [json.loads((run / "config.json").read_text())["origin"] for run in (ours.parent, whole.folder)]
    assert origin[0] == origin[1]


def test_what_cannot_be_pruned_is_refused_with_what_can() -> None:
    with pytest.raises(ModelError, match=r"s4.*amn, gru, lstm, mlp, transformer"):
        find_units(make("s4", hidden=16))
    with pytest.raises(ModelError, match=r"head 'compact'.*linear, unit or projection"):
        find_units(make("lstm", head="compact"))


@pytest.mark.parametrize("keep", [(), (0.0,), (1.5,), (0.5, 0.5)])
def test_shares_that_cannot_be_meant_are_refused(keep: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="not shares to keep"):
        PruningPlan(keep)


def test_nothing_is_written_where_it_does_not_fit(
    world: Store, make_world: Callable[..., Store], trained: Path, tmp_path: Path
) -> None:
    other = make_world(tmp_path / "other", encoder="another")
    with pytest.raises(EncoderMismatchError, match="another encoder"):
        prune(trained, other, PruningPlan((0.5,)), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    taken = tmp_path / "taken"
    shutil.copytree(trained, taken)
    with pytest.raises(RunError, match="not empty"):
        prune(trained, world, PruningPlan((0.5,)), taken)
