"""The prediction after the last vector alone is the one that all positions together give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contract.lab import MODELS, D, make, vectors
from nextvec.models.residual import RESIDUALS, make_residual

LENGTHS = torch.tensor([7, 1, 4, 6])


@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_after_is_forward_at_the_last_vector(name: str) -> None:
    model, x = make(name, horizons=2), vectors(4, 7)
    rows = torch.arange(4)
    spoiled = x.clone()
    spoiled[torch.arange(7) >= LENGTHS[:, None]] = float("nan")
    for lengths in (None, LENGTHS):
        whole, alone = model(x, lengths), model.after(spoiled if lengths is not None else x, lengths)
        last = torch.full((4,), 6) if lengths is None else lengths - 1
        torch.testing.assert_close(alone.ahead, whole.ahead[rows, last], rtol=0, atol=2e-6)
        assert alone.raw.shape == (4, D)


@pytest.mark.parametrize("name", RESIDUALS)
@pytest.mark.parametrize("longest", [1, 3, 7, 130])
@torch.inference_mode()
def test_every_residual_after_the_last_vector(name: str, longest: int) -> None:
    torch.manual_seed(0)
    residual = make_residual(name, D, 5)
    for parameter in residual.parameters():
        parameter.add_(torch.randn_like(parameter))
    lengths = torch.tensor(np.random.default_rng(0).integers(1, longest + 1, 6))
    lengths[0] = longest
    x = vectors(6, longest).masked_fill((torch.arange(longest) >= lengths[:, None])[..., None], 0.0)
    whole, alone = residual(x), residual.after(x, lengths - 1)
    if name == "none":
        assert whole is None
        assert alone is None
        return
    torch.testing.assert_close(alone, whole[torch.arange(6), lengths - 1], rtol=0, atol=1e-5)
