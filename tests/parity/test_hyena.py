"""Hyena against the direct O(T^2) long convolution in float64, its filters written as the paper's formulas:
outputs and every gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from nextvec.errors import ModelError
from nextvec.models import registry
from nextvec.models.architectures.hyena import Filters, Hyena, HyenaBlock, HyenaOperator
from nextvec.models.ops.parameters import hints_of
from parity.compare import feed_forward, layer_norm, linear, same_as_written_out
from parity.operators import causal_convolution_reference, short_convolution_reference

B, T, D, H, LAYERS, LONGEST = 2, 23, 6, 8, 3, 40


def random_model(order: int = 2) -> Hyena:
    torch.manual_seed(0)
    sizes = {"hidden": H, "layers": LAYERS, "ffn": 20, "order": order, "max_length": LONGEST, "dropout": 0.0}
    model = registry.build("hyena", "brief", D, **sizes).double()
    assert isinstance(model, Hyena)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "filters" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
            else:
                nn.init.normal_(parameter, 0.1, 0.5)
    return model


def filter_by_hand(filters: Filters, length: int) -> Tensor:
    """[count, H, length], one lag and one feature at a time."""
    lags = []
    for lag in range(length):
        t = lag / LONGEST
        turns = [1e-4 + i * (15 - 1e-4) / 15 for i in range(16)]
        features = [t, *(math.cos(2 * math.pi * t * f) for f in turns)]
        features += [-math.sin(2 * math.pi * t * f) for f in turns]
        y = torch.tensor(features, dtype=torch.float64)
        for layer in filters.inner:
            assert isinstance(layer, nn.Linear)
            y = torch.sin(filters.frequency * (layer.weight @ y + layer.bias))
        slow, fast = -math.log(0.01) / 1.5, -math.log(0.01) / 0.3
        fade = [math.exp(-t * (slow + c * (fast - slow) / (H - 1))) for c in range(H)]
        lags.append((filters.out.weight @ y).view(-1, H) * torch.tensor(fade, dtype=torch.float64))
    return torch.stack(lags, -1)


def operator_by_hand(operator: HyenaOperator, x: Tensor) -> Tensor:
    short = short_convolution_reference(linear(x, operator.project), operator.short, operator.short_bias)
    *gates, v = (part.transpose(1, 2) for part in short.split(H, -1))
    filters = filter_by_hand(operator.filters, x.shape[1])
    for i, long in enumerate(filters):
        v = v * gates[i]
        v = causal_convolution_reference(v, long) + operator.skip[i][:, None] * v
    return linear((v * gates[-1]).transpose(1, 2), operator.out)


def by_hand(model: Hyena, x: Tensor) -> Tensor:
    rows = linear(x, model.embed)
    for block in model.blocks:
        assert isinstance(block, HyenaBlock)
        rows = rows + operator_by_hand(block.operator, layer_norm(rows, block.norm))
        rows = feed_forward(rows, block.feed_forward)
    return linear(layer_norm(rows, model.norm), model.head)


@pytest.mark.parametrize("order", [2, 3])
def test_as_the_direct_convolution(order: int) -> None:
    model = random_model(order)
    x = torch.randn(B, T, D, dtype=torch.float64)
    same_as_written_out(model, model(x).raw, by_hand(model, x), 1e-8)


@pytest.mark.parametrize("order", [2, 3])
@torch.inference_mode()
def test_step_and_chunks_of_any_order(order: int) -> None:
    model, x = random_model(order), torch.randn(B, LONGEST, D, dtype=torch.float64)
    expected = model(x).raw
    state, rows = model.init_state(B), []
    for size in (1, 1, 7, 1, 20, 10):
        start = sum(row.shape[1] for row in rows)
        prediction, state = model.extend(x[:, start : start + size], state)
        rows.append(prediction.raw)
    torch.testing.assert_close(torch.cat(rows, 1), expected, rtol=1e-10, atol=1e-10)


@torch.inference_mode()
def test_beyond_the_declared_maximum_is_an_error() -> None:
    model = random_model()
    x = torch.randn(1, LONGEST + 1, D, dtype=torch.float64)
    message = f"at most {LONGEST} vectors.*{LONGEST + 1}"
    with pytest.raises(ModelError, match=message):
        model(x)
    _, state = model.extend(x[:, :LONGEST], model.init_state(1))
    with pytest.raises(ModelError, match=message):
        model.step(x[:, LONGEST], state)
    with pytest.raises(ModelError, match=message):
        model.extend(x, model.init_state(1))


def test_a_lag_weighs_the_same_at_every_length() -> None:
    filters = random_model().blocks[0].operator.filters
    torch.testing.assert_close(filters(7), filters(LONGEST)[..., :7], rtol=1e-12, atol=1e-12)


def test_the_window_fades_as_the_paper_says() -> None:
    """The slowest channel falls to 1 % after 1.5 times the longest sequence, the fastest after 0.3 times."""
    filters = Filters(1, 50, 1000)
    with torch.no_grad():
        filters.frequency.zero_()  # every sine is then 0 ..
        filters.out.weight.fill_(1)
        last = filters.inner[-1]
        drawn = filters(1000)
        assert drawn.abs().max() == 0
        filters.frequency.fill_(14.0)
        for layer in filters.inner:
            assert isinstance(layer, nn.Linear)
            layer.weight.zero_()
        assert isinstance(last, nn.Linear)
        last.bias.fill_(math.pi / 28)  # .. and now 1 in all of the last layer
        window = filters(1000)[0] / 64
    torch.testing.assert_close(window[:, 0], torch.ones(50))
    torch.testing.assert_close(window[-1, 300], torch.tensor(0.01))
    torch.testing.assert_close(window[0, 750], torch.tensor(0.1))


def test_filters_are_learned_slowly_and_not_decayed() -> None:
    for name, parameter in random_model().named_parameters():
        expected = {"weight_decay": 0.0, "max_lr": 1e-3} if "filters" in name else {}
        assert hints_of(parameter) == expected, name


def test_a_bfloat16_model_draws_the_same_filters() -> None:
    torch.manual_seed(0)
    filters = Filters(1, 16, 100)
    exact = filters(100)
    filters.bfloat16()
    assert {p.dtype for p in filters.parameters()} == {torch.float32}
    assert torch.equal(filters(100), exact)
    filters.double()
    assert {p.dtype for p in filters.parameters()} == {torch.float64}
