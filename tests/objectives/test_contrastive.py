"""InfoNCE and the context term against plain loops; what is a negative, the bank, the temperature."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.errors import ConfigError, TrainingError
from nextvec.objectives.combine import Objective
from nextvec.objectives.config import TEMPERATURES, LossConfig


def objective(statistics, name="infonce", **options):
    return Objective(LossConfig(**{"mse": 0.0, name: 1.0, **options}), statistics()).double()


def cos(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def positions(sample):
    """Every position that counts: (row, position, prediction, target), as numbers."""
    B, P = sample.mask.shape
    return [
        (b, p, sample.prediction[b, p].tolist(), sample.target[b, p].tolist())
        for b in range(B)
        for p in range(P)
        if sample.mask[b, p]
    ]


def cross_entropies(true, wrong):
    """Mean over positions with a wrong score of -log softmax of the true one."""
    losses = [
        math.log(sum(math.exp(s - t) for s in [t, *others]))
        for t, others in zip(true, wrong, strict=True)
        if others
    ]
    return sum(losses) / len(losses) if losses else 0.0


def plain_infonce(sample, temperature, hard, near, bank=(), drawn=False):
    """The term, position by position; `bank` holds (document, target)."""
    found = positions(sample)
    owner = (
        [b for b, *_ in found] if sample.documents is None else [int(sample.documents[b]) for b, *_ in found]
    )
    true = [cos(p, t) / temperature for _, _, p, t in found]
    forth, back = [], []
    for i, (_, _, prediction, target) in enumerate(found):
        negatives = [
            j
            for j, (*_, other) in enumerate(found)
            if j != i and (hard or owner[j] != owner[i]) and cos(other, target) < near
        ]
        kept = [t for d, t in bank if (hard or d != owner[i]) and cos(t, target) < near]
        other = sample.drawn[found[i][0], found[i][1]].tolist()
        kept += [other] if drawn and any(other) and cos(other, target) < near else []
        forth.append(
            [cos(prediction, t) / temperature for t in [*(found[j][3] for j in negatives), *kept]],
        )
        back.append([cos(found[j][2], target) / temperature for j in negatives])
    return cross_entropies(true, forth) + cross_entropies(true, back)


@pytest.mark.parametrize("near", [0.3, 0.98])
@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("documents", [None, (7, 7, 3, 5, 9), (1, 2, 1, 2, 1)])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("K", [1, 2])
def test_infonce_equals_a_plain_loop(sample, statistics, near, hard, documents, temperature, K):
    one = sample(seed=1, K=K, documents=documents)
    made = objective(statistics, temperature=temperature, hard_negatives=hard, near_duplicate=near)
    expected = plain_infonce(one, temperature, hard, near)
    assert made(one).total.item() == pytest.approx(expected, rel=1e-9)
    assert expected > 0


@pytest.mark.parametrize("near", [0.3, 1.0])
@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("documents", [None, (7, 7, 3, 5, 9), (1, 1, 1, 1, 1)])
def test_a_drawn_negative_is_one_more_among_targets(sample, statistics, near, hard, documents):
    """Not where there is none (zeros), and not where it is the truth again; alone it is enough."""
    one = sample(seed=2, documents=documents)
    one.drawn[2, 0] = 2.0 * one.target[2, 0]
    made = objective(statistics, hard_negatives=hard, drawn_negative=True, near_duplicate=near)
    expected = plain_infonce(one, 0.07, hard, min(near, 1 - 1e-5), drawn=True)
    assert made(one).total.item() == pytest.approx(expected, rel=1e-9)
    assert expected != pytest.approx(plain_infonce(one, 0.07, hard, min(near, 1 - 1e-5)), rel=1e-6)


def test_a_batch_without_the_drawn_negatives_that_are_asked_for_is_refused(sample, statistics):
    with pytest.raises(TrainingError, match="no drawn negatives"):
        objective(statistics, drawn_negative=True)(replace(sample(), drawn=None))


@pytest.mark.parametrize("documents", [None, (7, 7, 3, 5, 9)])
@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("size", [3, 10, 64])
def test_the_bank_equals_a_plain_loop(sample, statistics, size, hard, documents):
    made = objective(statistics, bank=size, hard_negatives=hard, near_duplicate=0.5)
    bank = []
    for seed in range(5):
        one = sample(seed=seed, documents=documents)
        assert made(one).total.item() == pytest.approx(plain_infonce(one, 0.07, hard, 0.5, bank), rel=1e-9)
        named = [-2 if documents is None else documents[b] for b, *_ in positions(one)]
        bank = [*bank, *zip(named, [t for *_, t in positions(one)], strict=True)][-size:]
    made.eval()
    assert made(one).total.item() == pytest.approx(plain_infonce(one, 0.07, hard, 0.5, bank), rel=1e-9)


def test_the_bank_adds_no_gradient_of_its_own_and_survives_the_backward_pass(sample, statistics):
    made = objective(statistics, bank=8)
    leaf = sample(seed=1).prediction.requires_grad_()
    for _ in range(2):
        made(sample(leaf, seed=1)).total.backward()  # the bank is new by then, the old one still needed
    assert not made.terms["infonce"].targets.requires_grad
    assert leaf.grad.isfinite().all()


def test_the_two_directions_are_each_others_mirror(sample, statistics):
    """With one document a row and no bank, predictions and targets may change places."""
    one = sample(seed=3, documents=None)
    mirrored = replace(one, prediction=one.target, target=one.prediction)
    made = objective(statistics, near_duplicate=1.0)
    assert made(mirrored).total.item() == pytest.approx(made(one).total.item(), rel=1e-9)


@settings(max_examples=20, deadline=None)
@given(a=st.floats(1e-2, 1e2), b=st.floats(1e-2, 1e2), name=st.sampled_from(["infonce", "context"]))
def test_only_directions_matter(sample, statistics, a, b, name):
    one = sample(seed=4)
    scaled = replace(one, prediction=a * one.prediction, target=b * one.target, inputs=b * one.inputs)
    made = objective(statistics, name).eval()
    assert made(scaled).total.item() == pytest.approx(made(one).total.item(), rel=1e-6)


@pytest.mark.parametrize(("cosine", "counts"), [(1.0, False), (0.985, False), (0.97, True)])
def test_a_near_duplicate_of_the_truth_is_no_negative(sample, statistics, cosine, counts):
    """The targets of rows 2 and 3 are one text, of two documents."""
    one = sample(seed=5)
    first = one.target[2, 0] / one.target[2, 0].norm()
    aside = one.target[3, 0] - (one.target[3, 0] @ first) * first
    target = one.target.clone()
    target[3, 0] = 2.0 * (cosine * first + math.sqrt(1 - cosine**2) * aside / aside.norm())
    one = replace(one, target=target)
    negative = objective(statistics).terms["infonce"].negatives(one)
    i, j = (one.owner.tolist().index(document) for document in (3, 5))
    assert bool(negative[i, j]) == bool(negative[j, i]) == counts
    assert negative.sum() == (one.owner[:, None] != one.owner).sum() - 2 * (not counts)


def test_at_near_duplicate_1_only_copies_are_spared(sample, statistics):
    one = sample(seed=6)
    target = one.target.clone()
    target[3, 0] = 3.0 * target[2, 0]
    one = replace(one, target=target)
    negative = objective(statistics, near_duplicate=1.0).terms["infonce"].negatives(one)
    assert (one.owner[:, None] != one.owner).sum() - negative.sum() == 2


def test_horizons_share_targets_that_are_no_negatives_of_each_other(sample, statistics):
    """With two horizons a chunk is the target of two positions."""
    one = sample(seed=7, K=2)
    target = one.target.clone()
    target[0, 1] = target[0, 2]
    one = replace(one, target=target)
    negative = objective(statistics, hard_negatives=True).terms["infonce"].negatives(one)
    assert not negative[1, 2]
    assert negative[1, 3]


def test_the_temperature_is_learned_within_its_bounds(sample, statistics):
    made = objective(statistics, learn_temperature=True)
    (name, parameter), *others = made.named_parameters()
    assert name == "terms.infonce.log_temperature"
    assert not others
    assert parameter.exp().item() == pytest.approx(0.07)
    for sign, bound in ((-1, TEMPERATURES[0]), (1, TEMPERATURES[1])):
        parameter.data.fill_(sign * 100.0)
        assert made.terms["infonce"].temperature.item() == pytest.approx(bound)
        made(sample(seed=8)).total.backward()
        assert parameter.item() == pytest.approx(math.log(bound))
        assert parameter.grad.abs() > 0  # it is not stuck there
        parameter.grad = None


def test_a_learned_temperature_starts_as_the_configured_one(sample, statistics):
    one = sample(seed=9)
    values = [objective(statistics, learn_temperature=learn)(one).total.item() for learn in (False, True)]
    assert values[1] == pytest.approx(values[0], rel=1e-6)


def alone(sample):
    """A single window of three targets."""
    one = sample(seed=10)
    parts = {
        p: getattr(one, p)[:1] for p in ("prediction", "target", "mask", "inputs", "lengths", "documents")
    }
    return replace(one, **parts, broken=None)


def test_a_batch_of_one_is_refused(sample, statistics):
    with pytest.raises(TrainingError, match=r"loss\.infonce: a batch of 1 sequence .* optim\.batch_size"):
        objective(statistics)(alone(sample))


@pytest.mark.parametrize("options", [{"bank": 4}, {"hard_negatives": True}, {"drawn_negative": True}])
def test_a_batch_of_one_is_taken_with_a_bank_or_hard_negatives(sample, statistics, options):
    made = objective(statistics, **options)
    assert made(alone(sample)).total.isfinite()
    assert made(sample(seed=11, documents=(1, 2, 3, 4, 5))).total > 0


def test_a_last_batch_of_one_counts_as_0_and_is_logged_once(sample, statistics, caplog):
    made = objective(statistics)
    made(sample(seed=11))
    resumed = objective(statistics)
    resumed.load_state_dict(made.state_dict())
    with caplog.at_level(logging.INFO, "nextvec.objectives"):
        assert [resumed(alone(sample)).total.item() for _ in range(3)] == [0, 0, 0]
    assert [record.message for record in caplog.records] == [
        "loss.infonce: a batch of 1 sequences holds no negative and counts as 0"
    ]


def test_a_bank_needs_to_know_how_long_vectors_are():
    with pytest.raises(ConfigError, match=r"loss\.infonce: a memory bank needs the encoder's statistics"):
        Objective(LossConfig(infonce=1.0, bank=8))


@pytest.mark.parametrize("near", [0.2, 0.98])
@pytest.mark.parametrize("K", [1, 2])
@pytest.mark.parametrize("padded", [True, False])
def test_context_equals_a_plain_loop(sample, statistics, near, K, padded):
    one = sample(seed=12, K=K)
    if not padded:
        one = replace(one, lengths=None, inputs=torch.randn(5, 3, 6, dtype=torch.float64))
    true, wrong = [], []
    for b, p, prediction, target in positions(one):
        read = [
            one.inputs[b, s].tolist() for s in range(min(p // K + 1, int(one.lengths[b]) if padded else 3))
        ]
        true.append(cos(prediction, target) / 0.07)
        wrong.append([cos(prediction, x) / 0.07 for x in read if cos(target, x) < near])
    value = objective(statistics, "context", near_duplicate=near)(one).total.item()
    assert value == pytest.approx(cross_entropies(true, wrong), rel=1e-9)
    assert value > 0


def test_copying_what_was_read_is_what_the_context_term_punishes(sample, statistics):
    one = sample(seed=13)
    made = objective(statistics, "context")
    copy_last = made(replace(one, prediction=one.inputs)).total
    answer = made(replace(one, prediction=one.target)).total
    assert copy_last > 5
    assert answer < 0.5
