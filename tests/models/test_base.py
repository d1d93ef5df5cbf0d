"""The contract's input checks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nextvec.errors import ConfigError, ModelError
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


@pytest.mark.parametrize("query", [torch.zeros(1, 4), torch.zeros(4), torch.zeros(2, 4, dtype=torch.int64)])
def test_a_wrong_query_is_named(query: Tensor) -> None:
    model = registry.build("lstm", d_embed=4, hidden=8, conditional=True)
    with pytest.raises(ModelError, match="the query is"):
        model(torch.zeros(2, 3, 4), query=query)
    with pytest.raises(ModelError, match="the query is"):
        model.init_state(2, query=query)


def test_what_a_model_was_not_built_for_is_refused() -> None:
    model, x = registry.build("lstm", d_embed=4, hidden=8), torch.zeros(2, 3, 4)
    with pytest.raises(ModelError, match="conditional = true"):
        model(x, query=torch.zeros(2, 4))
    with pytest.raises(ModelError, match="confidence = true"):
        model.continuation(model(x), x)
    with pytest.raises(ModelError, match="no distribution to sample from"):
        model.sample(x, 3)
    with pytest.raises(ConfigError, match="gate = true needs a residual"):
        registry.build("lstm", d_embed=4, gate=True)


def test_the_query_is_in_the_models_scale() -> None:
    model = registry.build("lstm", d_embed=4, hidden=8, conditional=True).eval()
    torch.nn.init.normal_(model.condition.weight)
    x, query = torch.randn(2, 3, 4), torch.randn(2, 4)
    raw = model(x, query=query).raw
    model.scale.mul_(100)
    torch.testing.assert_close(model(100 * x, query=100 * query).raw, 100 * raw)


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
