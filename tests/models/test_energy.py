"""The energy head: a proper loss, a point that is always the same, samples that are not, on every
backbone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.errors import ModelError
from nextvec.evaluation.trajectory import energy_score
from nextvec.models import registry
from nextvec.models.heads import EnergyHead, energy_loss, zero_init_head

D = 6


def test_the_loss_is_twice_the_judges_score() -> None:
    torch.manual_seed(0)
    samples, target = torch.randn(4, 3, 5, D), torch.randn(3, 5, D)
    mask = torch.rand(3, 5) < 0.6
    score = energy_score(samples[:, mask].numpy(), target[mask].numpy())
    assert float(energy_loss(samples, target, mask)) == pytest.approx(2 * score.mean(), rel=1e-5)
    assert float(energy_loss(samples, target, torch.zeros_like(mask))) == 0
    bad = target.masked_fill(~mask[..., None], float("nan"))
    assert float(energy_loss(samples, bad, mask)) == pytest.approx(2 * score.mean(), rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.05, 3.0), st.floats(-2.0, 2.0), st.integers(0, 2**16))
def test_the_loss_is_proper(width: float, shift: float, seed: int) -> None:
    """Truth and forecast normal in three dimensions: nothing but the truth itself scores lowest."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(1, 20_000, 3, generator=generator)
    noise = torch.randn(2, 1, 20_000, 3, generator=generator)
    mask = torch.ones(1, 20_000, dtype=torch.bool)
    true, shifted = energy_loss(noise, target, mask), energy_loss(width * noise + shift, target, mask)
    assert float(shifted) > float(true) - 0.03
    if abs(shift) > 0.5 or not 0.6 < width < 1.7:
        assert float(shifted) > float(true)


def test_equal_samples_have_a_slope_to_learn_by() -> None:
    torch.manual_seed(0)
    head = EnergyHead(8, D)
    zero_init_head(head)
    hidden, target, mask = torch.randn(2, 3, 8), torch.randn(2, 3, D), torch.ones(2, 3, dtype=torch.bool)
    assert not head(hidden).any()
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        head.score(head.draw(hidden, head.draws), target, mask).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
        optimizer.step()
    assert all(p.grad.abs().max() > 1e-8 for p in head.parameters())
    samples = head.draw(hidden, 5)
    assert not torch.equal(samples[0], samples[1])


def test_the_point_is_the_mean_of_samples_with_the_saved_noise() -> None:
    torch.manual_seed(0)
    head = EnergyHead(8, D)
    hidden = torch.randn(2, 3, 8)
    point = head(hidden)
    noise = torch.cat((head.pairs, -head.pairs))
    torch.testing.assert_close(point, torch.stack([head.out(head._mixed(hidden, e)) for e in noise]).mean(0))
    assert torch.equal(point, head(hidden))
    assert set(head.state_dict()) > {"pairs"}
    drawn = head.draw(hidden, 4000, torch.Generator().manual_seed(1))
    spread = drawn.std(0)
    assert (
        float(((drawn.mean(0) - point).abs() / spread).max().detach()) < 1.5
    )  # eight samples are not all of them
    again = head.draw(hidden, 4000, torch.Generator().manual_seed(1))
    assert torch.equal(drawn, again)
    assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize("name", registry.names())
@pytest.mark.parametrize("residual", ["none", "last"])
def test_every_backbone_draws_and_learns(name: str, residual: str) -> None:
    torch.manual_seed(0)
    model = registry.build(name, "small", D, head="energy", residual=residual, standardise=True)
    assert model.generative
    model.scale.fill_(3.0)
    x, lengths = 3 * torch.randn(3, 7, D), torch.tensor([7, 2, 5])
    mask = torch.arange(7) < lengths[:, None]
    _, own = model.learn(x, lengths, x.roll(-1, 1), mask)
    assert own.keys() == {"generative"}
    own["generative"].backward()
    last = model.head.out.weight.grad
    assert last is not None
    assert last.isfinite().all()
    assert float(last.abs().max()) > 0
    model.eval()
    drawn = model.sample(x, 4, lengths, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (4, 3, D)
    for row, length in enumerate(lengths.tolist()):
        alone = model.sample(x[row : row + 1, :length], 2000, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(
            alone.mean(0)[0], model(x, lengths).raw[row, length - 1], rtol=0.3, atol=0.5
        )
    with pytest.raises(ModelError, match="no distribution"):
        registry.build("lstm", "small", D).sample(x, 2)


@pytest.mark.slow
def test_it_learns_two_modes() -> None:
    """After +1 comes +1 or -1 (3 : 1), after -1 always 0: the samples say so, a mean could not."""
    torch.manual_seed(0)
    model = registry.build("mlp", "small", 2, head="energy", hidden=32, context=1, dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(500):
        x = torch.sign(torch.randn(256, 1, 1)).expand(-1, -1, 2)
        flip = torch.where(torch.rand(256, 1, 1) < 0.25, -1.0, 1.0)
        y = torch.where(x > 0, flip.expand_as(x), 0.0)
        optimizer.zero_grad()
        model.learn(x, None, y, torch.ones(256, 1, dtype=torch.bool))[1]["generative"].backward()
        optimizer.step()
    model.eval()
    drawn = model.sample(torch.tensor([[[1.0, 1.0]], [[-1.0, -1.0]]]), 2000).detach().numpy()
    up = drawn[:, 0].mean(-1)
    assert np.mean(np.abs(np.abs(up) - 1) < 0.3) > 0.85
    assert np.mean(up > 0) == pytest.approx(0.75, abs=0.08)
    assert np.abs(drawn[:, 1]).mean() < 0.15
