"""Kernel, chunk and step of a state space against the dense recurrence, forward and backward."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nextvec.models.architectures.s4 import (
    BLOCK,
    System,
    bilinear,
    hippo_legs,
    kernel,
    pack,
    scan,
    step,
    vandermonde,
    zero_order_hold,
)
from nextvec.models.ops.convolution import causal_convolution
from nextvec.models.ops.power_series import loop_inverse
from parity.operators import causal_convolution_reference, state_space_reference

H, N = 5, 8
LENGTHS = [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5]
Continuous = dict[str, Tensor]


def random_system(kind: str, modes: int = N) -> Continuous:
    """HiPPO and a little noise, as parameters."""
    torch.manual_seed(0)
    frequency, p = (
        torch.tensor(values, dtype=torch.float64).expand(H, modes) for values in hippo_legs(modes)
    )
    a = torch.complex(torch.full_like(p, -0.5), frequency)
    noise = torch.randn(4, H, modes, dtype=a.dtype)
    found = {"a": a - noise[0].real.abs() + 0.1j * noise[0].imag, "b": 1.4 * p + noise[2], "c": noise[3]}
    if kind == "dplr":
        found["p"] = p + 0.3 * noise[1]
    found["dt"] = torch.exp(torch.linspace(math.log(1e-3), math.log(0.1), H, dtype=torch.float64))
    return {key: value.requires_grad_() for key, value in found.items()}


def discretise(found: Continuous) -> System:
    return bilinear(**found) if "p" in found else zero_order_hold(**found)


def reference(found: Continuous, inputs: Tensor) -> Tensor:
    return state_space_reference(**{"p": None, **found}, inputs=inputs.double())  # type: ignore[arg-type]


def by_steps(system: System, x: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    rows, packed, pairs = [], pack(system), torch.view_as_real(x)
    for now in inputs.unbind(-1):
        y, pairs = step(packed, pairs, now)
        rows.append(y)
    return torch.stack(rows, -1), torch.view_as_complex(pairs)


def compare_gradients(ours: Tensor, theirs: Tensor, leaves: list[Tensor]) -> None:
    weights = torch.randn_like(theirs)
    found = torch.autograd.grad((ours * weights).sum(), leaves, retain_graph=True)
    expected = torch.autograd.grad((theirs * weights).sum(), leaves, retain_graph=True)
    for own, other in zip(found, expected, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(own, other, rtol=1e-7, atol=1e-9 * float(other.abs().max()))


@pytest.mark.parametrize("kind", ["dplr", "diagonal"])
@pytest.mark.parametrize("length", LENGTHS)
def test_three_forms_of_one_system(kind: str, length: int) -> None:
    found = random_system(kind)
    inputs = torch.randn(2, H, length, dtype=torch.float64, requires_grad=True)
    expected = reference(found, inputs)
    empty = torch.zeros(2, H, N, dtype=torch.complex128)
    leaves = [*found.values(), inputs]
    forms = {
        "kernel": causal_convolution(inputs, kernel(discretise(found), length, torch.float64)),
        "scan": scan(discretise(found), empty, inputs)[0],
        "step": by_steps(discretise(found), empty, inputs)[0],
    }
    for name, ours in forms.items():
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9, msg=name)
        compare_gradients(ours, expected, leaves)


@pytest.mark.parametrize("kind", ["dplr", "diagonal"])
def test_a_scan_goes_on_from_a_state(kind: str) -> None:
    found = random_system(kind)
    inputs = torch.randn(2, H, 90, dtype=torch.float64)
    begun = torch.randn(2, H, N, dtype=torch.complex128, requires_grad=True)
    outputs, state = scan(discretise(found), begun, inputs)
    expected, after = by_steps(discretise(found), begun, inputs)
    torch.testing.assert_close(outputs, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(state, after, rtol=1e-9, atol=1e-9)
    ours = torch.cat((outputs, torch.view_as_real(state).flatten(2)), -1)
    theirs = torch.cat((expected, torch.view_as_real(after).flatten(2)), -1)
    compare_gradients(ours, theirs, [*found.values(), begun])


@pytest.mark.parametrize("kind", ["dplr", "diagonal"])
@torch.no_grad()
def test_a_float32_kernel_of_full_size(kind: str) -> None:
    """64 numbers a channel, modes of up to 200 turns a unit of time: the kernel still is the recurrence's."""
    found = random_system(kind, modes=32)
    inputs = torch.randn(2, H, 257)
    expected = reference(found, inputs)
    convolved = causal_convolution(inputs, kernel(discretise(found), 257, torch.float32))
    assert convolved.dtype == torch.float32
    assert (convolved - expected).abs().max() < 3e-6 * expected.abs().max()


@pytest.mark.parametrize("length", LENGTHS)
def test_sums_of_powers(length: int) -> None:
    torch.manual_seed(0)
    rate = torch.complex(-torch.rand(H, N), 3 * torch.randn(H, N)).to(torch.complex128).requires_grad_()
    weights = torch.randn(3, H, N, dtype=torch.complex128, requires_grad=True)
    expected = torch.stack([2 * (weights * torch.exp(rate) ** k).sum(-1).real for k in range(length)], -1)
    found = vandermonde(rate, weights, length, torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    compare_gradients(found, expected, [weights] if length == 1 else [rate, weights])


@pytest.mark.parametrize("length", [1, 2, 3, 64, 100])
def test_the_loop_is_inverted(length: int) -> None:
    torch.manual_seed(0)
    looped = (0.3 * torch.randn(4, length, dtype=torch.float64)).requires_grad_()
    inverse = loop_inverse(looped)
    one = torch.cat((torch.ones(4, 1, dtype=torch.float64), looped[:, :-1]), 1)
    product = causal_convolution_reference(inverse, one)
    wanted = torch.zeros_like(product)
    wanted[:, 0] = 1
    size = float(inverse.detach().abs().max())
    torch.testing.assert_close(product, wanted, rtol=0, atol=1e-10 * size)
