"""No batch is full of one document: `max_per_document`."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.data.batches import BatchSource
from nextvec.data.sampling import Sampling, batch_windows, epoch_rng, spread
from nextvec.data.windows import SequenceShape

shapes = st.integers(1, 8).flatmap(
    lambda context: st.builds(SequenceShape, st.just(context), st.integers(1, context))
)
# Many short documents, few long ones, or one that outweighs all others
documents = st.lists(st.integers(9, 30) | st.integers(200, 900), min_size=1, max_size=15)


@settings(max_examples=200, deadline=None)
@given(documents, shapes, st.integers(1, 40), st.integers(1, 9), st.integers(0, 1000), st.booleans())
def test_the_limit_holds_nothing_is_lost_and_no_batch_is_too_large(
    world, counts, shape, batch_size, limit, seed, fixed
):
    rng = None if fixed else epoch_rng(seed, 0)
    windows = world.documents_of(counts).cut(shape, rng)
    batches = batch_windows(windows, batch_size, shape.stride, rng, limit)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(windows)))
    for batch in batches:
        assert len(batch) >= 1
        assert max(Counter(windows.document[batch].tolist()).values()) <= limit
        assert windows.scored[batch].sum() < batch_size * shape.stride + shape.stride


def test_where_chance_sees_to_it_nothing_changes(world):
    windows = world.documents_of([30] * 200).cut(SequenceShape(8), epoch_rng(0, 0))
    free, limited = (batch_windows(windows, 16, 8, epoch_rng(0, 1), limit) for limit in (0, 8))
    assert [b.tolist() for b in free] == [b.tolist() for b in limited]


def test_documents_are_spread_before_batches_become_smaller(world):
    """5 documents of which 6.4 windows each fill a batch of 32: chance alone would exceed 8 often."""
    windows = world.documents_of([500] * 5).cut(SequenceShape(5, 5), epoch_rng(0, 0))
    free = batch_windows(windows, 32, 1, epoch_rng(0, 1))
    crowded = [max(Counter(windows.document[b].tolist()).values()) > 8 for b in free]
    assert np.mean(crowded) > 0.3
    batches = batch_windows(windows, 32, 1, epoch_rng(0, 1), 8)
    assert len(batches) == len(free)


@pytest.mark.parametrize(("others", "smallest"), [(0, 7), (300, 12)])
def test_a_document_that_outweighs_all_makes_all_batches_smaller(world, others, smallest):
    """Rather than some of them all its own: they hold what there is of other documents too."""
    windows = world.documents_of([2005] + [15] * others).cut(SequenceShape(5, 5), epoch_rng(0, 0))
    batches = batch_windows(windows, 32, 1, epoch_rng(0, 1), 8)
    sizes = np.array([len(b) for b in batches])
    assert np.median(sizes) >= smallest
    assert len(batches) <= 1.15 * 2000 / 8
    alone = [len(b) for b in batches if (windows.document[b] == 0).all()]
    assert sum(alone) < 0.03 * len(windows) or others == 0


def test_spread_leaves_even_distances():
    document = np.array([0] * 100 + [1] * 10 + [2])
    order = spread(document)
    assert sorted(order.tolist()) == list(range(111))
    for number, distance in ((0, 1.11), (1, 11.1)):
        places = np.flatnonzero(document[order] == number)
        assert (np.abs(np.diff(places) - distance) < 2).all()
        assert (np.diff(order[places]) > 0).all(), "they keep their order among themselves"


def test_two_documents_in_store_order_are_mixed_for_validation(world):
    """In-batch negatives of a validation loss would else all be of one document."""
    sampling = Sampling(max_per_document=8)
    source = BatchSource(
        world.Rows(), world.documents_of([69, 69]), SequenceShape(5, 5), 16, sampling=sampling
    )
    counts = [Counter(b.documents.tolist()) for b in source.fixed()]
    assert len(counts) == 8
    assert all(c == {0: 8, 1: 8} for c in counts)
