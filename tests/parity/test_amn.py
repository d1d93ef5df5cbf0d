"""AMN against the brief's picture, transcribed for one window at a time: outputs, attention and gradients."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextvec.models import registry
from nextvec.models.architectures.amn import AMN
from parity.compare import same_as_written_out

D, WIDTH, HIDDEN, T = 10, 6, 14, 9


def the_brief(model: AMN, window: Tensor) -> tuple[Tensor, Tensor]:
    """One window [c, D] -> the brief's output before normalising [D], and its attention [c]."""
    baseline = window.sum(0) / len(window)
    keys = [model.context_encoder(vector) for vector in window]
    query = model.query_encoder(baseline)
    scores = torch.stack([(query * key).sum() / math.sqrt(WIDTH) for key in keys])
    attention = scores.exp() / scores.exp().sum()
    weighted = sum(weight * vector for weight, vector in zip(attention, window, strict=True))
    first, _, norm_1, second, _, norm_2 = model.residual_net
    hidden = norm_1(F.gelu(first(torch.cat((baseline, weighted)))))
    hidden = norm_2(F.gelu(second(hidden)))
    return baseline + model.head(hidden), attention


def random_amn() -> tuple[AMN, Tensor]:
    torch.manual_seed(0)
    model = registry.build("amn", "brief", D, width=WIDTH, hidden=HIDDEN).double()
    assert isinstance(model, AMN)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.1, 0.6)
    return model, torch.randn(2, T, D, dtype=torch.float64)


def test_every_position_is_the_briefs_window() -> None:
    model, x = random_amn()
    prediction = model(x, return_attention=True)
    attention = prediction.extras["attention"]
    assert attention.shape == (2, T, T)
    expected = torch.zeros_like(x)
    for row in range(2):
        for t in range(T):
            expected[row, t], weights = the_brief(model, x[row, : t + 1])
            torch.testing.assert_close(attention[row, t, : t + 1], weights, rtol=1e-10, atol=1e-12)
            assert (attention[row, t, t + 1 :] == 0).all()
    same_as_written_out(model, prediction.raw, expected, 1e-9)


def test_attention_of_a_step_is_the_last_row() -> None:
    model, x = random_amn()
    whole = model(x, return_attention=True).extras["attention"]
    state = model.init_state(2)
    with torch.inference_mode():
        for t in range(T):
            prediction, state = model.step(x[:, t], state, return_attention=True)
            seen = prediction.extras["attention"]
            assert seen.shape == (2, t + 1)
            torch.testing.assert_close(seen, whole[:, t, : t + 1], rtol=1e-10, atol=1e-12)


def test_attention_only_on_request() -> None:
    model, x = random_amn()
    assert model(x).extras == {}
    assert model.step(x[:, 0], model.init_state(2))[0].extras == {}
