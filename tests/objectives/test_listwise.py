"""The ranking term against a plain loop over positions and candidates."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from nextvec.errors import TrainingError
from nextvec.objectives import listwise
from nextvec.objectives.combine import Objective
from nextvec.objectives.config import LossConfig
from nextvec.objectives.sample import Sample


def by_hand(sample: Sample, temperature: float, near_duplicate: float) -> float:
    """The definition, one position and one candidate at a time."""
    B, T, _ = sample.inputs.shape
    K = sample.horizons
    lengths = [T] * B if sample.lengths is None else sample.lengths.tolist()
    documents = list(range(B)) if sample.documents is None else sample.documents.tolist()
    chunks: dict[tuple[int, int], torch.Tensor] = {}
    for b in range(B):
        for t in range(lengths[b]):
            chunks[b, t] = normalize(sample.inputs[b, t], dim=0)
        if sample.mask[b, (lengths[b] - 1) * K]:
            chunks[b, lengths[b]] = normalize(sample.target[b, (lengths[b] - 1) * K], dim=0)
    total, count = 0.0, 0
    for b in range(B):
        for t in range(T):
            if not sample.mask[b, t * K]:
                continue
            goal = normalize(sample.target[b, t * K], dim=0)
            true = float(sample.query[b, t] @ goal) / temperature
            scores = [true]
            for (row, place), chunk in chunks.items():
                read = row == b and place <= t
                other_window = row != b and documents[row] == documents[b]
                if not read and not other_window and float(chunk @ goal) < near_duplicate:
                    scores.append(float(sample.query[b, t] @ chunk) / temperature)
            total += math.log(sum(math.exp(s) for s in scores)) - true
            count += 1
    return total / count


def objective(**options) -> Objective:
    return Objective(LossConfig(mse=0.0, listwise=1.0, **options)).double()


@pytest.mark.parametrize("K", [1, 2])
@pytest.mark.parametrize("documents", [(7, 7, 3, 5, 9), None])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.3, "near_duplicate": 0.6}])
def test_it_is_the_plain_loop(sample, K, documents, options):
    one = sample(K=K, documents=documents)
    found = float(objective(**options)(one).total)
    assert found == pytest.approx(
        by_hand(one, options.get("temperature", 0.07), options.get("near_duplicate", 0.98)), rel=1e-9
    )


def test_blocks_change_nothing(sample, monkeypatch):
    """With room for a few scores only, value and gradient are the same."""
    one = sample()
    whole = one.query.clone().requires_grad_()
    objective()(replace(one, query=whole)).total.backward()
    monkeypatch.setattr(listwise, "SCORES", 30)
    pieces = one.query.clone().requires_grad_()
    loss = objective()(replace(one, query=pieces)).total
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(objective()(one).total), rel=1e-12)
    torch.testing.assert_close(pieces.grad, whole.grad, rtol=1e-9, atol=1e-12)


def test_the_true_query_is_better_than_any_other(sample):
    one = sample()
    goal = normalize(one.target, dim=-1)
    right = float(objective()(replace(one, query=goal)).total)
    wrong = float(objective()(replace(one, query=-goal)).total)
    assert right < float(objective()(one).total) < wrong


def test_a_model_without_a_query_is_refused_with_the_option_that_gives_one(sample):
    with pytest.raises(TrainingError, match=r"--set model\.options\.ranking=true"):
        objective()(replace(sample(), query=None))
