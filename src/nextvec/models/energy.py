"""The energy head: samples from noise, and a proper score to learn them by.

Paper: Shao et al., Continuous Autoregressive Language Models (CALM), arXiv 2510.27688, 2025, section 3: a
residual MLP turns noise into a vector, told by the hidden state at every block. Deviations: RMSNorm before
each block, one target instead of draws from an autoencoder's posterior, and a point prediction.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor, nn

from nextvec.models.generation import GenerativeHead
from nextvec.models.ops.norms import RMSNorm
from nextvec.models.ops.swiglu import SwiGLU

NOISE = 64  # uniform numbers a sample
BLOCKS = 2
POINT_PAIRS = 4


class EnergyBlock(nn.Module):
    """e + SwiGLU(Linear(RMSNorm(e)) + Linear(h))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width, 1e-6)
        self.own = nn.Linear(width, width, bias=False)
        self.told = nn.Linear(width, width)
        self.mix = SwiGLU(width, width)

    def forward(self, e: Tensor, hidden: Tensor) -> Tensor:
        """e [n, ..., H] of n samples, hidden [..., H] -> [n, ..., H]."""
        out: Tensor = e + self.mix(self.own(self.norm(e)) + self.told(hidden))
        return out


class EnergyHead(GenerativeHead):
    """H -> D with noise; called without, it gives the mean of 8 samples whose noise is fixed and saved.

    That noise comes in pairs of opposite sign, so that whatever is linear in it cancels in the mean.

    Attributes:
        pairs: [4, NOISE] buffer, saved with the model: the fixed noise, to be taken with both signs.
    """

    draws = 4
    pairs: Tensor

    def __init__(self, width: int, d_embed: int) -> None:
        super().__init__()
        self.start = nn.Linear(NOISE, width)
        self.blocks = nn.ModuleList(EnergyBlock(width) for _ in range(BLOCKS))
        self.norm = RMSNorm(width, 1e-6)
        self.out = nn.Linear(width, d_embed)
        self.register_buffer("pairs", torch.rand(POINT_PAIRS, NOISE) - 0.5)

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., H] -> the point prediction [..., D]."""
        noise = torch.cat((self.pairs, -self.pairs)).view(-1, *(1,) * (hidden.ndim - 1), NOISE)
        # The mean of a linear layer's outputs is its output of the mean: one product instead of eight.
        point: Tensor = self.out(self._mixed(hidden, noise).mean(0))
        return point

    def draw(self, hidden: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
        shape, kind = (count, *hidden.shape[:-1], NOISE), self.pairs.dtype
        noise = torch.rand(shape, generator=generator, device=hidden.device, dtype=kind) - 0.5
        samples: Tensor = self.out(self._mixed(hidden, noise))
        return samples

    def _mixed(self, hidden: Tensor, noise: Tensor) -> Tensor:
        """hidden [..., H] and noise [n, ..., NOISE], which broadcasts to it -> [n, ..., H]."""
        e = self.start(noise)
        for block in self.blocks:
            e = block(e, hidden)
        normed: Tensor = self.norm(e)
        return normed

    def score(self, samples: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        return energy_loss(samples, target, mask)


def energy_loss(samples: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """2 E|x - y| - E|x - x'| of samples [n, B, T, D] and target [B, T, D], the mean where mask [B, T] is
    True.

    Gneiting and Raftery 2007, equation 22, times 2 (CALM's form), over pairs of different samples: unbiased
    for every n >= 2, and in the mean lowest for the true distribution. Distances are taken in float32 at
    least.
    """
    kind = torch.promote_types(samples.dtype, torch.float32)
    samples, target = samples.to(kind), target.to(kind)
    near = torch.linalg.vector_norm(samples - target, dim=-1).mean(0)
    # Equal samples (a silent head) have a distance without slope: torch gives 0 there, not NaN.
    apart = torch.stack([torch.linalg.vector_norm(a - b, dim=-1) for a, b in combinations(samples, 2)])
    loss = 2 * near - apart.mean(0)
    mean: Tensor = loss.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)
    return mean
