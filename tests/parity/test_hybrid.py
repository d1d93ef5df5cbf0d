"""The hybrid against transformers.BambaModel with the same weights: outputs and every gradient.

Bamba's Mamba layers carry a SwiGLU too. In the reference their last projection is zero, so that they add
exactly nothing; the attention layers' SwiGLU is compared like everything else. Bamba's own step form is not a
reference: it differs from its parallel form.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from transformers import BambaConfig, BambaModel

from nextvec.models import registry
from nextvec.models.architectures.hybrid import AttentionBlock, Hybrid
from nextvec.models.architectures.mamba2 import RATES, Mamba2Block
from nextvec.models.ops.ssd import CHUNK

D, H, LAYERS, EVERY, HEADS, FFN, HEAD_DIM, N, TAPS = 12, 32, 5, 2, 4, 40, 16, 24, 4
TOLERANCE = 1e-4  # of the largest value; the reference computes in float32 inside, whatever its weights are


def pairs(model: Hybrid, reference: BambaModel) -> list[tuple[Tensor, Tensor]]:
    """Our parameters beside theirs; theirs keep queries, keys and values, and gate and value, apart."""
    found = [(model.norm.weight, reference.final_layernorm.weight)]
    for own, other in zip(model.layers, reference.layers, strict=True):
        found.append((own.norm.weight, other.input_layernorm.weight))
        if isinstance(own, Mamba2Block):
            mixer, mamba = own.mixer, other.mamba
            found += [
                (mixer.project.weight, mamba.in_proj.weight),
                (mixer.filters, mamba.conv1d.weight[:, 0]),
                (mixer.filter_bias, mamba.conv1d.bias),
                (mixer.dt_bias, mamba.dt_bias),
                (mixer.log_rate, mamba.A_log),
                (mixer.skip, mamba.D),
                (mixer.norm_weight, mamba.norm.weight),
                (mixer.out.weight, mamba.out_proj.weight),
            ]
            continue
        assert isinstance(own, AttentionBlock)
        attention, ffn = other.self_attn, other.feed_forward
        projections = attention.q_proj, attention.k_proj, attention.v_proj
        found += [(own.qkv.weight[i * H : (i + 1) * H], p.weight) for i, p in enumerate(projections)]
        found += [
            (own.out.weight, attention.o_proj.weight),
            (own.ffn_norm.weight, other.pre_ff_layernorm.weight),
            (own.ffn.inner.weight[:FFN], ffn.gate_proj.weight),
            (own.ffn.inner.weight[FFN:], ffn.up_proj.weight),
            (own.ffn.outer.weight, ffn.down_proj.weight),
        ]
    return found


def bamba() -> BambaModel:
    config = BambaConfig(
        hidden_size=H,
        intermediate_size=FFN,
        num_hidden_layers=LAYERS,
        attn_layer_indices=[i for i in range(LAYERS) if (i + 1) % EVERY == 0],
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        mamba_n_heads=2 * H // HEAD_DIM,
        mamba_d_state=N,
        mamba_d_conv=TAPS,
        mamba_n_groups=1,
        mamba_chunk_size=16,
        vocab_size=8,
        attn_implementation="eager",
    )
    reference = BambaModel(config).double().eval()
    for i, layer in enumerate(reference.layers):
        if (i + 1) % EVERY:
            nn.init.zeros_(layer.feed_forward.down_proj.weight)
    return reference


def hybrid() -> Hybrid:
    sizes = {"hidden": H, "layers": LAYERS, "head_dim": HEAD_DIM, "state": N, "taps": TAPS, "ffn": FFN}
    model = registry.build("hybrid", "brief", D, heads=HEADS, attention_every=EVERY, dropout=0.0, **sizes)
    assert isinstance(model, Hybrid)
    for name, parameter in model.named_parameters():
        if name.endswith("log_rate"):
            nn.init.uniform_(parameter, -1.0, math.log(RATES[1]))
        elif name.endswith("dt_bias"):
            nn.init.uniform_(parameter, -4.0, 1.0)
        else:
            nn.init.normal_(parameter, 0.1, 0.4)
    return model.double()


def close(found: Tensor | None, expected: Tensor | None, what: str) -> None:
    assert found is not None, what
    assert expected is not None, what
    assert expected.abs().max() > 0, what
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max(), what


@pytest.mark.parametrize("time", [19, CHUNK + 6])
def test_as_transformers_bamba(time: int) -> None:
    torch.manual_seed(0)
    model, reference = hybrid(), bamba()
    with torch.no_grad():
        for own, other in pairs(model, reference):
            other.copy_(own)
    x, weight = torch.randn(2, 2, time, D, dtype=torch.float64)
    raw = model(x).raw
    (raw * weight).sum().backward()
    outside = {name: p.grad for name, p in model.named_parameters() if name.startswith(("embed", "head"))}

    model_gradients = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    expected = model.head(reference(inputs_embeds=model.embed(x), use_cache=False).last_hidden_state)
    close(raw, expected, "output")
    (expected * weight).sum().backward()
    for name, gradient in outside.items():
        close(gradient, model.get_parameter(name).grad, name)
    with torch.no_grad():  # so that `pairs` cuts the gradients as it cut the weights
        for name, parameter in model.named_parameters():
            gradient = model_gradients[name]
            assert gradient is not None, name
            parameter.copy_(gradient)
        for parameter in (*reference.layers.parameters(), *reference.final_layernorm.parameters()):
            assert parameter.grad is not None
            parameter.copy_(parameter.grad)
    compared = pairs(model, reference)
    assert sum(p.numel() for p in model.parameters()) == sum(own.numel() for own, _ in compared) + sum(
        p.numel() for name, p in model.named_parameters() if name in outside
    )
    for i, (gradient, other) in enumerate(compared):
        close(gradient, other, f"couple {i}")
