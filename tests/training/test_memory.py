"""A training that cannot fit the memory is refused before it starts; one that can is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nextvec.corpus.store import Store
from nextvec.errors import ModelError
from nextvec.models.registry import training_memory
from nextvec.training import checks
from nextvec.training.build import build_model
from nextvec.training.checks import refuse_memory
from nextvec.training.loop import train


def test_a_batch_larger_than_the_memory_is_refused_and_nothing_is_written(
    world: Store, make_tiny: Callable[..., Any], tmp_path: Path
) -> None:
    big = ("model.options.heads=2", "data.context=512", "optim.batch_size=10000000")
    with pytest.raises(ModelError, match=r"model transformer: training needs .* batch of 10,000,000 x 512"):
        train(world, make_tiny("transformer", *big), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["transformer", "performer"])
def test_the_border_is_what_training_takes(
    world: Store, make_tiny: Callable[..., Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_tiny(name)
    model = build_model(world, config)
    taken = training_memory(model, config.optim.batch_size, config.data.context)
    held = taken.gradients + taken.gradients + taken.moments
    most = held if name == "performer" else held + taken.activations
    monkeypatch.setattr(checks, "memory_of", lambda device: int(1.4 * most))
    refuse_memory(model, config, "cpu")
    shared = make_tiny(name, "runtime.devices=4", "runtime.strategy=fsdp")
    monkeypatch.setattr(checks, "memory_of", lambda device: int(0.4 * most))
    refuse_memory(model, shared, "cuda")
    with pytest.raises(ModelError, match=r"lower optim\.batch_size, data\.context"):
        refuse_memory(model, config, "cpu")
