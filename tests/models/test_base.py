"""The contract's input checks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nextvec.errors import ModelError
from nextvec.models import registry


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(2, 3, 5),
        torch.zeros(2, 4),
        torch.zeros(2, 0, 4),
        torch.zeros(2, 3, 4, dtype=torch.int64),
    ],
    ids=["dimension", "axes", "empty", "integers"],
)
def test_a_wrong_input_is_named(x: Tensor) -> None:
    model = registry.build("lstm", d_embed=4, hidden=8)
    with pytest.raises(ModelError, match=r"lstm: the input is .*shape \[batch, time, 4\]"):
        model(x)
    with pytest.raises(ModelError, match=r"shape \[batch, time, 4\]"):
        model.extend(x, model.init_state(2))


def test_a_wrong_step_input_is_named() -> None:
    model = registry.build("lstm", d_embed=4, hidden=8)
    with pytest.raises(ModelError, match=r"shape \[batch, 4\]"):
        model.step(torch.zeros(2, 5), model.init_state(2))


def test_one_length_per_row() -> None:
    model = registry.build("lstm", d_embed=4, hidden=8)
    with pytest.raises(ModelError, match="lengths"):
        model(torch.zeros(2, 3, 4), torch.tensor([1, 2, 3]))


def test_the_state_takes_the_asked_dtype() -> None:
    model = registry.build("gru", d_embed=4, hidden=8, residual="mean")
    kinds = {key: value.dtype for key, value in model.init_state(3, "cpu", torch.float64).items()}
    assert kinds == {"h": torch.float64, "residual.sum": torch.float64, "residual.count": torch.int64}


def test_running_mean_stays_exact_in_bfloat16() -> None:
    """A bfloat16 sum of ones stops at 256; the mean of equal vectors must stay that vector."""
    model = registry.build("mlp", d_embed=4, hidden=8, residual="mean").to(torch.bfloat16)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.zero_()
        ones = torch.ones(1, 2000, 4, dtype=torch.bfloat16)
        assert torch.equal(model(ones).raw, ones)
