"""S4 against the dense recurrence in float64 (outputs and every gradient), and its kernel against S4's own
algorithm at the roots of unity."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextvec.models import registry
from nextvec.models.architectures.s4 import S4, S4Block, StateSpace, hippo_legs, kernel
from nextvec.models.ops.parameters import hints_of
from parity.compare import feed_forward, layer_norm, linear, same_as_written_out
from parity.operators import state_space_reference

B, T, D, H, N, LAYERS = 2, 37, 6, 8, 12, 3
KERNELS = ["dplr", "diagonal"]


def random_model(kind: str) -> S4:
    """Every parameter random, around its initial value where that is what makes sense."""
    torch.manual_seed(0)
    sizes = {"hidden": H, "layers": LAYERS, "state": N, "ffn": 20, "dropout": 0.0, "kernel": kind}
    model = registry.build("s4", "brief", D, **sizes).double()
    assert isinstance(model, S4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "space" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                nn.init.normal_(parameter, 0.1, 0.5)
    return model


def continuous(space: StateSpace) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor]:
    """A, P, B, C and dt as the papers write them."""
    a = torch.complex(-torch.exp(space.log_decay), space.frequency)
    c = torch.complex(space.out[..., 0], space.out[..., 1])
    if not hasattr(space, "low_rank"):
        return a, None, torch.ones_like(a), c, torch.exp(space.log_dt)
    p, b = (torch.complex(pair[..., 0], pair[..., 1]) for pair in (space.low_rank, space.into))
    return a, p, b, c, torch.exp(space.log_dt)


def dense(model: S4, x: Tensor) -> Tensor:
    rows = linear(x, model.embed)
    for block in model.blocks:
        assert isinstance(block, S4Block)
        u = layer_norm(rows, block.norm).transpose(1, 2)
        y = state_space_reference(*continuous(block.space), u) + block.space.skip[:, None] * u
        wide = linear(F.gelu(y.transpose(1, 2)), block.glu)
        rows = feed_forward(rows + wide[..., :H] * torch.sigmoid(wide[..., H:]), block.feed_forward)
    return linear(layer_norm(rows, model.norm), model.head)


@pytest.mark.parametrize("kind", KERNELS)
def test_as_the_dense_recurrence(kind: str) -> None:
    model = random_model(kind)
    x = torch.randn(B, T, D, dtype=torch.float64)
    same_as_written_out(model, model(x).raw, dense(model, x), 1e-7)


def test_the_kernel_as_at_the_roots_of_unity() -> None:
    """Gu et al., 2022, algorithm 1: Cauchy products at the roots of unity, Woodbury, an inverse FFT."""
    space = random_model("dplr").blocks[0].space
    assert isinstance(space, StateSpace)
    length = 51  # odd: at the root -1 the formula has a pole
    a, p, b, c, dt = (torch.cat((z, z.conj()), -1) if z.ndim > 1 else z for z in continuous(space))
    unit, half = torch.eye(N, dtype=a.dtype), dt[:, None, None] / 2
    matrix = torch.diag_embed(a) - p[:, :, None] * p.conj()[:, None]
    transition = torch.linalg.solve(unit - half * matrix, unit + half * matrix)
    cut = (c[:, None] @ (unit - torch.linalg.matrix_power(transition, length)))[:, 0]
    roots = torch.exp(torch.arange(length, dtype=torch.float64) * (-2j * math.pi / length))
    g = 2 / dt[:, None] * (1 - roots) / (1 + roots)
    cauchy = 1 / (g[..., None] - a[:, None])  # [H, length, N]

    def product(left: Tensor, right: Tensor) -> Tensor:
        return ((left * right)[:, None] * cauchy).sum(-1)

    woodbury = product(cut, p) * product(p.conj(), b) / (1 + product(p.conj(), p))
    at_roots = 2 / (1 + roots) * (product(cut, b) - woodbury)
    ours = torch.fft.fft(kernel(space.system(), length, torch.float64))
    torch.testing.assert_close(ours, at_roots, rtol=1e-8, atol=1e-8)


def test_starts_as_hippo_legs() -> None:
    """diag(a) - p p* has the eigenvalues, and from B the impulse response, of HiPPO-LegS."""
    n = np.arange(N)
    legs = -np.tril(np.sqrt(np.outer(2 * n + 1, 2 * n + 1)), -1) - np.diag(n + 1.0)
    frequency, p = (np.array(values) for values in hippo_legs(N // 2))
    a = np.concatenate((-0.5 + 1j * frequency, -0.5 - 1j * frequency))
    p = np.concatenate((p, p))
    ours = np.diag(a) - np.outer(p, p)
    np.testing.assert_allclose(np.sort(np.linalg.eigvals(ours).real), -np.arange(N, 0.0, -1), rtol=1e-4)
    into = np.sqrt(2 * n + 1.0)
    for power in range(6):  # p' A^k B does not depend on the basis (p is B / sqrt(2))
        theirs = into @ np.linalg.matrix_power(legs, power) @ into
        found = math.sqrt(2) * p @ np.linalg.matrix_power(ours, power) @ (math.sqrt(2) * p)
        np.testing.assert_allclose(found, theirs, rtol=1e-9)


def test_starts_as_the_papers_say() -> None:
    torch.manual_seed(0)
    for kind in KERNELS:
        space = registry.build("s4", "brief", D, hidden=2000, layers=1, kernel=kind).blocks[0].space
        log_dt = space.log_dt.detach()
        assert math.log(1e-3) <= log_dt.min() < math.log(1.1e-3)
        assert math.log(0.09) < log_dt.max() <= math.log(0.1)
        assert abs(log_dt.mean() - math.log(1e-2)) < 0.1  # uniform: its mean is the middle
        torch.testing.assert_close(space.log_decay.exp(), torch.full((2000, 32), 0.5))
    lin = space.frequency.detach()
    torch.testing.assert_close(lin, math.pi * torch.arange(32.0).expand(2000, 32))
    assert abs(space.out.square().sum(-1).mean() - 1) < 0.02  # complex, of unit variance


@pytest.mark.parametrize("kind", KERNELS)
def test_the_dynamics_are_learned_slowly_and_not_decayed(kind: str) -> None:
    space = random_model(kind).blocks[0].space
    slow = {name for name, p in space.named_parameters() if hints_of(p)}
    dynamics = {"log_dt", "log_decay", "frequency"} | ({"low_rank", "into"} if kind == "dplr" else set())
    assert slow == dynamics
    for name in slow:
        assert hints_of(space.get_parameter(name)) == {"weight_decay": 0.0, "max_lr": 1e-3}


@pytest.mark.parametrize("kind", KERNELS)
def test_stable_whatever_is_learned(kind: str) -> None:
    """However large p grows, an impulse dies away."""
    space = random_model(kind).blocks[0].space
    with torch.no_grad():
        for parameter in space.parameters():
            parameter.copy_(3 * torch.randn_like(parameter))
        space.log_decay.abs_()
        space.log_dt.uniform_(-3, -2)
        response = kernel(space.system(), 2000, torch.float64).abs()
    assert response[:, -100:].max() < 1e-6 * response[:, :100].max()
