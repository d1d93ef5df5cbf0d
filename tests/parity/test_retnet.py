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
from nextvec.models.architectures.retnet import EPS, Retention, RetNet, RetNetBlock
from parity.compare import Pairs, same_as_reference

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


def pairs(own: Retention, reference: MultiScaleRetention) -> Pairs:
    """Our retention's parameters beside theirs."""
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


def run(model: RetNet, references: nn.ModuleList, x: Tensor) -> Tensor:
    """The model with torchscale's retentions in it: x [B, T, D] -> raw [B, T, D]."""
    hidden, where = model.embed(x), positions(x.shape[1])
    for block, reference in zip(model.blocks, references, strict=True):
        assert isinstance(block, RetNetBlock)
        hidden = hidden + reference(rms(hidden, block.norm.weight), where)
        gate, value = (rms(hidden, block.ffn_norm.weight) @ block.ffn.inner.weight.T).chunk(2, -1)
        hidden = hidden + (F.silu(gate) * value) @ block.ffn.outer.weight.T
    expected: Tensor = model.head(rms(hidden, model.norm.weight))
    return expected


@pytest.mark.parametrize("time", [9, 70])
def test_as_torchscale(time: int) -> None:
    torch.manual_seed(0)
    sizes = {"hidden": H, "layers": LAYERS, "heads": HEADS, "values": VALUES, "ffn": FFN, "dropout": 0.0}
    model = registry.build("retnet", "brief", D, **sizes).double()
    assert isinstance(model, RetNet)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.1, 0.4)
    arguments = SimpleNamespace(multiway=False, layernorm_eps=EPS)
    references = nn.ModuleList(MultiScaleRetention(arguments, H, VALUES, HEADS) for _ in range(LAYERS))
    references.double()

    def all_pairs() -> Pairs:
        both = zip(model.blocks, references, strict=True)
        return [pair for block, reference in both for pair in pairs(block.retention, reference)]

    x = torch.randn(2, time, D, dtype=torch.float64)
    same_as_reference(model, references, all_pairs, lambda x: run(model, references, x), x, TOLERANCE)


def test_fresh_weights_are_distributed_as_torchscales() -> None:
    torch.manual_seed(0)
    ours = Retention(128, 2, 256)
    theirs = MultiScaleRetention(SimpleNamespace(multiway=False, layernorm_eps=EPS), 128, 256, 2)
    for own, other in pairs(ours, theirs):
        assert own.shape == other.shape
        assert abs(own.std() / other.std() - 1) < 0.03
        assert abs(own.abs().max() / other.abs().max() - 1) < 0.01
