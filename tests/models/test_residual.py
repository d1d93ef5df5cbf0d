"""The learned exponential averages against a plain loop, forward and backward, and what they start from."""

from __future__ import annotations

import pytest
import torch

from nextvec.models import registry
from nextvec.models.residual import BLOCK, DECAYS, ExponentialAverages, ema_reference


@pytest.mark.parametrize("length", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3])
def test_parallel_chunked_and_step_forms_equal_the_reference(length: int) -> None:
    torch.manual_seed(0)
    module = ExponentialAverages().double()
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


@pytest.mark.parametrize("name", registry.names())
@torch.inference_mode()
def test_an_untrained_model_is_just_its_baseline(name: str) -> None:
    model = registry.build(name, d_embed=8, residual="ema").eval()
    x = torch.randn(2, 9, 8)
    torch.testing.assert_close(model(x).raw, ema_reference(x, [1 / len(DECAYS)] * len(DECAYS)))


@torch.inference_mode()
def test_autocast_does_not_round_the_averages() -> None:
    module, x = ExponentialAverages(), torch.randn(1, 40, 4)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = module(x)
    torch.testing.assert_close(rounded, module(x), rtol=0, atol=0)
