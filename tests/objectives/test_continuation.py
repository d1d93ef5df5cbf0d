"""The confidence term."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from nextvec.errors import TrainingError
from nextvec.objectives.combine import Objective
from nextvec.objectives.config import LossConfig

OBJECTIVE = Objective(LossConfig(mse=0.0, continuation=1.0))


@pytest.mark.parametrize("K", [1, 2])
def test_true_and_broken_weigh_one_half_each(sample, K):
    one = sample(seed=1, K=K)
    logits = one.confidence(one.target[:, ::K])
    mask = one.mask[:, ::K]
    true = [math.log1p(math.exp(-v)) for v in logits[mask].tolist()]
    broken = [math.log1p(math.exp(v)) for v in logits[one.broken].tolist()]
    assert len(true) == 10
    assert len(broken) == 2
    expected = (sum(true) / len(true) + sum(broken) / len(broken)) / 2
    assert OBJECTIVE(one).total.item() == pytest.approx(expected)


def test_no_opinion_costs_log_2_whatever_share_is_broken(sample):
    one = replace(sample(seed=2), confidence=lambda candidate: 0.0 * candidate.sum(dim=-1))
    assert OBJECTIVE(one).total.item() == pytest.approx(math.log(2))


def test_a_batch_without_broken_ones_says_nothing(sample):
    one = sample(seed=3)
    leaf = one.prediction.requires_grad_()
    total = OBJECTIVE(replace(one, broken=torch.zeros_like(one.broken))).total
    total.backward()
    assert total.item() == 0
    assert (leaf.grad == 0).all()


@pytest.mark.parametrize(
    ("missing", "text"),
    [("confidence", r"model\.options\.confidence = true"), ("broken", r"data\.broken above 0")],
)
def test_what_is_missing_is_named(sample, missing, text):
    with pytest.raises(TrainingError, match=rf"loss\.continuation: .*{text}"):
        OBJECTIVE(replace(sample(), **{missing: None}))
