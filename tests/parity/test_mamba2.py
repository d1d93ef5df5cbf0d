"""Mamba-2 against transformers.Mamba2Model with the same weights: outputs and every gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from transformers import Mamba2Config, Mamba2Model

from nextvec.models import registry
from nextvec.models.architectures.mamba2 import CHUNK, RATES, STEP_SIZES, Mamba2, Mamba2Block, Mamba2Mixer
from parity.compare import Pairs
from parity.mamba import mixer_pairs, randomise, same_as_transformers

D, H, LAYERS, HEAD_DIM, N, TAPS = 12, 32, 3, 16, 24, 4


def pairs(model: Mamba2, reference: Mamba2Model) -> Pairs:
    """Our parameters beside theirs."""
    found = [(model.norm.weight, reference.norm_f.weight)]
    for own, other in zip(model.blocks, reference.layers, strict=True):
        assert isinstance(own, Mamba2Block)
        found += [(own.norm.weight, other.norm.weight), *mixer_pairs(own.mixer, other.mixer)]
    return found


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
    same_as_transformers(model, reference, lambda: pairs(model, reference), (2, time, D))


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
