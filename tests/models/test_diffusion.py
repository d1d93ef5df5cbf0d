"""The laws of the schedule and the sampler, and that they recover a distribution with two modes."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nextvec.models.towers import Schedule, denoise, guided

levels_and_steps = st.integers(1, 300).flatmap(lambda T: st.tuples(st.just(T), st.integers(1, T)))


@settings(deadline=None)
@given(st.integers(1, 1000))
def test_the_last_level_is_noise_alone(T: int) -> None:
    schedule = Schedule(T)
    assert schedule.mix(T) == (0.0, 1.0)  # exactly: a signal left over tells the network the mean
    assert schedule.mix(0) == (1.0, 0.0)
    mixes = [schedule.mix(t) for t in range(T + 1)]
    assert all(s * s + n * n == pytest.approx(1) for s, n in mixes)
    ratios = [s / n for s, n in mixes[1:]]
    assert all(before > after for before, after in pairwise(ratios))


def test_the_schedule_is_the_cosine_schedule() -> None:
    def share(t: float) -> float:
        return math.cos((t / 100 + 0.008) / 1.008 * math.pi / 2) ** 2

    for t in (1, 17, 50, 99):
        assert Schedule(100).mix(t)[0] ** 2 == pytest.approx(share(t) / share(0))


@settings(deadline=None)
@given(levels_and_steps)
def test_a_sampler_begins_at_the_noisiest_level_and_visits_others_once(sizes: tuple[int, int]) -> None:
    T, steps = sizes
    visited = Schedule(T).trailing(steps)
    assert len(visited) == steps + 1
    assert visited[0] == T
    assert visited[-1] == 0
    gaps = [a - b for a, b in pairwise(visited)]
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 1


def test_trailing_levels_by_hand() -> None:
    # T = 10 does not divide by 4: the gaps differ, and the next level is the one that is visited next
    assert Schedule(10).trailing(4) == [10, 8, 5, 2, 0]
    assert Schedule(100).trailing(1) == [100, 0]


@settings(deadline=None)
@given(st.integers(1, 100), st.integers(0, 2**16))
def test_what_is_known_of_two_gives_the_third(level: int, seed: int) -> None:
    """z_t = signal z0 + noise e; v = signal e - noise z0 (Salimans and Ho 2022): a rotation, and its
    inverse."""
    schedule = Schedule(100)
    torch.manual_seed(seed)
    z0, e = torch.randn(2, 3, 4, dtype=torch.float64)
    z = schedule.noised(z0, torch.full((3,), level), e)
    signal, noise = schedule.mix(level)
    v = signal * e - noise * z0
    torch.testing.assert_close(signal * z - noise * v, z0)
    torch.testing.assert_close(noise * z + signal * v, e)
    # a step to any lower level with the true z0 keeps just this noise, from the last level, too
    for following in {0, level // 2, level - 1}:
        step = schedule.step(z, z0, level, following, 0.0, torch.zeros_like(z))
        torch.testing.assert_close(step, schedule.noised(z0, torch.full((3,), following), e))


def test_fresh_noise_keeps_the_variance() -> None:
    schedule = Schedule(50)
    generator = torch.Generator().manual_seed(0)
    z0 = torch.full((100_000,), 2.0, dtype=torch.float64)
    for level, following in ((50, 40), (40, 7), (7, 1)):
        e, new = torch.randn(2, 100_000, generator=generator, dtype=torch.float64)
        z = schedule.noised(z0[:, None], torch.full((100_000,), level), e[:, None])[:, 0]
        for fresh in (0.0, 0.5, 1.0):
            down = schedule.step(z, z0, level, following, fresh, new)
            signal, noise = schedule.mix(following)
            assert float(down.mean()) == pytest.approx(2 * signal, abs=0.02)
            assert float(down.std()) == pytest.approx(noise, abs=0.01)


def test_an_ancestral_step_is_the_posterior() -> None:
    """Its mean and variance by Ho et al. 2020, equations 6 and 7, from single-level alphas and betas."""
    schedule = Schedule(20)
    (signal, noise), (before, left) = schedule.mix(12), schedule.mix(11)
    alpha = (signal / before) ** 2
    z, z0 = torch.tensor([1.3]), torch.tensor([-0.4])
    mean = before * (1 - alpha) / noise**2 * z0 + math.sqrt(alpha) * left**2 / noise**2 * z
    variance = left**2 / noise**2 * (1 - alpha)
    still = schedule.step(z, z0, 12, 11, 1.0, torch.zeros(1))
    moved = schedule.step(z, z0, 12, 11, 1.0, torch.ones(1))
    torch.testing.assert_close(still, mean)
    torch.testing.assert_close(moved - still, torch.tensor([math.sqrt(variance)]))


def two_modes(schedule: Schedule, shares: Tensor, modes: Tensor, width: float):
    """The exact E[z0 | z_t] where z0 is one of `modes` [M, D] with probability `shares` and a normal
    error."""

    def guess(z: Tensor, level: int) -> Tensor:
        signal, noise = schedule.mix(level)
        variance = noise**2 + (signal * width) ** 2
        distance = torch.cdist(z, signal * modes).square()
        which = torch.softmax(shares.log() - distance / (2 * variance), -1)
        centre = which @ modes
        return centre + signal * width**2 / variance * (z - signal * centre)

    return guess


@pytest.mark.parametrize(("fresh", "steps"), [(0.0, 40), (1.0, 40), (1.0, 100)])
def test_a_perfect_guess_samples_the_distribution(fresh: float, steps: int) -> None:
    schedule, generator = Schedule(100), torch.Generator().manual_seed(0)
    modes, shares, width = torch.tensor([[2.0, 0.0], [-1.0, 1.0]]), torch.tensor([0.3, 0.7]), 0.2
    start = torch.randn(4000, 2, generator=generator)
    z = denoise(schedule, two_modes(schedule, shares, modes, width), start, steps, fresh, generator)
    nearest = torch.cdist(z, modes).argmin(1)
    assert float((nearest == 0).float().mean()) == pytest.approx(0.3, abs=0.03)
    for i, mode in enumerate(modes):
        part = z[nearest == i]
        torch.testing.assert_close(part.mean(0), mode, rtol=0, atol=0.03)
        assert float(part.std(0).mean()) == pytest.approx(width, abs=0.05)


@settings(deadline=None)
@given(st.integers(1, 100), st.integers(0, 2**16))
def test_a_skip_is_the_best_linear_estimate(level: int, seed: int) -> None:
    schedule = Schedule(100)
    torch.manual_seed(seed)
    prior, free = torch.randn(2, 7, dtype=torch.float64)
    z0, e = prior + torch.randn(100_000, 7, dtype=torch.float64), torch.randn(100_000, 7, dtype=torch.float64)
    z = schedule.noised(z0, torch.full((100_000,), level), e)
    estimate = schedule.skip(z, prior, prior, level)  # of a network that has nothing to add to the prior
    missed = z0 - estimate
    assert missed.mean(0).abs().max() < 0.03
    assert (missed * (z - z.mean(0))).mean(0).abs().max() < 0.03  # z tells no more of what is missed
    assert float(missed.std()) == pytest.approx(schedule.mix(level)[1], rel=0.02)
    at = torch.tensor([level, 100])
    torch.testing.assert_close(
        schedule.skip(z[:2], z0[:2], None, at)[0], schedule.skip(z[:1], z0[:1], None, level)[0]
    )
    assert torch.equal(schedule.skip(free, z0, prior, 100), z0 + 0 * free)  # from noise alone: what is said


def test_guidance_by_hand() -> None:
    torch.manual_seed(0)
    condition, free = torch.randn(2, 5, 8)
    torch.testing.assert_close(guided(condition, free, 1.0, 0.7), condition)
    torch.testing.assert_close(guided(condition, free, 0.0, 0.0), free)
    torch.testing.assert_close(guided(condition, free, 3.0, 0.0), free + 3 * (condition - free))
    whole = guided(condition, free, 3.0, 1.0)
    torch.testing.assert_close(whole.std(-1), condition.std(-1))
    half = guided(condition, free, 3.0, 0.5)
    torch.testing.assert_close(half, (whole + guided(condition, free, 3.0, 0.0)) / 2)
