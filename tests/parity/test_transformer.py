"""The transformer against torch.nn.TransformerDecoder with the same weights: outputs and every gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nextvec.models import registry
from nextvec.models.architectures.transformer import Attention, DecoderLayer, Transformer
from parity.compare import Pairs, same_as_reference
from parity.operators import sinusoidal_reference

D, H, HEADS, FFN, LAYERS, T = 12, 32, 4, 56, 3, 19


def pairs(ours: Transformer, theirs: nn.TransformerDecoder) -> Pairs:
    """Our parameters beside theirs, shapes equal; theirs keep query, key and value in one tensor."""
    found: Pairs = []
    for layer, reference in zip(ours.layers, theirs.layers, strict=True):
        assert isinstance(layer, DecoderLayer)
        assert isinstance(reference, nn.TransformerDecoderLayer)
        attentions = (
            (layer.self_attention, reference.self_attn),
            (layer.cross_attention, reference.multihead_attn),
        )
        for own, other in attentions:
            assert isinstance(own, Attention)
            for kind in ("weight", "bias"):
                stacked = getattr(other, f"in_proj_{kind}")
                found.append((getattr(own.query, kind), stacked[:H]))
                found.append((getattr(own.key_value, kind), stacked[H:]))
                found.append((getattr(own.out, kind), getattr(other.out_proj, kind)))
        norms = zip(layer.norms, (reference.norm1, reference.norm2, reference.norm3), strict=True)
        linears = (layer.ffn_in, reference.linear1), (layer.ffn_out, reference.linear2)
        for own, other in (*norms, *linears):
            found += [(own.weight, other.weight), (own.bias, other.bias)]
    return found


def test_as_torch_transformer_decoder() -> None:
    torch.manual_seed(0)
    sizes = {"hidden": H, "layers": LAYERS, "heads": HEADS, "ffn": FFN, "dropout": 0.0}
    model = registry.build("transformer", "brief", D, **sizes).double()
    assert isinstance(model, Transformer)
    layer = nn.TransformerDecoderLayer(H, HEADS, FFN, dropout=0.0, batch_first=True)
    decoder = nn.TransformerDecoder(layer, LAYERS).double()
    for parameter in (*model.parameters(), *decoder.parameters()):
        nn.init.normal_(parameter, 0.1, 0.3)
    positions = torch.tensor(sinusoidal_reference(0, T, H), dtype=torch.float64)
    mask = torch.full((T, T), float("-inf"), dtype=torch.float64).triu(1)

    def run(x: Tensor) -> Tensor:
        context = model.embed(x) + positions
        raw: Tensor = model.head(decoder(context, context, tgt_mask=mask, memory_mask=mask))
        return raw

    x = torch.randn(3, T, D, dtype=torch.float64)
    same_as_reference(model, decoder, lambda: pairs(model, decoder), run, x, 1e-8)


def test_fresh_weights_are_distributed_as_torch_does() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(128, HEADS, 0.0), nn.MultiheadAttention(128, HEADS)
    projections = torch.cat((ours.query.weight, ours.key_value.weight))
    assert abs(projections.std() / theirs.in_proj_weight.std() - 1) < 0.02
    assert abs(projections.abs().max() / theirs.in_proj_weight.abs().max() - 1) < 0.01
    assert abs(ours.out.weight.std() / theirs.out_proj.weight.std() - 1) < 0.02
    biases = (ours.query.bias, ours.key_value.bias, ours.out.bias, theirs.in_proj_bias, theirs.out_proj.bias)
    assert all((bias == 0).all() for bias in biases)
