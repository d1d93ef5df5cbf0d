"""Whatever draws the batches, an epoch goes on where it stood, with any number of workers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nextvec.data.batches import BatchSource
from nextvec.data.sampling import Sampling
from nextvec.data.windows import SequenceShape

COUNTS = [7, 40, 3, 22, 31, 18, 260]
SOURCES = ["a", "b", "a", "a", "b", "b", "a"]
SHAPES = {
    "sequences": SequenceShape(6),
    "windows": SequenceShape(5, 5),
    "horizons": SequenceShape(6, 2, (1, 2, 5)),
    "whole": SequenceShape(64, whole=True),
    "middle": SequenceShape(6, 6, task="middle"),
}
SAMPLERS = {
    "plain": Sampling(),
    "diverse": Sampling(max_per_document=2),
    "mixed": Sampling(mixing={"a": 1.0, "b": 4.0}),
    "even": Sampling(mixing_temperature=5.0, max_per_document=3),
    "conditional": Sampling(conditional=0.5),
    "broken": Sampling(broken=0.5),
    "context": Sampling(curriculum="context", epochs=6),
    "coherence": Sampling(curriculum="coherence", epochs=6),
    "all": Sampling(
        max_per_document=3,
        mixing={"a": 1.0, "b": 2.0},
        mixing_temperature=2.0,
        conditional=0.3,
        broken=0.3,
        curriculum="coherence",
        epochs=6,
    ),
}


def source_of(world, shape: SequenceShape, sampling: Sampling, *, workers: int = 0, seed: int = 11):
    angles = np.random.default_rng(0).standard_normal(sum(COUNTS)).cumsum()
    documents = world.documents_of(COUNTS, sources=SOURCES)
    return BatchSource(
        world.Cosines(angles), documents, shape, 4, seed=seed, workers=workers, sampling=sampling
    )


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_interrupted_epoch_goes_on_where_it_stood(world, shape, sampler):
    sampling, shape = SAMPLERS[sampler], SHAPES[shape]
    for epoch in (0, 2, 5):
        whole = list(source_of(world, shape, sampling).epoch(epoch))
        for skip in (0, 1, len(whole) // 2, len(whole) - 1, len(whole), 1000):
            rest = list(source_of(world, shape, sampling).epoch(epoch, skip=skip))
            assert world.same(rest, whole[skip:])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_epoch_depends_on_its_seed_and_number_and_on_nothing_else(world, sampler):
    shape, sampling = SHAPES["sequences"], SAMPLERS[sampler]
    one, again = (source_of(world, shape, sampling) for _ in range(2))
    fourth = list(one.epoch(4))
    assert world.same(list(again.epoch(5)), list(one.epoch(5)))
    assert world.same(list(again.epoch(4)), fourth)
    assert not world.same(list(one.epoch(5)), fourth)
    other = source_of(world, shape, sampling, seed=12)
    assert not world.same(list(other.epoch(4)), fourth)
    assert world.same(list(other.fixed()), list(one.fixed()))
    assert one.batches_in(4) == len(fourth) == source_of(world, shape, sampling).batches_in(4)


@pytest.mark.parametrize("sampler", ["plain", "all"])
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_neither_the_batches_nor_the_global_generator(world, sampler, workers):
    shape, sampling = SHAPES["horizons"], SAMPLERS[sampler]
    parallel = source_of(world, shape, sampling, workers=workers)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    alone = source_of(world, shape, sampling)
    assert world.same(list(parallel.epoch(1, skip=2)), list(alone.epoch(1, skip=2)))
    assert world.same(list(parallel.fixed()), list(alone.fixed()))
    assert torch.equal(torch.get_rng_state(), before)
