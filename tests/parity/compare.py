"""How the parity tests compare a model with what it must be: outputs, and every gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nextvec.models.base import NextVectorModel

Pairs = list[tuple[Tensor, Tensor]]


def close(found: Tensor | None, expected: Tensor | None, what: str, tolerance: float) -> None:
    """Both are there and differ by at most `tolerance` of the largest value, which is not zero."""
    assert found is not None, what
    assert expected is not None, what
    assert expected.abs().max() > 0, what
    assert (found - expected).abs().max() <= tolerance * expected.abs().max(), what


def same_as_written_out(model: NextVectorModel, raw: Tensor, expected: Tensor, tolerance: float) -> None:
    """`expected` was computed from the model's own parameters, too: by a form written out in the test."""
    close(raw, expected, "output", tolerance)
    weights, parameters = torch.randn_like(raw), dict(model.named_parameters())
    ours = torch.autograd.grad((raw * weights).sum(), list(parameters.values()))
    theirs = torch.autograd.grad((expected * weights).sum(), list(parameters.values()))
    for name, own, other in zip(parameters, ours, theirs, strict=True):
        if name in model.no_gradient:  # zero by construction: what is left is rounding
            assert max(own.abs().max(), other.abs().max()) <= tolerance, name
        else:
            close(own, other, name, tolerance)


def same_as_reference(
    model: NextVectorModel,
    reference: nn.Module,
    pairs: Callable[[], Pairs],
    run: Callable[[Tensor], Tensor],
    x: Tensor,
    tolerance: float,
) -> None:
    """A model against another library's modules, which are given the same weights.

    Args:
        reference: the other library's modules.
        pairs: our parameters, or parts of them, beside those of the reference, equal in shape. Together with
            those that `run` takes from the model itself (such as input layer and head) they are all of ours.
        run: x [B, T, D] -> raw [B, T, D] with the reference in the place of our own modules.
    """
    with torch.no_grad():
        for own, other in pairs():
            other.copy_(own)
    weights = torch.randn_like(x)
    raw = model(x).raw
    (raw * weights).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    expected = run(x)
    close(raw, expected, "output", tolerance)
    (expected * weights).sum().backward()
    shared = {name: p for name, p in model.named_parameters() if p.grad is not None}
    for name, parameter in shared.items():
        close(gradients[name], parameter.grad, name, tolerance)
    with torch.no_grad():  # so that `pairs` cuts the gradients as it cut the weights
        for name, parameter in model.named_parameters():
            gradient = gradients[name]
            assert gradient is not None, name
            parameter.copy_(gradient)
        for parameter in reference.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    compared = pairs()
    counted = sum(own.numel() for own, _ in compared) + sum(p.numel() for p in shared.values())
    assert counted == sum(p.numel() for p in model.parameters())
    for i, (own, other) in enumerate(compared):
        close(own, other, f"couple {i}", tolerance)


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """x [..., H], by the formula."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """x [..., H] -> [..., out], by the formula."""
    return x @ layer.weight.T + layer.bias


def feed_forward(x: Tensor, half: nn.Module) -> Tensor:
    """`ops.layers.FeedForward` by its formula."""
    return x + linear(nn.functional.gelu(linear(layer_norm(x, half.norm), half.inner)), half.outer)
