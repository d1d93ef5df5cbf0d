"""Tasks: the missing chunk, queries, broken continuations."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.data.batches import BatchSource
from nextvec.data.sampling import Sampling
from nextvec.data.windows import FURTHEST_QUERY, SequenceShape, reading_order
from nextvec.errors import WindowError

MIDDLE = SequenceShape(4, 4, task="middle")


def test_what_is_near_the_gap_is_read_last():
    assert reading_order(2).tolist() == [-1, 1]
    assert reading_order(6).tolist() == [-3, 3, -2, 2, -1, 1]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=8),
    st.sampled_from([2, 4, 6]),
    st.integers(1, 5),
    st.booleans(),
)
def test_every_gap_is_filled_once_from_both_sides(world, counts, context, batch_size, fixed):
    documents, shape = world.documents_of(counts, gap=2), SequenceShape(context, context, task="middle")
    half = context // 2
    wanted = [
        first + place
        for first, count in zip(documents.first.tolist(), counts, strict=True)
        for place in range(half, count - half)
    ]
    if not wanted:
        with pytest.raises(WindowError, match="a gap amid"):
            BatchSource(world.Rows(), documents, shape, batch_size)
        return
    source = BatchSource(world.Rows(), documents, shape, batch_size)
    found = []
    for batch in source.fixed() if fixed else source.epoch(0):
        assert batch.full
        assert batch.inputs.shape[1] == context
        assert (batch.lengths == context).all()
        assert (batch.mask == (torch.arange(context) == context - 1)).all()
        assert (batch.targets[:, :-1] == 0).all()
        inputs, gaps = world.rows_of(batch.inputs.numpy()), world.rows_of(batch.targets[:, -1].numpy())
        assert (inputs == gaps[:, None] + reading_order(context)).all()
        found += gaps.tolist()
    assert sorted(found) == wanted
    assert source.targets == len(wanted)


def queried(world, shape, share=1.0, counts=(30, 12, 7, 50), seed=0, epoch=0):
    """(document, first row used, last row used, row of the query or -1) of every window."""
    documents = world.documents_of(counts)
    source = BatchSource(world.Rows(), documents, shape, 4, seed=seed, sampling=Sampling(conditional=share))
    found = []
    for batch in source.epoch(epoch):
        for i, document in enumerate(batch.documents.tolist()):
            used = world.rows_of(batch.inputs[i, : int(batch.lengths[i])].numpy()).tolist()
            targets = batch.targets[i][batch.mask[i]].numpy()
            used += world.rows_of(targets).ravel().tolist()
            found.append((document, min(used), max(used), int(world.rows_of(batch.query[i].numpy()))))
    return documents, found


@pytest.mark.parametrize(
    "shape", [SequenceShape(6), SequenceShape(5, 5), SequenceShape(6, 1, (1, 3)), MIDDLE], ids=str
)
def test_a_query_is_a_later_chunk_of_the_same_document(world, shape):
    documents, found = queried(world, shape)
    ends = (documents.first + documents.count).tolist()
    steps = Counter()
    for document, _, last, query in found:
        room = min(ends[document] - 1 - last, FURTHEST_QUERY)
        assert (query == -1) == (room == 0), "whoever can have one has one"
        if room:
            assert 1 <= query - last <= room
            steps[query - last] += 1
    assert any(query == -1 for *_, query in found)
    assert len(steps) >= 5


def test_a_share_of_the_stretches_is_asked(world):
    shape = SequenceShape(5, 5)
    _, found = queried(world, shape, share=0.3, counts=(400, 400))
    assert np.mean([query >= 0 for *_, query in found]) == pytest.approx(0.3, abs=0.05)
    plain = BatchSource(world.Rows(), world.documents_of([20]), shape, 4)
    assert all(batch.query is None for batch in plain.epoch(0))


def test_no_query_is_a_row_of_zeros(world):
    source = BatchSource(
        world.Rows(), world.documents_of([6]), SequenceShape(5), 4, sampling=Sampling(conditional=1.0)
    )
    (batch,) = source.fixed()
    assert batch.query.tolist() == [[0.0, 0.0, 0.0]]
    (plain,) = source.fixed(plain=True)
    assert plain.query is None


def broken_source(world, shape, share=0.5, counts=(30, 12, 9, 50), sources=None, **options):
    documents = world.documents_of(counts, sources=sources)
    sampling = Sampling(broken=share, **options)
    return BatchSource(world.Rows(), documents, shape, 4, seed=5, sampling=sampling)


@pytest.mark.parametrize(
    "shape", [SequenceShape(6), SequenceShape(5, 5), SequenceShape(6, 3, (1, 3)), MIDDLE], ids=str
)
def test_a_broken_end_runs_on_in_another_document(world, shape):
    source = broken_source(world, shape)
    owner, breaks = world.owners(source.documents), 0
    for batch, whole in zip(source.fixed(), source.fixed(plain=True), strict=True):
        assert whole.broken is None
        assert torch.equal(batch.inputs, whole.inputs)
        foreign, K = batch.broken.numpy(), len(shape.horizons)
        targets, true = (world.rows_of(b.targets.numpy()).reshape(*foreign.shape, K) for b in (batch, whole))
        mask, scored = (b.mask.numpy().reshape(*foreign.shape, K) for b in (batch, whole))
        assert (mask == scored & ~foreign[..., None]).all(), "a broken position never counts"
        assert (foreign <= scored.any(-1)).all()
        assert (targets[~foreign] == true[~foreign]).all()
        assert batch.positions == mask.sum() > 0
        assert not foreign.any(axis=1).all(), "one of a batch stays whole"
        for i in np.flatnonzero(foreign.any(axis=1)):
            breaks += 1
            places = np.flatnonzero(foreign[i])
            ends = np.flatnonzero(scored[i, :, 0])
            assert places.tolist() == list(range(places[0], ends[-1] + 1)), "to the end"
            rows = targets[i, places]
            others = {owner[r] for r in rows.ravel().tolist()}
            assert len(others) == 1
            other = others.pop()
            assert other != batch.documents[i]
            first, count = int(source.documents.first[other]), int(source.documents.count[other])
            steps = np.arange(len(places))[:, None] + np.array(shape.horizons) - shape.horizons[0]
            assert ((rows - first) == (rows[0, 0] - first + steps) % count).all()
    assert breaks > 0


def test_every_target_that_is_not_broken_still_counts_once(world):
    source = broken_source(world, SequenceShape(6))
    for epoch in range(3):
        rows = Counter(target for _, _, _, target in world.pairs(source.epoch(epoch)))
        assert set(rows.values()) == {1}
        lost = source.targets - len(rows)
        assert 0.1 < lost / source.targets < 0.6


def test_a_share_of_the_stretches_is_broken(world):
    source = broken_source(world, SequenceShape(5, 5), share=0.25, counts=(300, 300, 300))
    broken = np.concatenate([b.broken.any(dim=1).numpy() for b in source.epoch(0)])
    assert broken.mean() == pytest.approx(0.25, abs=0.05)
    starts = Counter()
    for batch in broken_source(world, SequenceShape(4), share=1.0, counts=(200, 200)).epoch(0):
        full = batch.broken[batch.lengths == 4] if batch.inputs.shape[1] == 4 else batch.broken[:0]
        starts.update(full[full.any(dim=1)].int().argmax(dim=1).tolist())
    assert set(starts) == {0, 1, 2, 3}, "from a random position on"


def test_what_breaks_in_is_of_the_same_source_where_there_is_one(world):
    sources = ["a", "b", "a", "b", "lonely"]
    source = broken_source(world, SequenceShape(5, 5), 1.0, (20, 20, 20, 20, 20), sources)
    owner, seen = world.owners(source.documents), Counter()
    for batch in source.epoch(0):
        foreign = batch.broken.any(dim=1)
        rows = world.rows_of(batch.targets[foreign, -1].numpy())
        for own, row in zip(batch.documents[foreign.numpy()].tolist(), rows.tolist(), strict=True):
            assert owner[row] != own
            assert sources[own] in ("lonely", sources[owner[row]])
            seen[sources[own]] += 1
    assert set(seen) == {"a", "b", "lonely"}


def test_one_document_cannot_break_anothers_continuation(world):
    with pytest.raises(WindowError, match="no other document"):
        broken_source(world, SequenceShape(5), counts=(30,))
