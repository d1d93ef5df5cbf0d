"""RWKV's two operators against their equations, forward and backward, and where floating point is narrow."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nextvec.errors import ConfigError
from nextvec.models import registry
from nextvec.models.ops.wkv import CHUNK, empty_state, wkv4, wkv4_step, wkv7, wkv7_step
from parity.operators import wkv4_reference, wkv7_reference

LENGTHS = [1, 5, CHUNK - 1, CHUNK, CHUNK + 1, 70]


def inputs_7(T: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """r, log_w, k, v, a, b as RWKV-7 gives them, decays over their whole range."""
    generator = torch.Generator().manual_seed(T)
    r, w, k, v, key, rate = torch.randn(6, 2, T, 2, 16, generator=generator, dtype=torch.float64).unbind()
    key = F.normalize(key, dim=-1)
    tensors = (r, -0.6065 * torch.sigmoid(3 * w), k, v, -key, key * torch.sigmoid(rate))
    return [t.to(dtype).requires_grad_() for t in tensors]


def inputs_4(T: int, H: int = 6) -> list[Tensor]:
    """log_w, u, k, v."""
    generator = torch.Generator().manual_seed(T)
    w, u = torch.randn(2, H, generator=generator, dtype=torch.float64)
    k, v = torch.randn(2, 3, T, H, generator=generator, dtype=torch.float64)
    return [t.requires_grad_() for t in (-w.exp(), u, 3 * k, v)]


def same(ours: Tensor, reference: Tensor, leaves: list[Tensor], atol: float = 1e-11) -> None:
    torch.testing.assert_close(ours, reference, rtol=0, atol=atol)
    weights = torch.randn_like(reference)
    gradients = [
        torch.autograd.grad((out * weights).sum(), leaves, retain_graph=True, materialize_grads=True)
        for out in (ours, reference)
    ]
    for own, other in zip(*gradients, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=atol)


@pytest.mark.parametrize("T", LENGTHS)
def test_wkv7_is_the_equation(T: int) -> None:
    x = inputs_7(T)
    same(wkv7(*x)[0], wkv7_reference(*x)[0], x)
    state = torch.randn(2, 2, 16, 16, dtype=torch.float64, requires_grad=True)
    for ours, reference in zip(wkv7(*x, state), wkv7_reference(*x, state), strict=True):
        same(ours, reference, [*x, state])


def test_wkv7_step_is_the_equation() -> None:
    x = inputs_7(9)
    expected, last = wkv7_reference(*x)
    state = torch.zeros(2, 2, 16, 16, dtype=torch.float64)
    for t in range(9):
        out, state = wkv7_step(*(y[:, t] for y in x), state)
        torch.testing.assert_close(out, expected[:, t])
    torch.testing.assert_close(state, last)


@pytest.mark.parametrize("extreme", ["fastest decay", "one key over and over", "no decay at all"])
def test_wkv7_holds_in_float32(extreme: str) -> None:
    """Where a chunk's decays span most, and where its triangular system is hardest."""
    r, log_w, k, v, a, b = inputs_7(256)
    if extreme == "fastest decay":
        log_w = torch.full_like(log_w, -0.6065)
    elif extreme == "no decay at all":
        log_w = torch.zeros_like(log_w)
    else:
        a = a[:, :1, :1].expand_as(a)
        log_w, k, b = torch.full_like(log_w, -1e-3), -a, -a
    x = [t.detach().requires_grad_() for t in (r, log_w, k, v, a, b)]
    expected = wkv7_reference(*x)[0]
    narrow = [t.detach().float().requires_grad_() for t in x]
    out = wkv7(*narrow)[0]
    assert (out - expected).abs().max() < 1e-5 * expected.abs().max()
    exact = torch.autograd.grad(expected.square().sum(), x)
    for own, other in zip(torch.autograd.grad(out.square().sum(), narrow), exact, strict=True):
        assert (own - other).abs().max() < 1e-4 * other.abs().max()


@pytest.mark.parametrize("T", LENGTHS)
def test_wkv4_is_the_equation(T: int) -> None:
    x = inputs_4(T)
    out, last = wkv4(*x)
    same(out, wkv4_reference(*x), x)
    state = empty_state(3, 6, out.device, out.dtype)
    steps = []
    for t in range(T):
        y, state = wkv4_step(x[0], x[1], x[2][:, t], x[3][:, t], state)
        steps.append(y)
    torch.testing.assert_close(torch.stack(steps, 1), out)
    torch.testing.assert_close(state[:, :2] * state[:, 2:].exp(), last[:, :2] * last[:, 2:].exp())


@pytest.mark.parametrize("cut", [1, 8, 37, 64])
def test_wkv4_goes_on_from_a_state(cut: int) -> None:
    log_w, u, k, v = inputs_4(70)
    first, state = wkv4(log_w, u, k[:, :cut], v[:, :cut])
    second, _ = wkv4(log_w, u, k[:, cut:], v[:, cut:], state)
    same(torch.cat((first, second), 1), wkv4_reference(log_w, u, k, v), [log_w, u, k, v])


@pytest.mark.parametrize("size", [30.0, 1000.0])
def test_wkv4_takes_keys_of_any_size(size: float) -> None:
    """exp(1000) overflows in any dtype; the mean that it weighs does not."""
    log_w, u, k, v = inputs_4(70)
    k = (size * k).float().detach().requires_grad_()
    out, _ = wkv4(log_w.float(), u.float(), k, v.float())
    gradient = torch.autograd.grad(out.sum(), k)[0]
    assert gradient.isfinite().all()
    bounds = v.amin(1, keepdim=True) - 1e-6, v.amax(1, keepdim=True) + 1e-6
    assert ((out >= bounds[0]) & (out <= bounds[1])).all()
    if size == 30.0:
        torch.testing.assert_close(out.double(), wkv4_reference(log_w, u, k.double(), v), rtol=0, atol=2e-4)


def test_version_4_refuses_heads() -> None:
    with pytest.raises(ConfigError, match="set heads = 1"):
        registry.build("rwkv", "small-v4", 16, heads=4)
    with pytest.raises(ConfigError, match="does not divide"):
        registry.build("rwkv", "small", 16, heads=3)
