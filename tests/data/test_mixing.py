"""Sources in other shares than they have."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from nextvec.data.batches import BatchSource
from nextvec.data.sampling import Mixture, Sampling
from nextvec.data.windows import SequenceShape
from nextvec.errors import ConfigError

SHAPE = SequenceShape(6)
COUNTS = [31] * 20 + [11] * 10
SOURCES = ["wiki"] * 20 + ["news"] * 10  # 600 targets and 100


def source_of(world, **options) -> BatchSource:
    documents = world.documents_of(COUNTS, sources=SOURCES)
    return BatchSource(world.Rows(), documents, SHAPE, 4, seed=3, sampling=Sampling(**options))


def drawn(world, source: BatchSource, epoch: int = 0) -> tuple[dict[str, int], Counter[int]]:
    """Targets of each source in an epoch, and how often each target row came."""
    owner = world.owners(source.documents)
    rows = Counter(target for _, _, _, target in world.pairs(source.epoch(epoch)))
    found = Counter()
    for row, times in rows.items():
        found[SOURCES[owner[row]]] += times
    return dict(found), rows


@pytest.mark.parametrize(
    ("mixing", "temperature", "share"),
    [
        ({"wiki": 1.0, "news": 1.0}, 1.0, 0.5),
        ({"wiki": 3.0, "news": 1.0}, 1.0, 0.25),
        ({"wiki": 9.0, "news": 1.0}, 2.0, 0.25),
        ({}, 2.0, 1 / (1 + 6**0.5)),
        ({}, 1e9, 0.5),
        ({"wiki": 0.0, "news": 2.0}, 1.0, 1.0),
        ({"wiki": 20.0, "news": 1.0}, 1.0, 1 / 21),
    ],
)
def test_an_epoch_has_its_nominal_size_in_the_shares_asked_for(world, mixing, temperature, share):
    source = source_of(world, mixing=mixing, mixing_temperature=temperature)
    found, rows = drawn(world, source)
    assert abs(sum(found.values()) - 700) <= 2 * SHAPE.stride
    assert abs(found.get("news", 0) - 700 * share) <= SHAPE.stride
    for part in source.mixture:
        own = [rows[r] for r, d in world.owners(source.documents).items() if SOURCES[d] == part.source]
        times = [own[i] for i in range(len(own)) if i % (31 if part.source == "wiki" else 11)]
        # every target as often as its source is gone through, once more or once less
        assert set(times) <= {int(part.passes), int(part.passes) + 1}
    assert {part.source: pytest.approx(part.share) for part in source.mixture} == {
        name: weight for name, weight in (("news", share), ("wiki", 1 - share)) if weight > 0
    }
    assert sum(part.passes * part.targets for part in source.mixture) == pytest.approx(700)


def test_a_source_that_gives_a_part_gives_another_one_each_epoch(world):
    source = source_of(world, mixing={"wiki": 1.0, "news": 6.0})
    seen = [set(drawn(world, source, epoch)[1]) for epoch in range(30)]
    assert seen[0] != seen[1]
    assert len(set().union(*seen)) > 0.95 * 700


def test_left_alone_nothing_changes(world):
    plain, same = source_of(world), source_of(world, mixing_temperature=1.0)
    assert Mixture.of(plain.documents, SHAPE, {}) is None
    assert plain.mixture == same.mixture == ()
    assert set(drawn(world, plain)[1].values()) == {1}


def test_the_limit_on_one_document_holds_for_sources_gone_through_many_times(world):
    source = source_of(world, mixing={"wiki": 1.0, "news": 30.0}, max_per_document=2)
    batches = list(source.epoch(0))
    assert max(max(Counter(b.documents.tolist()).values()) for b in batches) == 2
    assert len(batches) == source.batches_in(0)


@pytest.mark.parametrize(
    ("mixing", "text"),
    [
        ({"wiki": 1.0}, "source 'news' is not named; .*data.mixing|data.mixing.*source 'news' is not named"),
        ({"wiki": 1.0, "news": 1.0, "books": 1.0}, "no training document is of source 'books'.*news, wiki"),
    ],
)
def test_sources_that_are_not_there_or_not_named_are_refused(world, mixing, text):
    with pytest.raises(ConfigError, match=text):
        source_of(world, mixing=mixing)


def test_a_source_without_targets_cannot_have_a_share(world):
    documents = world.documents_of([20, 1], sources=["a", "b"])
    with pytest.raises(ConfigError, match="source 'b' holds no target"):
        Mixture.of(documents, SHAPE, {"a": 1.0, "b": 1.0})
    found = Mixture.of(documents, SHAPE, {"a": 1.0, "b": 0.0})
    assert [part.source for part in found.parts] == ["a"]
    assert np.concatenate(found.members).tolist() == [0]
