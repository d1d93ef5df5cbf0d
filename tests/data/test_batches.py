"""Batches: each target counts exactly once an epoch, and the order is a pure function of seed and epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.data.batches import Batch, BatchSource, gather_batch
from nextvec.data.sampling import SequenceShape, Spans, Stretches, batch_stretches, epoch_rng
from nextvec.errors import WindowError


class Rows:
    """Vectors that tell which row they are: row r is (r + 1, -(r + 1), 0.5)."""

    def gather(self, rows: np.ndarray) -> np.ndarray:
        numbers = rows.astype(np.float32) + 1
        return np.stack([numbers, -numbers, np.full_like(numbers, 0.5)], axis=-1)


def spans_of(counts: list[int], gap: int = 0) -> Spans:
    """Documents of these lengths, one after another with `gap` rows between them."""
    first = np.cumsum([0, *(c + gap for c in counts[:-1])])
    return Spans(first.astype(np.int64), np.array(counts, np.int64), np.arange(len(counts)))


def expected_targets(spans: Spans, shape: SequenceShape) -> list[int]:
    """Rows that must count, written the obvious way."""
    return [
        first + target
        for first, count in zip(spans.first.tolist(), spans.count.tolist(), strict=True)
        for target in range(count)
        if target - shape.horizon + 1 >= shape.min_context
    ]


def pairs(batches: Iterator[Batch]) -> list[tuple[int, int, int]]:
    """(first row read, last row read, target row) of every position that counts, told from the vectors
    alone.
    """
    found = []
    for batch in batches:
        inputs, targets = batch.inputs[..., 0].long() - 1, batch.targets[..., 0].long() - 1
        for b, t in batch.mask.nonzero().tolist():
            found.append((int(inputs[b, 0]), int(inputs[b, t]), int(targets[b, t])))
    return found


shapes = st.integers(1, 9).flatmap(
    lambda context: st.builds(SequenceShape, st.just(context), st.integers(1, context), st.integers(1, 3))
)
documents = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(documents, shapes, st.integers(1, 5), st.integers(0, 2**31), st.integers(0, 5), st.booleans())
def test_each_target_counts_exactly_once_an_epoch(counts, shape, batch_size, seed, epoch, fixed):
    spans = spans_of(counts, gap=1)
    wanted = expected_targets(spans, shape)
    if not wanted:
        with pytest.raises(WindowError, match="no target"):
            BatchSource(Rows(), spans, shape, batch_size, seed=seed)
        return
    source = BatchSource(Rows(), spans, shape, batch_size, seed=seed)
    found = pairs(source.fixed() if fixed else source.epoch(epoch))
    assert Counter(target for _, _, target in found) == Counter(wanted)
    assert source.targets == len(wanted)
    owner = {
        row: i
        for i, (f, c) in enumerate(zip(spans.first, spans.count, strict=True))
        for row in range(f, f + c)
    }
    for first, last, target in found:
        assert target - last == shape.horizon
        assert shape.min_context <= last - first + 1 <= shape.context
        assert owner[first] == owner[target], "a stretch crosses a document"


@settings(max_examples=100, deadline=None)
@given(documents, shapes, st.integers(1, 5), st.integers(0, 1000))
def test_batches_hold_about_the_same_number_of_targets(counts, shape, batch_size, seed):
    spans = spans_of(counts)
    if not expected_targets(spans, shape):
        return
    source = BatchSource(Rows(), spans, shape, batch_size, seed=seed)
    batches = list(source.epoch(0))
    budget = batch_size * shape.stride
    assert len(batches) <= source.batches_per_epoch
    assert all(b.positions == int(b.mask.sum()) > 0 for b in batches)
    assert max(b.positions for b in batches) < budget + shape.stride
    assert sum(b.positions for b in batches) == source.targets


def test_windows_of_the_brief_are_full_and_score_the_last_position_only():
    source = BatchSource(Rows(), spans_of([9, 4, 30]), SequenceShape(5, 5), 32, seed=3)
    batches = list(source.epoch(0))
    assert [len(b.inputs) for b in batches] == [
        29
    ]  # 4 of the first document, none of the second, 25 of the third
    assert all(b.full and b.inputs.shape[1] == 5 for b in batches)
    assert all((b.mask == torch.tensor([False] * 4 + [True])).all() for b in batches)


def test_padding_is_zero_and_lengths_tell_it():
    stretches = Stretches(*(np.array(a) for a in ([10, 50], [4, 2], [3, 2], [0, 1])))
    batch = gather_batch(Rows(), stretches, horizon=1)
    assert batch.inputs[..., 0].tolist() == [[11, 12, 13, 14], [51, 52, 0, 0]]
    assert batch.targets[..., 0].tolist() == [[12, 13, 14, 15], [52, 53, 0, 0]]
    assert (batch.inputs[1, 2:] == 0).all()
    assert (batch.targets[1, 2:] == 0).all()
    assert batch.lengths.tolist() == [4, 2]
    assert batch.mask.tolist() == [[False, True, True, True], [True, True, False, False]]
    assert not batch.full
    assert batch.inputs.dtype == torch.float32


def same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x.inputs, y.inputs)
        and torch.equal(x.targets, y.targets)
        and torch.equal(x.mask, y.mask)
        and (x.documents == y.documents).all()
        for x, y in zip(a, b, strict=True)
    )


@pytest.fixture
def source() -> BatchSource:
    return BatchSource(Rows(), spans_of([7, 40, 3, 22, 31, 18]), SequenceShape(6), 2, seed=11)


def test_order_is_a_function_of_seed_and_epoch(source):
    again = BatchSource(Rows(), source.spans, source.shape, 2, seed=11)
    other = BatchSource(Rows(), source.spans, source.shape, 2, seed=12)
    assert same(list(source.epoch(4)), list(again.epoch(4)))
    assert not same(list(source.epoch(4)), list(source.epoch(5)))
    assert not same(list(source.epoch(4)), list(other.epoch(4)))
    assert same(list(source.fixed()), list(other.fixed()))


@pytest.mark.parametrize("skip", [0, 1, 5, 1000])
def test_an_interrupted_epoch_goes_on_where_it_stood(source, skip):
    assert same(list(source.epoch(2, skip=skip)), list(source.epoch(2))[skip:])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_neither_the_batches_nor_the_global_generator(source, workers):
    parallel = BatchSource(Rows(), source.spans, source.shape, 2, seed=11, workers=workers)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert same(list(parallel.epoch(1, skip=2)), list(source.epoch(1, skip=2)))
    assert torch.equal(torch.get_rng_state(), before)


def test_phases_move_from_epoch_to_epoch():
    """A target that comes first in one epoch (least context) does not always come first."""
    spans, shape = spans_of([64]), SequenceShape(8)
    firsts = [set(spans.cut(shape, epoch_rng(0, e)).first.tolist()) for e in range(20)]
    assert len({frozenset(f) for f in firsts}) > 4
    assert set.intersection(*firsts) == {0}


def test_similar_lengths_stand_together():
    """Padding wastes little, though lengths are very mixed."""
    counts = np.random.default_rng(0).integers(2, 40, 400).tolist()
    source = BatchSource(Rows(), spans_of(counts), SequenceShape(32), 16, seed=0)
    real, padded = map(
        sum, zip(*((int(b.lengths.sum()), b.mask.numel()) for b in source.epoch(0)), strict=True)
    )
    assert real / padded > 0.8


def test_a_batch_of_short_stretches_holds_more_of_them():
    short = Stretches(*(np.array(a) for a in ([0] * 12, [2] * 12, [2] * 12, [0] * 12)))
    assert [len(b) for b in batch_stretches(short, batch_size=2, stride=8)] == [8, 4]


def test_no_target_at_all_names_the_longest_document():
    with pytest.raises(WindowError, match="longest document has 7"):
        BatchSource(Rows(), spans_of([3, 7, 5]), SequenceShape(8, 8), 4)


@pytest.mark.parametrize("wrong", [(3, 4, 1), (3, 0, 1), (3, 1, 0)])
def test_shapes_that_cannot_be_meant_are_refused(wrong):
    with pytest.raises(WindowError):
        SequenceShape(*wrong)


def test_batch_moves_to_a_device(source):
    batch = next(iter(source.epoch(0)))
    assert batch.to(torch.device("cpu")) is batch
    meta = batch.to(torch.device("meta"))
    assert {t.device.type for t in (meta.inputs, meta.targets, meta.mask, meta.lengths)} == {"meta"}
    assert meta.positions == batch.positions
    assert list(chain(meta.documents)) == list(batch.documents)
