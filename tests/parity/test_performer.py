"""The Performer against the paper's formulas in a float64 loop: outputs and every gradient. Its features."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nextvec.models import registry
from nextvec.models.architectures.performer import Performer, PerformerBlock
from nextvec.models.ops.parameters import count_parameters
from parity.compare import feed_forward, layer_norm, linear, same_as_written_out
from parity.operators import rotate_reference

B, D, T = 2, 6, 11
SIZES = {"hidden": 12, "layers": 3, "heads": 3, "head_dim": 6, "ffn": 20, "features": 10, "dropout": 0.0}
TOLERANCE = 1e-4  # of the largest value; the model adds a small constant to every feature, the paper none


def make(**overrides: object) -> Performer:
    torch.manual_seed(0)
    model = registry.build("performer", "brief", D, **{**SIZES, **overrides}).double()
    assert isinstance(model, Performer)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.1, 0.3)
    return model.eval()


def attention_loop(layer: PerformerBlock, x: Tensor) -> Tensor:
    """Equation 5 of the paper with its softmax features, one document, head, query and key at a time."""
    width = layer.head_dim
    normed = layer_norm(x, layer.norm)
    q, k, v = (normed @ w.T for w in layer.qkv.weight.chunk(3))
    out = torch.zeros(*x.shape[:2], layer.heads * width, dtype=x.dtype)
    for row in range(B):
        for head in range(layer.heads):
            part = slice(head * width, (head + 1) * width)
            queries, keys = (rotate_reference(y[row, :, part], 0) * width**-0.25 for y in (q, k))
            for t in range(T):
                query = (layer.directions @ queries[t] - queries[t].square().sum() / 2).exp()
                total, weights = torch.zeros(width, dtype=x.dtype), torch.zeros((), dtype=x.dtype)
                for s in range(t + 1):
                    key = (layer.directions @ keys[s] - keys[s].square().sum() / 2).exp()
                    total = total + (query @ key) * v[row, s, part]
                    weights = weights + query @ key
                out[row, t, part] = total / weights
    return x + linear(out, layer.out)


def model_loop(model: Performer, x: Tensor) -> Tensor:
    hidden = linear(x, model.embed)
    for block in model.blocks:
        assert isinstance(block, PerformerBlock)
        hidden = feed_forward(attention_loop(block, hidden), block.feed_forward)
    return linear(layer_norm(hidden, model.norm), model.head)


def test_as_the_paper_with_the_same_features() -> None:
    model, x = make(), torch.randn(B, T, D, dtype=torch.float64)
    same_as_written_out(model, model(x).raw, model_loop(model, x), TOLERANCE)


def directions(model: Performer) -> Tensor:
    return torch.stack([layer.directions for layer in model.blocks])


def train(model: Performer, passes: int) -> list[Tensor]:
    """The directions used in each of so many training passes, none other than the forward pass's own."""
    used: list[Tensor] = []
    for _ in range(passes):
        model(torch.randn(1, 4, D)).raw.sum().backward()
        used.append(directions(model))
    return used


def test_features_are_redrawn_every_so_many_training_passes_and_never_else() -> None:
    model = make(redraw=3)
    fresh = directions(model)
    model(torch.randn(2, 9, D)).raw.sum().backward()
    assert torch.equal(directions(model), fresh)  # eval mode: any number of passes
    assert int(model.updates) == 0
    used = train(model.train(), 9)
    changed = [i for i in range(1, 9) if not torch.equal(used[i], used[i - 1])]
    assert torch.equal(used[0], fresh)
    assert changed == [3, 6]
    assert (used[3] != used[2]).all()  # every layer's
    state = model.init_state(1)
    for _ in range(4):
        _, state = model.step(torch.randn(1, D), state)
    assert int(model.updates) == 9


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_a_resumed_run_draws_the_same_features(stop: int) -> None:
    model = make(redraw=3).train()
    torch.manual_seed(5)
    train(model, stop)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    went_on = train(model, 5)
    resumed = make(redraw=3).train()
    resumed.load_state_dict(weights)
    torch.set_rng_state(random)
    for own, other in zip(train(resumed, 5), went_on, strict=True):
        assert torch.equal(own, other)


def test_a_backward_pass_may_wait_for_a_redraw() -> None:
    model = make(redraw=1).train()
    first = model(torch.randn(1, 4, D)).raw
    second = model(torch.randn(1, 4, D)).raw
    (first.sum() + second.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_huge_inputs_stay_finite_and_causal_in_float32() -> None:
    model, x = make().float(), torch.randn(1, 9, D)
    other = torch.cat((x[:, :5], 1e4 * x[:, 5:]), 1)
    with torch.no_grad():
        for layer in model.blocks:
            layer.qkv.weight.mul_(100)
        before, after = model(x).raw, model(other).raw
    assert after.isfinite().all()
    torch.testing.assert_close(after[:, :5], before[:, :5], rtol=1e-5, atol=1e-5)


def test_the_size_of_the_prds_snippet() -> None:
    with torch.device("meta"):
        count = count_parameters(registry.build("performer", "prd"))
    assert abs(count / 38.9e6 - 1) < 0.01
