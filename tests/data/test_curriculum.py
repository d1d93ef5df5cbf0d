"""Curricula: monotone, easy first, everything in the end."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.data.batches import BatchSource
from nextvec.data.sampling import Coherence, Sampling, curriculum_epochs, shape_at, share_at
from nextvec.data.windows import SequenceShape

EPOCHS = st.integers(1, 30)
SHARES = st.floats(0.01, 1.0)
SHAPES = [
    SequenceShape(32),
    SequenceShape(5, 5),
    SequenceShape(12, 4),
    SequenceShape(1),
    SequenceShape(8, 8, task="middle"),
]


@settings(max_examples=200, deadline=None)
@given(EPOCHS, SHARES, st.sampled_from(SHAPES))
def test_context_grows_from_one_to_all_and_never_falls(epochs, share, shape):
    found = [shape_at(shape, e, epochs, share) for e in range(epochs + 2)]
    contexts = [s.context for s in found]
    assert contexts[0] == (2 if shape.task == "middle" else 1)
    assert contexts == sorted(contexts)
    assert all(s == shape for s in found[curriculum_epochs(epochs, share) :])
    assert all(s.min_context == min(shape.min_context, s.context) for s in found)
    assert all(s.task == shape.task and s.horizons == shape.horizons for s in found)


@settings(max_examples=200, deadline=None)
@given(EPOCHS, SHARES)
def test_the_share_of_stretches_rises_to_one(epochs, share):
    shares = [share_at(e, epochs, share) for e in range(epochs + 2)]
    assert 0 < shares[0] <= 0.5
    assert shares == sorted(shares)
    assert all(s == 1.0 for s in shares[curriculum_epochs(epochs, share) :])


def test_a_curriculum_over_context_reads_no_more_than_it_may_and_keeps_every_target(world):
    documents = world.documents_of([60, 25, 9, 40])
    sampling = Sampling(curriculum="context", curriculum_share=0.5, epochs=8)
    source = BatchSource(world.Rows(), documents, SequenceShape(9), 4, seed=1, sampling=sampling)
    for epoch, longest in enumerate([1, 3, 5, 7, 9, 9, 9, 9]):
        batches = list(source.epoch(epoch))
        assert max(b.inputs.shape[1] for b in batches) == longest
        assert sum(b.positions for b in batches) == source.targets == 130
        # a batch weighs as much at every stage
        assert all(b.positions < (4 + 1) * 9 for b in batches)
        assert len(batches) == source.batches_in(epoch)
    assert max(b.inputs.shape[1] for b in source.fixed()) == 9


def test_a_curriculum_over_the_context_of_windows_has_more_of_them_at_first(world):
    """Shorter windows fit more often: an epoch's size is told in advance."""
    sampling = Sampling(curriculum="context", curriculum_share=1.0, epochs=5)
    source = BatchSource(
        world.Rows(), world.documents_of([20] * 4), SequenceShape(5, 5), 4, sampling=sampling
    )
    sizes = [sum(b.positions for b in source.epoch(e)) for e in range(6)]
    assert sizes == [4 * (20 - c) for c in (1, 1, 2, 3, 4, 5)]
    again = BatchSource(world.Rows(), world.documents_of([20] * 4), SequenceShape(5, 5), 4, sampling=sampling)
    counts = [len(list(source.epoch(e))) for e in range(6)]
    assert [again.batches_in(e) for e in range(6)] == counts == [19, 19, 18, 17, 16, 15]
    assert again.total(6) == sum(counts)
    assert again.total(6, at_most=30) == 30
    assert again.total(6, at_most=1000) == sum(counts)


def test_epochs_beyond_the_cap_are_not_planned(world):
    source = BatchSource(world.Rows(), world.documents_of([20] * 4), SequenceShape(5, 5), 4)
    assert source.total(10**9, at_most=31) == 31


@pytest.fixture
def wandering(world):
    """Documents whose chunks turn by more and more: document i by i / 10 from one to the next."""
    counts = [12, 7, 20, 15, 9]
    angles = np.concatenate([np.arange(n) * i / 10 for i, n in enumerate(counts)])
    return world.Cosines(angles), world.documents_of(counts), counts


def test_coherence_is_the_mean_cosine_of_neighbours(world, wandering):
    vectors, documents, counts = wandering
    shape = SequenceShape(6)
    windows = documents.cut(shape, np.random.default_rng(0))
    found = Coherence(vectors, documents).of(windows, shape)
    assert found == pytest.approx(np.cos(windows.document / 10), abs=1e-6)
    jumps = np.random.default_rng(1).standard_normal(sum(counts))
    rough = Coherence(world.Cosines(jumps), documents).of(windows, shape)
    for i, (first, read) in enumerate(zip(windows.start, windows.read, strict=True)):
        within = jumps[first : first + read + 1]
        assert rough[i] == pytest.approx(np.cos(np.diff(within)).mean(), abs=1e-6)


def test_documents_that_do_not_start_the_store_and_have_gaps_between_them(world):
    documents = world.documents_of([3, 8, 1, 6], gap=4)
    documents = documents.select(np.array([1, 2, 3]))
    jumps = np.random.default_rng(1).standard_normal(40)
    shape = SequenceShape(4)
    windows = documents.cut(shape)
    found = Coherence(world.Cosines(jumps), documents).of(windows, shape)
    for i, (first, read) in enumerate(zip(windows.start, windows.read, strict=True)):
        assert found[i] == pytest.approx(np.cos(np.diff(jumps[first : first + read + 1])).mean(), abs=1e-6)


def test_easy_stretches_come_first_and_all_in_the_end(wandering):
    vectors, documents, _ = wandering
    sampling = Sampling(curriculum="coherence", curriculum_share=0.5, epochs=8)
    source = BatchSource(vectors, documents, SequenceShape(5, 5), 4, sampling=sampling)
    hardest, sizes = [], []
    for epoch in range(8):
        batches = list(source.epoch(epoch))
        documents = np.concatenate([b.documents for b in batches])
        hardest.append(int(documents.max()))
        sizes.append(sum(b.positions for b in batches))
        # of windows, which are the same each epoch: all easier ones before any harder one
        easier = sum(max(n - 5, 0) for n in (12, 7, 20, 15, 9)[: hardest[-1]])
        assert np.count_nonzero(documents < hardest[-1]) == easier
        assert len(batches) == source.batches_in(epoch)
    assert hardest == sorted(hardest)
    assert hardest[0] < hardest[-1] == 4
    assert sizes == [8, 16, 23, 31, 38, 38, 38, 38]


def test_the_hardest_stretch_of_an_epoch_is_never_easier_than_before(world):
    """Cut at other phases each epoch, the windows differ; the easy end of them grows all the same."""
    counts = [40] * 30
    vectors = world.Cosines(np.random.default_rng(0).standard_normal(sum(counts)).cumsum())
    documents, shape = world.documents_of(counts), SequenceShape(8)
    sampling = Sampling(curriculum="coherence", curriculum_share=1.0, epochs=10)
    source = BatchSource(vectors, documents, shape, 4, sampling=sampling)
    coherence = Coherence(vectors, documents)
    means = []
    for epoch in range(11):
        plan = source.planned(epoch)
        means.append(coherence.of(plan.windows, shape).mean())
    assert (np.diff(means) < 0).all()
