"""Mamba-2 against transformers.Mamba2Model with the same weights: outputs and every gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from transformers import Mamba2Config, Mamba2Model

from nextvec.models import registry
from nextvec.models.architectures.mamba2 import RATES, STEP_SIZES, Mamba2, Mamba2Block, Mamba2Mixer
from nextvec.models.ops.ssd import CHUNK

D, H, LAYERS, HEAD_DIM, N, TAPS = 12, 32, 3, 16, 24, 4
TOLERANCE = 1e-4  # of the largest value; the reference computes in float32 inside, whatever its weights are


def mixer_pairs(ours: Mamba2Mixer, theirs: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Our parameters beside theirs."""
    return [
        (ours.project.weight, theirs.in_proj.weight),
        (ours.filters, theirs.conv1d.weight[:, 0]),
        (ours.filter_bias, theirs.conv1d.bias),
        (ours.dt_bias, theirs.dt_bias),
        (ours.log_rate, theirs.A_log),
        (ours.skip, theirs.D),
        (ours.norm_weight, theirs.norm.weight),
        (ours.out.weight, theirs.out_proj.weight),
    ]


def randomise(model: nn.Module) -> None:
    """Nothing keeps its initial value; the decays stay in the range that they have in training."""
    for name, parameter in model.named_parameters():
        if name.endswith("log_rate"):
            nn.init.uniform_(parameter, -1.0, math.log(RATES[1]))
        elif name.endswith("dt_bias"):
            nn.init.uniform_(parameter, -4.0, 1.0)
        else:
            nn.init.normal_(parameter, 0.1, 0.4)


def close(found: Tensor | None, expected: Tensor | None, what: str) -> None:
    assert found is not None, what
    assert expected is not None, what
    assert expected.abs().max() > 0, what
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max(), what


@pytest.mark.parametrize("time", [19, CHUNK + 6])
def test_as_transformers_mamba2(time: int) -> None:
    torch.manual_seed(0)
    sizes = {"hidden": H, "layers": LAYERS, "head_dim": HEAD_DIM, "state": N, "taps": TAPS, "dropout": 0.0}
    model = registry.build("mamba2", "brief", D, **sizes).double()
    assert isinstance(model, Mamba2)
    randomise(model)
    config = Mamba2Config(
        hidden_size=H,
        num_hidden_layers=LAYERS,
        expand=2,
        head_dim=HEAD_DIM,
        num_heads=2 * H // HEAD_DIM,
        state_size=N,
        conv_kernel=TAPS,
        n_groups=1,
        vocab_size=8,
        residual_in_fp32=False,
        chunk_size=16,
    )
    reference = Mamba2Model(config).double().eval()
    couples = [(model.norm.weight, reference.norm_f.weight)]
    for own, other in zip(model.layers, reference.layers, strict=True):
        assert isinstance(own, Mamba2Block)
        couples += [(own.norm.weight, other.norm.weight), *mixer_pairs(own.mixer, other.mixer)]
    with torch.no_grad():
        for own, other in couples:
            other.copy_(own)
    x, weight = torch.randn(2, 2, time, D, dtype=torch.float64)
    raw = model(x).raw
    (raw * weight).sum().backward()
    ours = [own.grad for own, _ in couples]
    outside = {name: p.grad for name, p in model.named_parameters() if name.startswith(("embed", "head"))}
    assert sum(p.grad.numel() for p in model.parameters() if p.grad is not None) == sum(
        gradient.numel() for gradient in (*ours, *outside.values()) if gradient is not None
    )

    model.zero_grad()
    hidden = reference(inputs_embeds=model.embed(x), use_cache=False).last_hidden_state
    expected = model.head(hidden)
    close(raw, expected, "output")
    (expected * weight).sum().backward()
    for name, gradient in outside.items():
        close(gradient, model.get_parameter(name).grad, name)
    with torch.no_grad():
        for parameter in (*reference.layers.parameters(), *reference.norm_f.parameters()):
            assert parameter.grad is not None
            parameter.copy_(parameter.grad)  # so that `mixer_pairs` cuts the gradients as it cut the weights
    for i, (gradient, (_, other)) in enumerate(zip(ours, couples, strict=True)):
        close(gradient, other, f"couple {i}")


def test_fresh_rates_and_step_sizes_are_the_papers() -> None:
    torch.manual_seed(0)
    mixer = Mamba2Mixer(64, 4096, 2, 8, TAPS)
    rates, sizes = mixer.log_rate.exp(), nn.functional.softplus(mixer.dt_bias)
    assert RATES[0] <= rates.min() < 1.1
    assert 15.9 < rates.max() <= RATES[1] + 1e-4
    assert 0.99e-3 < sizes.min() < 1.1e-3
    assert 0.09 < sizes.max() < 1.01 * STEP_SIZES[1]
    assert abs(sizes.log().mean() - (math.log(1e-3) + math.log(0.1)) / 2) < 0.15  # uniform in the logarithm
    assert (mixer.skip == 1).all()
