"""The causal Linformer against a float64 loop over queries: outputs and every gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nextvec.models import registry
from nextvec.models.architectures.linformer import Linformer, LinformerBlock
from parity.compare import feed_forward, layer_norm, linear, same_as_written_out
from parity.operators import rotate_reference

B, D, T = 2, 6, 13
SIZES = {"hidden": 12, "layers": 3, "heads": 3, "ffn": 20, "block": 4, "slots": 2, "dropout": 0.0}


def make(**overrides: object) -> Linformer:
    torch.manual_seed(0)
    model = registry.build("linformer", "brief", D, **{**SIZES, **overrides}).double()
    assert isinstance(model, Linformer)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.1, 0.4)
    return model.eval()


def attention_loop(layer: LinformerBlock, x: Tensor, *, full: bool = False) -> Tensor:
    """One document, head and query at a time; `full`: no slots, every earlier position itself."""
    width, (slots, block) = x.shape[-1] // layer.heads, layer.project_k.shape
    normed = layer_norm(x, layer.norm)
    q, k, v = (normed @ w.T for w in layer.qkv.weight.chunk(3))
    out = torch.zeros_like(x)
    for row in range(x.shape[0]):
        for head in range(layer.heads):
            part = slice(head * width, (head + 1) * width)
            queries, keys = (rotate_reference(y[row, :, part], 0) for y in (q, k))
            values = v[row, :, part]
            for t in range(x.shape[1]):
                start = 0 if full else t // block * block
                seen_k, seen_v = list(keys[start : t + 1]), list(values[start : t + 1])
                for first in range(0, start, block):
                    for r in range(slots):
                        seen_k.append(layer.project_k[r] @ keys[first : first + block])
                        seen_v.append(layer.project_v[r] @ values[first : first + block])
                weights = torch.softmax(torch.stack(seen_k) @ queries[t] / width**0.5, 0)
                out[row, t, part] = weights @ torch.stack(seen_v)
    return x + linear(out, layer.out)


def model_loop(model: Linformer, x: Tensor, *, full: bool = False) -> Tensor:
    hidden = linear(x, model.embed)
    for block in model.blocks:
        assert isinstance(block, LinformerBlock)
        hidden = feed_forward(attention_loop(block, hidden, full=full), block.feed_forward)
    return linear(layer_norm(hidden, model.norm), model.head)


def test_as_the_loop() -> None:
    model, x = make(), torch.randn(B, T, D, dtype=torch.float64)
    same_as_written_out(model, model(x).raw, model_loop(model, x), 1e-9)


def test_up_to_one_block_the_model_is_full_attention_and_beyond_it_is_not() -> None:
    model, x = make(block=8, slots=4), torch.randn(B, T, D, dtype=torch.float64)
    raw, full = model(x).raw, model_loop(model, x, full=True)
    torch.testing.assert_close(raw[:, :8], full[:, :8], rtol=1e-10, atol=1e-10)
    assert (raw[:, 8:] - full[:, 8:]).abs().amax((0, 2)).min() > 1e-4


def test_a_fresh_slot_is_the_mean_of_its_share_of_the_block() -> None:
    fresh = registry.build("linformer", "brief", D, **{**SIZES, "block": 6, "slots": 3})
    assert isinstance(fresh, Linformer)
    expected = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]]) / 2
    for layer in fresh.blocks:
        assert torch.equal(layer.project_k, expected)
        assert torch.equal(layer.project_v, expected)


def test_the_slots_grow_with_the_context_and_nothing_else_does() -> None:
    model, x = make(), torch.randn(1, 33, D, dtype=torch.float64)
    with torch.inference_mode():
        _, state = model.extend(x, model.init_state(1))
    assert state["own.0"].shape == (2, 1, 3, 4, 4)
    assert 33 // 4 * 2 <= state["slots.0"].shape[-2] <= 2 * 33 // 4 * 2
