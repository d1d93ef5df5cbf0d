"""A run that can do everything a run can: two horizons, queries, confidence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nextvec.corpus.store import Store


@pytest.fixture(scope="session")
def steered_run(
    text_store: Store, make_tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a small GRU trained on `text_store` with horizons 1 and 3, queries and confidence."""
    from nextvec.training.loop import train

    folder = tmp_path_factory.mktemp("text-runs") / "steered"
    settings = (
        "data.horizons=[1,3]", "model.options.horizons=2",
        "data.conditional=0.5", "model.options.conditional=true",
        "data.broken=0.5", "model.options.confidence=true", "loss.continuation=1",
    )  # fmt: skip
    train(text_store, make_tiny("gru", "optim.epochs=3", "optim.lr=0.03", *settings), folder, quiet=True)
    return folder
