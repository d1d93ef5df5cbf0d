"""Small samples that have everything a term may ask for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from nextvec.objectives.sample import Sample, Statistics

D = 6


def _sample(
    prediction: Tensor | None = None,
    *,
    seed: int = 0,
    K: int = 1,
    documents: tuple[int, ...] | None = (7, 7, 3, 5, 9),
    dtype: torch.dtype = torch.float64,
    padding: float = 0.0,
) -> Sample:
    """Five windows of up to three chunks, two of them of one document, the last one broken at its end."""
    draw = torch.Generator().manual_seed(seed)
    B, T = 5, 3
    lengths = torch.tensor([3, 2, 1, 3, 3])
    real = torch.arange(T) < lengths[:, None]
    broken = torch.zeros(B, T, dtype=torch.bool)
    broken[-1, 1:] = True
    mask = (real & ~broken).repeat_interleave(K, dim=1)
    shown = real.repeat_interleave(K, dim=1)
    drawn, target = (torch.randn(B, T * K, D, generator=draw, dtype=dtype) + 0.5 for _ in range(2))
    inputs = torch.randn(B, T, D, generator=draw, dtype=dtype) + 0.5
    target = target.masked_fill(~shown[..., None], padding)
    inputs = inputs.masked_fill(~real[..., None], padding)
    prediction = drawn if prediction is None else prediction
    other = torch.randn(B, T * K, D, generator=draw, dtype=dtype) + 0.5
    other[0, 0] = 0.0  # there is no other target
    first = prediction[:, ::K].masked_fill(~real[..., None], 1.0)
    return Sample(
        prediction=prediction,
        target=target,
        mask=mask,
        inputs=inputs,
        lengths=lengths,
        documents=None if documents is None else torch.tensor(documents),
        broken=broken,
        query=normalize(first.roll(1, -1), dim=-1),
        drawn=other,
        confidence=lambda candidate: 3.0 * cosine_similarity(candidate, first, dim=-1) - 0.5,
    )


def _statistics(*, rows: int = 40, seed: int = 100, dtype: torch.dtype = torch.float64) -> Statistics:
    """Of vectors that vary as the targets do, but not the same in every dimension."""
    draw = torch.Generator().manual_seed(seed)
    drawn = torch.randn(rows, D, generator=draw, dtype=dtype) * torch.linspace(0.5, 2.0, D, dtype=dtype) + 0.5
    return Statistics(drawn.mean(dim=0), drawn.std(dim=0), drawn)


@pytest.fixture(scope="session")
def sample() -> Callable[..., Sample]:
    """Makes samples."""
    return _sample


@pytest.fixture(scope="session")
def statistics() -> Callable[..., Statistics]:
    """Makes statistics."""
    return _statistics
