"""Muon beside torch's own, its share of the parameters, and its state."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from nextvec.models import registry
from nextvec.training.build import make_optimiser
from nextvec.training.config import OptimConfig
from nextvec.training.muon import MuonWithAdamW, orthogonalised


def matrices() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in ((6, 4), (4, 9), (5, 5))]


def gradients(step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(p.shape, generator=generator) for p in matrices()]


def grouped(parameters: list[nn.Parameter], muon: bool, decay: float) -> list[dict]:
    return [{"params": parameters, "weight_decay": decay, "muon": muon}]


def test_updates_are_those_of_torch() -> None:
    ours, theirs = matrices(), matrices()
    one = MuonWithAdamW(grouped(ours, True, 0.1), 1e-2, 10.0, torch.bfloat16)
    other = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.1, adjust_lr_fn="original")
    for step in range(4):
        for mine, its, gradient in zip(ours, theirs, gradients(step), strict=True):
            mine.grad, its.grad = gradient.clone(), gradient.clone()
        one.step()
        other.step()
    for mine, its in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (6, 6), (1, 7)])
def test_every_singular_value_becomes_about_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    matrix = torch.randn(shape, dtype=torch.float64)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    made = orthogonalised(matrix, torch.float64)
    assert made.shape == matrix.shape
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.5
    assert values.max() < 1.3
    mixed = u.T @ made @ v.T  # in the singular directions of the matrix, nothing but their values
    torch.testing.assert_close(mixed, torch.diag(mixed.diag()), rtol=0, atol=1e-9)


def test_the_rest_is_adamw_and_everything_is_in_the_state() -> None:
    torch.manual_seed(0)
    model = registry.build("lcm", "small", 8, ranking=True, residual="averages", averages=True)
    optimiser = make_optimiser(model, nn.Module(), OptimConfig(optimiser="muon"), fused=False)
    assert isinstance(optimiser, MuonWithAdamW)
    names = {id(p): name for name, p in model.named_parameters()}
    by_muon = {names[id(p)] for g in optimiser.param_groups if g["muon"] for p in g["params"]}
    assert "reader.layers.0.attention.query.weight" in by_muon
    assert "averages.map.weight" in by_muon
    assert not [name for name in by_muon if name.startswith(("head", "ranker", "residual"))]
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimiser.step()
    assert len(optimiser.state) == len(names)
    other = make_optimiser(model, nn.Module(), OptimConfig(optimiser="muon"), fused=False)
    other.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    before = [p.detach().clone() for p in model.parameters()]
    optimiser.step()
    once = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), before, strict=True):
            parameter.copy_(value)
    other.step()
    for parameter, value in zip(model.parameters(), once, strict=True):
        torch.testing.assert_close(parameter, value, rtol=0, atol=0)
