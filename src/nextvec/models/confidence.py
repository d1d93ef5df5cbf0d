"""How sure a model is that a given vector continues what it has read, as a probability.

The head is two numbers a position, made from the hidden state: how steeply, and from which cosine on, a
candidate close to the prediction is believed. The probability is calibrated by one temperature, fitted on
validation (Guo et al., On Calibration of Modern Neural Networks, 2017).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextvec.errors import ModelError

STEEPNESS, CENTRE = 10.0, 0.5  # of an untrained head: the logit is 10 (cos - 0.5)
LOWEST, HIGHEST = 0.05, 20.0  # of a temperature


class ContinuationHead(nn.Module):
    """Logit of "this candidate continues this context": steepness * cos(candidate, prediction) - offset.

    Attributes:
        temperature: 0-dim buffer, saved with the model: the probability is sigmoid(logit / temperature).
    """

    temperature: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.judge = nn.Linear(width, 2)
        nn.init.zeros_(self.judge.weight)
        with torch.no_grad():
            self.judge.bias.copy_(torch.tensor([math.log(STEEPNESS), STEEPNESS * CENTRE]))
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., H] -> [..., 2]: log of the steepness, and the offset."""
        judged: Tensor = self.judge(hidden)
        return judged.to(self.temperature.dtype)

    def logit(self, judged: Tensor, predicted: Tensor, candidate: Tensor) -> Tensor:
        """judged [..., 2], predicted and candidate [..., D] of any length -> logits [...]."""
        steepness, offset = judged.unbind(-1)
        return steepness.exp() * F.cosine_similarity(candidate, predicted, dim=-1) - offset

    def probability(self, logit: Tensor) -> Tensor:
        """Calibrated probabilities in [0, 1], same shape."""
        return torch.sigmoid(logit / self.temperature)


@torch.no_grad()
def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature that makes sigmoid(logits / temperature) most likely for labels (0 or 1), both [N].

    The likelihood has one maximum over 1 / temperature (it is concave in it); bisection on its derivative in
    float64 finds it, between 1/20 and 20.

    Raises:
        ModelError: shapes differ, nothing to fit on, or a logit that is not finite.
    """
    if logits.shape != labels.shape or logits.ndim != 1 or not len(logits) or not logits.isfinite().all():
        raise ModelError(
            f"cannot fit a temperature to logits {list(logits.shape)} and labels {list(labels.shape)}",
            remedy="give finite logits [N] and as many labels, at least one",
        )
    z, y = logits.double(), labels.double()
    low, high = 1 / HIGHEST, 1 / LOWEST
    for _ in range(60):
        middle = math.sqrt(low * high)
        # Derivative of the mean log likelihood by the inverse temperature; it falls as that grows.
        rises = float(((y - torch.sigmoid(middle * z)) * z).mean()) > 0
        low, high = (middle, high) if rises else (low, middle)
    return 1 / math.sqrt(low * high)
