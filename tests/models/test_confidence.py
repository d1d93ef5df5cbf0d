"""The temperature against its neighbours, and what the probability depends on."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nextvec.errors import ModelError
from nextvec.models.heads import ContinuationHead, fit_temperature


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_the_temperature_is_the_likeliest(true: float) -> None:
    generator = torch.Generator().manual_seed(0)
    fair = 2 * torch.randn(20_000, generator=generator, dtype=torch.float64)
    labels = torch.rand(20_000, generator=generator, dtype=torch.float64) < torch.sigmoid(fair)
    found = fit_temperature(fair * true, labels)
    assert found == pytest.approx(true, rel=0.05)

    def loss(temperature: float) -> float:
        return float(F.binary_cross_entropy_with_logits(fair * true / temperature, labels.double()))

    assert all(loss(found) <= loss(found * off) for off in (0.5, 0.99, 1.01, 2.0))


def test_the_temperature_has_limits() -> None:
    z = torch.tensor([2.0, 1.0, -1.0])
    assert fit_temperature(z, z > 0) == pytest.approx(0.05)  # separable: the surer the likelier
    assert fit_temperature(z, z < 0) == pytest.approx(20.0)  # always wrong: know nothing


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (torch.zeros(0), torch.zeros(0)),
        (torch.zeros(3), torch.zeros(2)),
        (torch.zeros(2, 2), torch.zeros(2, 2)),
        (torch.tensor([1.0, float("inf")]), torch.zeros(2)),
    ],
)
def test_what_cannot_be_calibrated(logits: torch.Tensor, labels: torch.Tensor) -> None:
    with pytest.raises(ModelError, match="cannot fit a temperature"):
        fit_temperature(logits, labels)


def test_an_untrained_probability_is_of_the_cosine_alone() -> None:
    head = ContinuationHead(4)
    predicted, candidate = torch.randn(5, 3), torch.randn(5, 3)
    evaluated = head(torch.randn(5, 4))
    logit = head.logit(evaluated, predicted, candidate)
    torch.testing.assert_close(logit, 10 * F.cosine_similarity(candidate, predicted, dim=-1) - 5)
    torch.testing.assert_close(head.logit(evaluated, 100 * predicted, candidate / 7), logit)
    head.temperature.fill_(2.0)
    torch.testing.assert_close(head.probability(logit), torch.sigmoid(logit / 2))
