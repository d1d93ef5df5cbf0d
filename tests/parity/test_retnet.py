"""RetNet against torchscale's MultiScaleRetention with the same weights: outputs and every gradient.

Each layer's retention is torchscale's; norms, SwiGLU and residual sums around it are written out here as
torchscale's decoder layer has them (its decoder itself imports packages that a CPU does not need).
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchscale.component.multiscale_retention import MultiScaleRetention

from nextvec.models import registry
from nextvec.models.architectures.retnet import EPS, Retention, RetNet, RetNetLayer

D, H, LAYERS, HEADS, VALUES, FFN = 12, 32, 3, 2, 48, 40
WIDTH = H // HEADS
TOLERANCE = 1e-4  # of the largest value; the reference's group norm computes in float32

Positions = tuple[tuple[Tensor, Tensor], Tensor]


def positions(time: int) -> Positions:
    """Sines and cosines [T, d] and the normalised decays [h, T, T], from the paper's equations 3 and 7."""
    exact = torch.float64
    rates = 10_000 ** -torch.linspace(0, 1, WIDTH // 2, dtype=exact)
    angle = (torch.arange(time)[:, None] * rates).repeat_interleave(2, 1)
    apart = torch.arange(time)[:, None] - torch.arange(time)
    decays = torch.stack([(1 - 2.0 ** (-5 - h)) ** apart.to(exact) for h in range(HEADS)]).tril()
    return (angle.sin(), angle.cos()), decays / decays.sum(-1, keepdim=True).sqrt()


def pairs(layer: RetNetLayer, reference: MultiScaleRetention) -> list[tuple[Tensor, Tensor]]:
    """Our retention's parameters beside theirs."""
    own = layer.retention
    query, key = own.query_key.weight.chunk(2)
    value, gate = own.value_gate.weight.chunk(2)
    return [
        (query, reference.q_proj.weight),
        (key, reference.k_proj.weight),
        (value, reference.v_proj.weight),
        (gate, reference.g_proj.weight),
        (own.out.weight, reference.out_proj.weight),
    ]


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + EPS).sqrt() * weight


def run(model: RetNet, references: list[MultiScaleRetention], x: Tensor) -> Tensor:
    """The model with torchscale's retentions in it: x [B, T, D] -> raw [B, T, D]."""
    hidden, where = model.embed(x), positions(x.shape[1])
    for layer, reference in zip(model.layers, references, strict=True):
        assert isinstance(layer, RetNetLayer)
        hidden = hidden + reference(rms(hidden, layer.norm.weight), where)
        gate, value = (rms(hidden, layer.ffn_norm.weight) @ layer.ffn.inner.weight.T).chunk(2, -1)
        hidden = hidden + (F.silu(gate) * value) @ layer.ffn.outer.weight.T
    expected: Tensor = model.head(rms(hidden, model.norm.weight))
    return expected


def close(found: Tensor | None, expected: Tensor | None, what: str) -> None:
    assert found is not None, what
    assert expected is not None, what
    assert expected.abs().max() > 0, what
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max(), what


@pytest.mark.parametrize("time", [9, 70])
def test_as_torchscale(time: int) -> None:
    torch.manual_seed(0)
    sizes = {"hidden": H, "layers": LAYERS, "heads": HEADS, "values": VALUES, "ffn": FFN, "dropout": 0.0}
    model = registry.build("retnet", "brief", D, **sizes).double()
    assert isinstance(model, RetNet)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.1, 0.4)
    arguments = SimpleNamespace(multiway=False, layernorm_eps=EPS)
    references = [MultiScaleRetention(arguments, H, VALUES, HEADS).double() for _ in range(LAYERS)]
    layers = [layer for layer in model.layers if isinstance(layer, RetNetLayer)]
    assert len(layers) == LAYERS
    with torch.no_grad():
        for layer, reference in zip(layers, references, strict=True):
            for own, other in pairs(layer, reference):
                other.copy_(own)

    x, weight = torch.randn(2, 2, time, D, dtype=torch.float64)
    raw = model(x).raw
    (raw * weight).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    expected = run(model, references, x)
    close(raw, expected, "output")
    (expected * weight).sum().backward()
    outside = [name for name in gradients if ".retention." not in name]
    for name in outside:
        close(gradients[name], model.get_parameter(name).grad, name)
    with torch.no_grad():  # so that `pairs` cuts the gradients as it cut the weights
        for name, parameter in model.named_parameters():
            gradient = gradients[name]
            assert gradient is not None, name
            parameter.copy_(gradient)
        for parameter in (p for reference in references for p in reference.parameters()):
            assert parameter.grad is not None
            parameter.copy_(parameter.grad)
    compared = [pair for both in zip(layers, references, strict=True) for pair in pairs(*both)]
    counted = sum(own.numel() for own, _ in compared) + sum(gradients[name].numel() for name in outside)
    assert counted == sum(p.numel() for p in model.parameters())
    for i, (gradient, other) in enumerate(compared):
        close(gradient, other, f"couple {i}")


def test_fresh_weights_are_distributed_as_torchscales() -> None:
    torch.manual_seed(0)
    ours = Retention(128, 2, 256)
    theirs = MultiScaleRetention(SimpleNamespace(multiway=False, layernorm_eps=EPS), 128, 256, 2)
    query, key = ours.query_key.weight.chunk(2)
    value, gate = ours.value_gate.weight.chunk(2)
    couples = (
        (query, theirs.q_proj),
        (key, theirs.k_proj),
        (value, theirs.v_proj),
        (gate, theirs.g_proj),
        (ours.out.weight, theirs.out_proj),
    )
    for own, other in couples:
        assert own.shape == other.weight.shape
        assert abs(own.std() / other.weight.std() - 1) < 0.03
        assert abs(own.abs().max() / other.weight.abs().max() - 1) < 0.01
