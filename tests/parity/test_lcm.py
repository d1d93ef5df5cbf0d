"""Base-LCM against transformers.LlamaModel; both diffusions against plain forms written out in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel

from nextvec.models import registry
from nextvec.models.architectures.lcm import LCM
from nextvec.models.towers import EPS, LEVEL_WIDTH, DenoisingLayer, Layer, LevelEmbedding, TwoTowerAttention
from parity.operators import rms_norm_reference, rotate_reference, sinusoidal_reference

D, H, HEADS, FFN, LAYERS, T, LEVELS = 10, 24, 3, 40, 2, 9, 50
SIZES = {
    "hidden": H,
    "heads": HEADS,
    "ffn": FFN,
    "layers": LAYERS,
    "dropout": 0.0,
    "levels": LEVELS,
    "steps": 5,
}


def ours(preset: str, **overrides: object) -> LCM:
    torch.manual_seed(7)
    model = registry.build("lcm", preset, D, **{**SIZES, **overrides}).double()
    assert isinstance(model, LCM)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.1, 0.3)
    return model


def test_base_as_llama() -> None:
    model = ours("small")
    config = LlamaConfig(
        vocab_size=5,
        hidden_size=H,
        num_attention_heads=HEADS,
        intermediate_size=FFN,
        num_hidden_layers=LAYERS,
        rms_norm_eps=EPS,
    )
    llama = LlamaModel(config).double()
    couples: list[tuple[Tensor, Tensor]] = [(model.reader.norm.weight, llama.norm.weight)]
    for layer, other in zip(model.reader.layers, llama.layers, strict=True):
        assert isinstance(layer, Layer)
        attention, mlp = layer.attention, other.mlp
        keys, values = attention.key_value.weight.chunk(2)
        gate, up = layer.feed_forward.inner.weight.chunk(2)
        couples += [
            (attention.query.weight, other.self_attn.q_proj.weight),
            (keys, other.self_attn.k_proj.weight),
            (values, other.self_attn.v_proj.weight),
            (attention.out.weight, other.self_attn.o_proj.weight),
            (gate, mlp.gate_proj.weight),
            (up, mlp.up_proj.weight),
            (layer.feed_forward.outer.weight, mlp.down_proj.weight),
            (layer.norms[0].weight, other.input_layernorm.weight),
            (layer.norms[1].weight, other.post_attention_layernorm.weight),
        ]
    assert {id(other) for _, other in couples} | {id(llama.embed_tokens.weight)} == {
        id(p) for p in llama.parameters()
    }
    with torch.no_grad():
        for own, other in couples:
            other.copy_(own)
    x, wanted = torch.randn(2, 3, T, D, dtype=torch.float64)
    raw = model(x).raw
    gradients = torch.autograd.grad((raw * wanted).sum(), [*model.parameters()])
    by_name = dict(zip([name for name, _ in model.named_parameters()], gradients, strict=True))
    embedded = model.reader.embed(x)
    reference = model.head(llama(inputs_embeds=embedded).last_hidden_state)
    torch.testing.assert_close(raw, reference, rtol=0, atol=1e-5)  # rotary angles are float32 there
    model.zero_grad()
    (reference * wanted).sum().backward()
    for i, other in enumerate(llama.layers):
        name = f"reader.layers.{i}"
        own = {
            "attention.query": other.self_attn.q_proj.weight.grad,
            "attention.key_value": torch.cat(
                (other.self_attn.k_proj.weight.grad, other.self_attn.v_proj.weight.grad)
            ),
            "attention.out": other.self_attn.o_proj.weight.grad,
            "feed_forward.inner": torch.cat((other.mlp.gate_proj.weight.grad, other.mlp.up_proj.weight.grad)),
            "feed_forward.outer": other.mlp.down_proj.weight.grad,
            "norms.0": other.input_layernorm.weight.grad,
            "norms.1": other.post_attention_layernorm.weight.grad,
        }
        for part, gradient in own.items():
            torch.testing.assert_close(by_name[f"{name}.{part}.weight"], gradient, rtol=0, atol=1e-4)
    torch.testing.assert_close(by_name["reader.norm.weight"], llama.norm.weight.grad, rtol=0, atol=1e-4)
    for name in ("reader.embed.weight", "reader.embed.bias", "head.weight", "head.bias"):
        torch.testing.assert_close(by_name[name], model.get_parameter(name).grad, rtol=0, atol=1e-4)


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return rms_norm_reference(x, weight, EPS)


def swiglu(x: Tensor, layer: nn.Module) -> Tensor:
    gate, value = (x @ layer.inner.weight.T).chunk(2, -1)
    return (gate * torch.sigmoid(gate) * value) @ layer.outer.weight.T


def attend(q: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    """One query [H] over a list of keys and values [H], head by head."""
    out = []
    for head in range(HEADS):
        part = slice(head * H // HEADS, (head + 1) * H // HEADS)
        scores = torch.stack([q[part] @ k[part] for k in keys]) / math.sqrt(H // HEADS)
        weights = torch.softmax(scores, 0)
        out.append(sum(w * v[part] for w, v in zip(weights, values, strict=True)))
    return torch.cat(out)


def turned(x: Tensor, place: int) -> Tensor:
    """x [H] with every head turned as at position `place`."""
    return torch.cat([rotate_reference(part[None], place)[0] for part in x.split(H // HEADS)])


def projected(x: Tensor, attention: TwoTowerAttention, place: int) -> tuple[Tensor, Tensor, Tensor]:
    key, value = (attention.key_value.weight @ x).chunk(2)
    return turned(attention.query.weight @ x, place), turned(key, place), value


def stack(
    tokens: list[tuple[Tensor, int]], sees: list[list[int]], layers: nn.ModuleList, last: Tensor
) -> list[Tensor]:
    """A sequence of tokens (embedding [H], position), each of which sees some of them: the decoder, written
    out."""
    hidden = [token for token, _ in tokens]
    for layer in layers:
        assert isinstance(layer, Layer)
        q, k, v = zip(
            *(
                projected(norm(h, layer.norms[0].weight), layer.attention, place)
                for h, (_, place) in zip(hidden, tokens, strict=True)
            ),
            strict=True,
        )
        mixed = [
            h + layer.attention.out.weight @ attend(q[i], [k[j] for j in sees[i]], [v[j] for j in sees[i]])
            for i, h in enumerate(hidden)
        ]
        hidden = [h + swiglu(norm(h, layer.norms[1].weight), layer.feed_forward) for h in mixed]
    return [norm(h, last) for h in hidden]


def level_reference(embedding: LevelEmbedding, level: int) -> Tensor:
    waves = torch.tensor(sinusoidal_reference(level, 1, LEVEL_WIDTH)[0], dtype=torch.float64)
    inner = embedding.inner(waves)
    return embedding.outer(inner * torch.sigmoid(inner))


def one_tower_reference(model: LCM, x: Tensor, z: Tensor, level: list[int], free: list[bool]) -> Tensor:
    """Clean and noised vectors interleaved in one sequence, with the paper's mask. x, z [T, D] -> [T, H]."""
    assert model.level is not None
    tokens, sees = [], []
    for t in range(T):
        tokens.append((model.reader.embed(x[t]), t))
        sees.append(list(range(0, 2 * t + 1, 2)))
        tokens.append((model.reader.embed(z[t]) + level_reference(model.level, level[t]), t + 1))
        sees.append([2 * t + 1] if free[t] else [*range(0, 2 * t + 1, 2), 2 * t + 1])
    return torch.stack(stack(tokens, sees, model.reader.layers, model.reader.norm.weight)[1::2])


def two_tower_reference(model: LCM, x: Tensor, z: Tensor, level: list[int], free: list[bool]) -> Tensor:
    """The contextualizer, then every noised vector by itself. x, z [T, D] -> [T, H]."""
    denoiser = model.denoiser
    assert denoiser is not None
    tokens = [(model.reader.embed(x[t]), t) for t in range(T)]
    sees = [list(range(t + 1)) for t in range(T)]
    context = stack(tokens, sees, model.reader.layers, model.reader.norm.weight)
    zero = torch.zeros(H, dtype=torch.float64)
    out = []
    for t in range(T):
        hidden = denoiser.embed(z[t])
        condition = level_reference(denoiser.level, level[t])
        condition = condition * torch.sigmoid(condition)
        for layer in denoiser.layers:
            assert isinstance(layer, DenoisingLayer)
            m = layer.modulation(condition).split(H)
            inner = norm(hidden, layer.norms[0].weight) * (1 + m[1]) + m[0]
            own = layer.self_attention
            # without rotation, which a key of zeros and the query's own key do not feel
            q = own.query.weight @ inner
            k, v = (own.key_value.weight @ inner).chunk(2)
            hidden = hidden + m[2] * (own.out.weight @ attend(q, [k, zero], [v, zero]))
            inner = norm(hidden, layer.norms[1].weight) * (1 + m[4]) + m[3]
            cross = layer.cross_attention
            q = turned(cross.query.weight @ inner, t + 1)
            seen = [] if free[t] else [projected(context[s], cross, s)[1:] for s in range(t + 1)]
            keys, values = [zero, *(k for k, _ in seen)], [zero, *(v for _, v in seen)]
            hidden = hidden + m[5] * (cross.out.weight @ attend(q, keys, values))
            inner = norm(hidden, layer.norms[2].weight) * (1 + m[7]) + m[6]
            hidden = hidden + m[8] * swiglu(inner, layer.feed_forward)
        out.append(norm(hidden, denoiser.norm.weight))
    return torch.stack(out)


DIFFUSIONS = {"small_one_tower": one_tower_reference, "small_two_tower": two_tower_reference}


@pytest.mark.parametrize("preset", DIFFUSIONS)
def test_diffusions_as_written_out(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The point prediction and the loss, with all their gradients."""
    model, reference = ours(preset, unconditional=0.4, skip=False), DIFFUSIONS[preset]
    torch.manual_seed(1)
    x = torch.randn(1, T, D, dtype=torch.float64)
    target, mask = torch.randn(1, T, D, dtype=torch.float64), torch.rand(1, T) < 0.7
    drawn: dict[str, Tensor] = {}

    def remember(name: str) -> None:
        original = getattr(torch, name)

        def remembering(*args: object, **options: object) -> Tensor:
            drawn[name] = original(*args, **options)
            return drawn[name]

        monkeypatch.setattr(torch, name, remembering)

    for name in ("randint", "randn_like", "rand"):
        remember(name)
    prediction, own = model.learn(x, None, target, mask)
    level, noise = drawn["randint"][0].tolist(), drawn["randn_like"][0]
    free = (drawn["rand"][0] < 0.4).tolist()
    assert 0 < sum(free) < T
    (prediction.raw.sum() + own["generative"]).backward()
    ours_ = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()

    point = model.head(reference(model, x[0], model.start.expand(T, D), [LEVELS] * T, [False] * T))
    torch.testing.assert_close(prediction.raw[0], point, rtol=0, atol=1e-9)
    torch.testing.assert_close(model(x).raw[0], point, rtol=0, atol=1e-9)
    signal = torch.tensor([model.schedule.mix(t) for t in level], dtype=torch.float64)
    z = signal[:, :1] * target[0].masked_fill(~mask[0][:, None], 0) + signal[:, 1:] * noise
    output = model.head(reference(model, x[0], z, level, free))
    error = ((output - target[0]) ** 2).mean(-1)[mask[0]].mean()
    torch.testing.assert_close(own["generative"], error, rtol=0, atol=1e-9)
    (point.sum() + error).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours_[name], parameter.grad, rtol=0, atol=1e-8, msg=name)
