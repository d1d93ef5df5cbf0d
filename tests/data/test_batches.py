"""Batches: each target counts exactly once an epoch, and the order is a pure function of seed and epoch."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.data.batches import BatchSource, gather_batch
from nextvec.data.sampling import Sampling, batch_windows, epoch_rng
from nextvec.data.windows import SequenceShape, Windows
from nextvec.errors import WindowError

horizons = st.lists(st.integers(1, 4), min_size=1, max_size=3, unique=True).map(lambda h: tuple(sorted(h)))
shapes = st.integers(1, 9).flatmap(
    lambda context: st.builds(
        SequenceShape, st.just(context), st.integers(1, context), horizons, whole=st.booleans()
    )
)
documents = st.lists(st.integers(1, 40), min_size=1, max_size=12)
limits = st.sampled_from([0, 1, 2, 8])


def windows_of(*columns: list[int]) -> Windows:
    """Of document, first, end, start, read and scored."""
    names = ("document", "first", "end", "start", "read", "scored")
    return Windows(**dict(zip(names, map(np.array, columns), strict=True)))


@settings(max_examples=200, deadline=None)
@given(documents, shapes, st.integers(1, 5), st.integers(0, 2**31), st.integers(0, 5), limits, st.booleans())
def test_each_target_counts_exactly_once_an_epoch(
    world, counts, shape, batch_size, seed, epoch, limit, fixed
):
    documents = world.documents_of(counts, gap=1)
    wanted = world.wanted(documents, shape)
    if {horizon for horizon, _ in wanted} != set(shape.horizons):
        with pytest.raises(WindowError, match="no target"):
            BatchSource(world.Rows(), documents, shape, batch_size, seed=seed)
        return
    sampling = Sampling(max_per_document=limit)
    source = BatchSource(world.Rows(), documents, shape, batch_size, seed=seed, sampling=sampling)
    found = world.pairs(source.fixed() if fixed else source.epoch(epoch), shape.horizons)
    assert Counter((horizon, target) for horizon, _, _, target in found) == Counter(wanted)
    assert source.targets == len(wanted)
    owner = world.owners(documents)
    for horizon, first, last, target in found:
        assert target - last == horizon
        assert shape.min_context <= last - first + 1 <= shape.context
        assert owner[first] == owner[target], "a window crosses a document"


@settings(max_examples=100, deadline=None)
@given(documents, shapes, st.integers(1, 5), st.integers(0, 1000))
def test_batches_hold_about_the_same_number_of_targets(world, counts, shape, batch_size, seed):
    documents = world.documents_of(counts)
    if not world.wanted(documents, SequenceShape(shape.context, shape.min_context, shape.horizons[-1:])):
        return
    source = BatchSource(world.Rows(), documents, shape, batch_size, seed=seed)
    batches = list(source.epoch(0))
    budget = batch_size * shape.stride
    nominal = -(-int(documents.targets_each(shape).sum()) // (batch_size * shape.stride))
    assert len(batches) == source.batches_in(0) <= nominal
    assert all(b.positions == int(b.mask.sum()) > 0 for b in batches)
    nearest = [int((b.mask if b.mask.ndim == 2 else b.mask[..., 0]).sum()) for b in batches]
    assert max(nearest) < budget + shape.stride
    assert sum(b.positions for b in batches) == source.targets


def test_windows_of_the_brief_are_full_and_score_the_last_position_only(world):
    source = BatchSource(world.Rows(), world.documents_of([9, 4, 30]), SequenceShape(5, 5), 32, seed=3)
    batches = list(source.epoch(0))
    # 4 of the first document, none of the second, 25 of the third
    assert [len(b.inputs) for b in batches] == [29]
    assert all(b.full and b.inputs.shape[1] == 5 for b in batches)
    assert all((b.mask == torch.tensor([False] * 4 + [True])).all() for b in batches)
    assert all(b.broken is None and b.query is None for b in batches)


def test_padding_is_zero_and_lengths_tell_it(world):
    windows = windows_of([0, 1], [10, 50], [15, 53], [10, 50], [4, 2], [3, 2])
    batch = gather_batch(world.Rows(), windows, SequenceShape(4))
    assert batch.inputs[..., 0].tolist() == [[11, 12, 13, 14], [51, 52, 0, 0]]
    assert batch.targets[..., 0].tolist() == [[12, 13, 14, 15], [52, 53, 0, 0]]
    assert (batch.inputs[1, 2:] == 0).all()
    assert (batch.targets[1, 2:] == 0).all()
    assert batch.lengths.tolist() == [4, 2]
    assert batch.mask.tolist() == [[False, True, True, True], [True, True, False, False]]
    assert not batch.full
    assert batch.inputs.dtype == torch.float32


def test_several_horizons_stand_side_by_side(world):
    """Where a document ends before the furthest target, that one does not count and is zero."""
    shape = SequenceShape(4, 1, (1, 3))
    source = BatchSource(world.Rows(), world.documents_of([5]), shape, 1)
    (batch,) = source.fixed()
    assert batch.inputs[..., 0].tolist() == [[1, 2, 3, 4]]
    assert batch.targets.shape == (1, 4, 2, 3)
    assert batch.targets[..., 0].tolist() == [[[2, 4], [3, 5], [4, 0], [5, 0]]]
    assert batch.mask.tolist() == [[[True, True], [True, True], [True, False], [True, False]]]
    assert (batch.full, batch.positions, source.targets) == (True, 6, 6)


@pytest.mark.parametrize("seed", range(5))
def test_whole_documents_of_any_length_stand_together_with_masks(world, seed):
    """Context 512: a document is read from its first chunk to its last but one, whatever stands beside it."""
    counts = np.random.default_rng(seed).integers(2, 513, 40).tolist()
    documents = world.documents_of([*counts, 900])
    source = BatchSource(world.Rows(), documents, SequenceShape(512, whole=True), 8, seed=seed)
    seen = Counter()
    for batch in source.epoch(seed):
        for i, document in enumerate(batch.documents.tolist()):
            rows, n = world.rows_of(batch.inputs[i].numpy()), int(batch.lengths[i])
            if document < len(counts):
                first, count = int(documents.first[document]), counts[document]
                assert rows[:n].tolist() == list(range(first, first + count - 1))
                assert batch.mask[i].tolist() == [True] * n + [False] * (len(rows) - n)
            assert (batch.inputs[i, n:] == 0).all()
            assert (batch.targets[i, n:] == 0).all()
            seen[document] += 1
    assert [seen[i] for i in range(len(counts))] == [1] * len(counts)
    assert seen[len(counts)] >= 2


@pytest.mark.parametrize(
    "shape", [SequenceShape(5, 5), SequenceShape(6, 2, (1, 3)), SequenceShape(4, 4, task="middle")]
)
def test_a_drawn_target_is_another_one_of_the_document(world, shape):
    """Every other one comes up, and none where a document has but one; nothing else of a batch changes."""
    documents = world.documents_of([shape.context + 1, 11], gap=2)
    plain = BatchSource(world.Rows(), documents, shape, 4, seed=1)
    source = BatchSource(world.Rows(), documents, shape, 4, seed=1, sampling=Sampling(drawn=True))
    assert world.same([replace(b, drawn=None) for b in source.epoch(3)], list(plain.epoch(3)))
    found = set()
    for batch in chain(source.fixed(), *map(source.epoch, range(60))):
        with_drawn = zip(batch.targets[batch.mask], batch.drawn[batch.mask], strict=True)
        places = batch.mask.nonzero()[:, -1].tolist() if batch.mask.ndim == 3 else [0] * batch.positions
        rows = [(world.rows_of(t.numpy()), world.rows_of(d.numpy())) for t, d in with_drawn]
        found |= {(shape.horizons[k], int(t), int(d)) for k, (t, d) in zip(places, rows, strict=True)}
    owner, evaluated = (
        world.owners(documents),
        {(h, t) for h, *_, t in world.pairs(plain.fixed(), shape.horizons)},
    )
    others = {
        (h, t): {o for g, o in evaluated if (g, owner[o]) == (h, owner[t]) and o != t} or {-1}
        for h, t in evaluated
    }
    assert found == {(h, t, o) for (h, t), several in others.items() for o in several}


@pytest.fixture
def source(world) -> BatchSource:
    return BatchSource(world.Rows(), world.documents_of([7, 40, 3, 22, 31, 18]), SequenceShape(6), 2, seed=11)


def test_order_is_a_function_of_seed_and_epoch(world, source):
    again = BatchSource(world.Rows(), source.documents, source.shape, 2, seed=11)
    other = BatchSource(world.Rows(), source.documents, source.shape, 2, seed=12)
    assert world.same(list(source.epoch(4)), list(again.epoch(4)))
    assert not world.same(list(source.epoch(4)), list(source.epoch(5)))
    assert not world.same(list(source.epoch(4)), list(other.epoch(4)))
    assert world.same(list(source.fixed()), list(other.fixed()))


def test_phases_move_from_epoch_to_epoch(world):
    """A target that comes first in one epoch (least context) does not always come first."""
    documents, shape = world.documents_of([64]), SequenceShape(8)
    firsts = [set(documents.cut(shape, epoch_rng(0, e)).start.tolist()) for e in range(20)]
    assert len({frozenset(f) for f in firsts}) > 4
    assert set.intersection(*firsts) == {0}


def test_similar_lengths_stand_together(world):
    """Padding wastes little, though lengths are very mixed."""
    counts = np.random.default_rng(0).integers(2, 40, 400).tolist()
    source = BatchSource(world.Rows(), world.documents_of(counts), SequenceShape(32), 16, seed=0)
    real, padded = map(
        sum, zip(*((int(b.lengths.sum()), b.mask.numel()) for b in source.epoch(0)), strict=True)
    )
    assert real / padded > 0.8


def test_a_batch_of_short_stretches_holds_more_of_them():
    short = windows_of(*([n] * 12 for n in (0, 0, 3, 0, 2, 2)))
    assert [len(b) for b in batch_windows(short, batch_size=2, stride=8)] == [8, 4]


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        (SequenceShape(8, 8), "a context of 8 and a horizon of 1 need 9 chunks, the longest document has 7"),
        (SequenceShape(8, 1, (7,)), "a context of 1 and a horizon of 7 need 8 chunks"),
        (SequenceShape(8, 1, (1, 2, 9)), "a context of 1 and a horizon of 9 need 10 chunks"),
        (SequenceShape(8, 8, task="middle"), "a gap amid 8 chunks needs 9 chunks"),
    ],
)
def test_no_target_at_all_names_the_longest_document(world, shape, text):
    with pytest.raises(WindowError, match=text):
        BatchSource(world.Rows(), world.documents_of([3, 7, 5]), shape, 4)


@pytest.mark.parametrize(
    ("refused", "advised", "flags"),
    [
        (SequenceShape(8, 8), SequenceShape(8, 6), "--set data.min_context=6, or ingest"),
        (SequenceShape(8, 8, (1, 3)), SequenceShape(8, 4, (1, 3)), "--set data.min_context=4, or ingest"),
        (SequenceShape(8, 1, (7,)), SequenceShape(8, 1, (6,)), "--horizon 6, or ingest"),
        (SequenceShape(8, 1, (1, 9)), SequenceShape(8, 1, (6,)), "--horizon 6, or ingest"),
        (SequenceShape(8, 8, (9,)), SequenceShape(8, 1, (6,)), "--set data.min_context=1 --horizon 6, or"),
        (SequenceShape(8, 8, task="middle"), SequenceShape(6, 6, task="middle"), "--context 6, or ingest"),
    ],
)
def test_what_is_advised_where_there_is_no_target_is_the_most_that_works(world, refused, advised, flags):
    documents = world.documents_of([3, 7, 5])
    with pytest.raises(WindowError, match=flags):
        documents.targets(refused)
    assert documents.targets(advised) in (1, 3 + 1 + 1)
    with pytest.raises(WindowError, match=r"the longest document has 1; ingest longer documents"):
        world.documents_of([1]).targets(refused)


@pytest.mark.parametrize(
    "wrong",
    [
        (3, 4),
        (3, 0),
        (3, 1, (0,)),
        (3, 1, ()),
        (3, 1, (2, 1)),
        (3, 1, (1, 1)),
        (3, 3, (1,), "middle"),
        (4, 2, (1,), "middle"),
        (4, 4, (2,), "middle"),
    ],
)
def test_shapes_that_cannot_be_meant_are_refused(wrong):
    with pytest.raises(WindowError):
        SequenceShape(*wrong)


def test_batch_moves_to_a_device(world, source):
    batch = next(iter(source.epoch(0)))
    assert batch.to(torch.device("cpu")) is batch
    requested = BatchSource(
        world.Rows(), source.documents, source.shape, 2, sampling=Sampling(conditional=0.5, broken=0.5)
    )
    batch = next(iter(requested.epoch(0)))
    meta = batch.to(torch.device("meta"))
    tensors = (meta.inputs, meta.targets, meta.mask, meta.lengths, meta.broken, meta.query)
    assert {t.device.type for t in tensors} == {"meta"}
    assert meta.positions == batch.positions
    assert list(chain(meta.documents)) == list(batch.documents)
