"""The learned exponential averages against a plain loop, forward and backward, and what they start from."""

from __future__ import annotations

import pytest
import torch

from nextvec.data import least_squares as linear
from nextvec.errors import ModelError
from nextvec.models import registry
from nextvec.models.ops.parameters import hints_of
from nextvec.models.residual import BLOCK, DECAYS, ExponentialResidual, RidgeResidual, WeightsResidual
from parity.operators import ema_reference, weights_reference


@pytest.mark.parametrize("length", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3])
def test_parallel_chunked_and_step_forms_equal_the_reference(length: int) -> None:
    torch.manual_seed(0)
    module = ExponentialResidual().double()
    torch.nn.init.normal_(module.weights)
    x = torch.randn(2, length, 3, dtype=torch.float64, requires_grad=True)
    out = module(x)
    expected = ema_reference(x, module.weights)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)

    direction = torch.randn_like(out)
    got = torch.autograd.grad((out * direction).sum(), [x, module.weights])
    wanted = torch.autograd.grad((expected * direction).sum(), [x, module.weights])
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)

    state = module.init_state(2, 3, x.device, x.dtype)
    head, state = module.chunk(x[:, : length // 2 + 1], state)
    rows = [head]
    for x_t in x[:, length // 2 + 1 :].unbind(1):
        row, state = module.step(x_t, state)
        rows.append(row[:, None])
    torch.testing.assert_close(torch.cat(rows, 1), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("context", [1, 2, 5])
@pytest.mark.parametrize("length", [1, 2, 4, 5, 6, 17])
@pytest.mark.parametrize("kind", [WeightsResidual, RidgeResidual])
def test_position_weights_and_ridge_equal_the_reference(kind: type, length: int, context: int) -> None:
    torch.manual_seed(0)
    module = (RidgeResidual(context, 3) if kind is RidgeResidual else WeightsResidual(context)).double()
    parameters = list(module.parameters())
    for parameter in parameters:
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, length, 3, dtype=torch.float64, requires_grad=True)
    out, expected = module(x), weights_reference(x, *parameters)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)

    direction = torch.randn_like(out)
    got, wanted = (
        torch.autograd.grad((y * direction).sum(), [x, *parameters], materialize_grads=True)
        for y in (out, expected)
    )
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)

    for size in (1, 3):
        state, rows = module.init_state(2, 3, x.device, x.dtype), []
        for piece in x.split(size, 1):
            row, state = module.step(piece[:, 0], state) if size == 1 else module.chunk(piece, state)
            rows.append(row.view_as(piece))
        torch.testing.assert_close(torch.cat(rows, 1), expected, rtol=1e-12, atol=1e-12)


def test_unfitted_they_are_the_mean_of_what_is_there() -> None:
    x = torch.randn(2, 9, 4)
    expected = torch.stack([x[:, max(0, t - 2) : t + 1].mean(1) for t in range(9)], 1)
    for module in (WeightsResidual(3), RidgeResidual(3, 4)):
        torch.testing.assert_close(module(x), expected)


def test_a_solution_is_taken_whole_or_not_at_all() -> None:
    module = RidgeResidual(2, 3)
    before = {name: value.clone() for name, value in module.named_parameters()}
    table, matrix = torch.randn(2, 2, dtype=torch.float64), torch.randn(2, 3, 3)
    for wrong in (
        {"weights": table},
        {"weights": table, "deviation": matrix[:1]},
        {"weights": table, "deviation": matrix, "more": table},
        {"weights": table, "deviation": matrix * float("nan")},
    ):
        with pytest.raises(ModelError, match=r"RidgeResidual cannot take.*\[2, 3, 3\]"):
            module.fit(**wrong)
        assert all(torch.equal(value, before[name]) for name, value in module.named_parameters())
    module.fit(weights=table, deviation=matrix)
    assert torch.equal(module.weights, table.float())
    assert torch.equal(module.deviation, matrix)


def test_fitted_scalars_are_not_decayed_away() -> None:
    for module in (ExponentialResidual(), WeightsResidual(3), RidgeResidual(3, 4)):
        assert hints_of(module.weights) == {"weight_decay": 0.0}
    assert not hints_of(RidgeResidual(3, 4).deviation)  # decay pulls it towards the position weights


def test_the_judges_averages_have_the_same_decays() -> None:
    assert linear.DECAYS == DECAYS


@pytest.mark.parametrize("name", registry.names())
@torch.inference_mode()
def test_an_untrained_model_is_just_its_baseline(name: str) -> None:
    model = registry.build(name, d_embed=8, residual="ema").eval()
    x = torch.randn(2, 9, 8)
    torch.testing.assert_close(model(x).raw, ema_reference(x, [1 / len(DECAYS)] * len(DECAYS)))


@torch.inference_mode()
def test_autocast_does_not_round_the_averages() -> None:
    module, x = ExponentialResidual(), torch.randn(1, 40, 4)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = module(x)
    torch.testing.assert_close(rounded, module(x), rtol=0, atol=0)
