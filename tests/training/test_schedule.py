"""Learning rates against torch's own schedulers and their definitions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.training.config import OptimConfig, Plateau, learning_rate


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from([0.5, 0.49999, 0.4999, 0.4, 0.3, 0.6]) | st.floats(1e-4, 2), min_size=1, max_size=40
    ),
    st.integers(0, 4),
    st.floats(0.1, 0.9),
)
def test_plateau_equals_torch(losses, patience, factor):
    config = OptimConfig(
        lr=5e-4, schedule="plateau", plateau_factor=factor, plateau_patience=patience, warmup=0.0
    )
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.lr)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=factor, patience=patience, eps=0.0)
    ours = Plateau()
    for epoch, loss in enumerate(losses):
        ours.update(loss, config)
        theirs.step(loss)
        assert learning_rate(config, epoch, len(losses), ours) == pytest.approx(
            optimiser.param_groups[0]["lr"], rel=1e-12
        )


def test_cosine_rises_then_falls_to_zero():
    config = OptimConfig(lr=1.0, schedule="cosine", warmup=0.1)
    rates = [learning_rate(config, u, 100, Plateau()) for u in range(101)]
    assert rates[:10] == pytest.approx([(u + 1) / 10 for u in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    assert learning_rate(config, 150, 100, Plateau()) == pytest.approx(0.0, abs=1e-12)  # never rises again


def test_constant_stays():
    config = OptimConfig(lr=0.3, schedule="constant", warmup=0.0)
    assert {learning_rate(config, u, 50, Plateau(factor=0.5)) for u in range(50)} == {0.3}


@pytest.mark.parametrize("schedule", ["constant", "cosine", "plateau"])
def test_warmup_rises_linearly_in_every_schedule(schedule):
    config = OptimConfig(lr=1.0, schedule=schedule, warmup=0.2)
    assert [learning_rate(config, u, 20, Plateau()) for u in range(4)] == pytest.approx(
        [0.25, 0.5, 0.75, 1.0]
    )
