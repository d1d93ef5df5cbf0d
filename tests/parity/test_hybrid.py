"""The hybrid against transformers.BambaModel with the same weights: outputs and every gradient.

Bamba's Mamba layers carry a SwiGLU too. In the reference their last projection is zero, so that they add
exactly nothing; the attention layers' SwiGLU is compared like everything else. Bamba's own step form is not a
reference: it differs from its parallel form.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import BambaConfig, BambaModel

from nextvec.models import registry
from nextvec.models.architectures.hybrid import AttentionBlock, Hybrid
from nextvec.models.architectures.mamba2 import CHUNK, Mamba2Block
from parity.compare import Pairs
from parity.mamba import mixer_pairs, randomise, same_as_transformers

D, H, LAYERS, EVERY, HEADS, FFN, HEAD_DIM, N, TAPS = 12, 32, 5, 2, 4, 40, 16, 24, 4


def pairs(model: Hybrid, reference: BambaModel) -> Pairs:
    """Our parameters beside theirs; theirs keep queries, keys and values, and gate and value, apart."""
    found = [(model.norm.weight, reference.final_layernorm.weight)]
    for own, other in zip(model.blocks, reference.layers, strict=True):
        found.append((own.norm.weight, other.input_layernorm.weight))
        if isinstance(own, Mamba2Block):
            found += mixer_pairs(own.mixer, other.mamba)
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
    randomise(model)
    return model.double()


@pytest.mark.parametrize("time", [19, CHUNK + 6])
def test_as_transformers_bamba(time: int) -> None:
    torch.manual_seed(0)
    model, reference = hybrid(), bamba()
    same_as_transformers(model, reference, lambda: pairs(model, reference), (2, time, D))
