"""Diffusion of vectors: how noise is mixed in, level by level, and how it is taken out again.

A vector z0 at level t of T is z_t = signal_t z0 + noise_t e, e standard normal, signal_t^2 + noise_t^2 = 1.
Level 0 is the vector itself, level T noise alone. A network says of z_t what z0 was (x0-prediction).

Papers: Nichol and Dhariwal, Improved Denoising Diffusion Probabilistic Models, 2021 (cosine schedule); Lin et
al., Common Diffusion Noise Schedules and Sample Steps are Flawed, 2024 (zero terminal SNR, trailing levels,
rescaled guidance); Song et al., Denoising Diffusion Implicit Models, 2021 (the steps); Ho and Salimans,
Classifier-Free Diffusion Guidance, 2022.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

OFFSET = 0.008  # of the cosine schedule: level 1 is not quite without noise


@dataclass(frozen=True)
class Schedule:
    """The cosine schedule of `levels` levels, T, in closed form: nothing is stored."""

    levels: int

    def mix(self, level: int) -> tuple[float, float]:
        """signal_t and noise_t of one level: (1, 0) at 0, and exactly (0, 1) at T."""
        if level in (0, self.levels):
            return (1.0, 0.0) if level == 0 else (0.0, 1.0)

        def angle(t: float) -> float:
            return (t / self.levels + OFFSET) / (1 + OFFSET) * math.pi / 2

        signal = math.cos(angle(level)) / math.cos(angle(0))
        return signal, math.sqrt(1 - signal**2)

    def table(self, like: Tensor) -> Tensor:
        """[T + 1, 2]: signal and noise of every level, on the device and in the dtype of `like`."""
        rows = [self.mix(level) for level in range(self.levels + 1)]
        return torch.tensor(rows, device=like.device, dtype=like.dtype)

    def noised(self, z0: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        """z0 and noise [..., D] mixed at level [...] (integers 0..T)."""
        signal, share = self.table(z0)[level].unsqueeze(-1).unbind(-2)
        return signal * z0 + share * noise

    def skip(self, z: Tensor, said: Tensor, prior: Tensor | None, level: Tensor | int) -> Tensor:
        """An estimate of z0 that lets z itself through: signal z + noise (said - prior) + noise^2 prior.

        For z0 of variance 1 about the prior (0 where there is none), signal z + noise^2 prior is the best
        linear estimate from z, and noise the size of what it misses (Karras et al., Elucidating the Design
        Space of Diffusion-Based Generative Models, 2022, section 5). So what a network narrower than D says
        need not hold all of z. At level T this is `said`.

        Args:
            z, said, prior: [..., D]; `said` is what a network takes z0 to be.
            level: [...], or one for all.
        """
        signal, share = self.table(z)[level].unsqueeze(-1).unbind(-2)
        out = signal * z + share * said
        return out if prior is None else out + (share * share - share) * prior

    def trailing(self, steps: int) -> list[int]:
        """`steps` levels from T downwards, evenly spaced, and 0: the levels that a sampler visits.

        They begin at the noisiest, where training put no signal at all. The last gap ends at 0, whatever
        rounding did to the others, so that the next level is always the one that follows in this list.
        """
        return [round(self.levels * (1 - i / steps)) for i in range(steps)] + [0]

    def step(self, z: Tensor, z0: Tensor, level: int, following: int, fresh: float, noise: Tensor) -> Tensor:
        """From z at `level` to the lower level `following`, given what z0 [..., D] is taken to be.

        The noise in z is (z - signal z0) / noise_t, which is known at every level above 0: at T it is z
        itself. (To find z0 from a predicted noise one would divide by the signal, 0 at T.)

        Args:
            fresh: 0 keeps that noise (DDIM), 1 replaces as much as the ancestral sampler does.
            noise: standard normal, as z.
        """
        (signal, share), (next_signal, next_share) = self.mix(level), self.mix(following)
        kept = (z - signal * z0) / share
        new = fresh * (next_share / share) * math.sqrt(max(0.0, 1 - (signal / next_signal) ** 2))
        return next_signal * z0 + math.sqrt(max(0.0, next_share**2 - new**2)) * kept + new * noise


def guided(conditional: Tensor, free: Tensor, guidance: float, rescale: float) -> Tensor:
    """Away from what is said without context: free + guidance (conditional - free), all [..., D].

    Args:
        rescale: 0..1, how far to bring the result's standard deviation over D back to that of `conditional`,
            which guidance inflates (Lin et al. 2024, section 3.4).
    """
    pushed = torch.lerp(free, conditional, guidance)
    wide = pushed.std(-1, keepdim=True).clamp(min=torch.finfo(pushed.dtype).tiny)
    return pushed * (1 - rescale + rescale * conditional.std(-1, keepdim=True) / wide)


@torch.no_grad()
def denoise(
    schedule: Schedule,
    guess: Callable[[Tensor, int], Tensor],
    start: Tensor,
    steps: int,
    fresh: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sample: from noise `start` [..., D] down the trailing levels.

    Args:
        guess: z [..., D] and its level -> what z0 is taken to be.
        steps: how often it is asked, at most T.
        fresh: see `Schedule.step`.
    Returns: z0 [..., D].
    """
    z = start
    for level, following in pairwise(schedule.trailing(steps)):
        z0 = guess(z, level)
        noise = torch.zeros_like(z)
        if fresh and following:
            noise = torch.randn(z.shape, generator=generator, device=z.device, dtype=z.dtype)
        z = schedule.step(z, z0, level, following, fresh, noise) if following else z0
    return z
