"""The memory that training would take, without taking it."""

from __future__ import annotations

import pytest
import torch

from nextvec.models import registry
from nextvec.models.ops.parameters import count_parameters
from nextvec.models.registry import TrainingMemory, estimated_memory, training_memory


def estimated(
    device: str, preset: str, batch: int = 2, time: int = 16, **overrides: object
) -> TrainingMemory:
    with torch.device(device):
        model = registry.build("lcm", preset, 64, **{"hidden": 64, "ffn": 96, "heads": 2, **overrides})
    return training_memory(model, batch, time)


@pytest.mark.parametrize("preset", ["small", "small_one_tower", "small_two_tower"])
def test_the_meta_device_tells_what_the_cpu_takes(preset: str) -> None:
    estimate, taken = estimated("meta", preset), estimated("cpu", preset)
    assert (estimate.weights, estimate.gradients, estimate.moments) == (
        taken.weights,
        taken.gradients,
        taken.moments,
    )
    # attention is taken in its plain form, and dropout with a mask of floats: never less than the real thing
    assert 1.0 <= estimate.activations / taken.activations < 1.35


def test_weights_gradients_and_moments_are_counted() -> None:
    model = registry.build("lcm", "small", 32)
    found, values = training_memory(model, 1, 3), count_parameters(model)
    assert (found.gradients, found.moments) == (4 * values, 8 * values)
    assert found.weights == 4 * values + 4 * (1 + 32 + 32)  # scale, median and spread
    assert found.total == found.weights + 12 * values + found.activations
    assert training_memory(model.double(), 1, 3).moments == 16 * values
    assert model.training


@pytest.mark.parametrize("name", registry.names())
def test_every_architecture_is_estimated_without_building_it(name: str) -> None:
    found = estimated_memory(name, "brief", 64, batch=2, time=8)
    if name == "performer":
        assert found is None, "it counts its passes, which only a value can tell"
        return
    with torch.device("meta"):
        values = count_parameters(registry.build(name, "brief", 64))
    assert found is not None
    assert found.moments == 8 * values
    assert found.activations > 0


def test_it_grows_with_batch_and_layers() -> None:
    base = estimated("meta", "small")
    assert estimated("meta", "small", batch=4).activations == pytest.approx(2 * base.activations, rel=0.05)
    assert estimated("meta", "small", layers=6).activations > 1.7 * base.activations
