"""What models start from, where the contract suite does not look: a ridge that is narrower than asked for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nextvec.data import least_squares as linear
from nextvec.data.gather import gather_contexts
from nextvec.data.windows import make_windows
from nextvec.evaluation.baselines import Ridge
from nextvec.models import registry
from nextvec.training.build import fit_residual, fit_standardiser

D = 6


@pytest.fixture
def world() -> SimpleNamespace:
    rng = np.random.default_rng(0)
    vectors = (np.cumsum(rng.standard_normal((300, D)), axis=0) + 40).astype(np.float32)
    documents = [SimpleNamespace(first=20 * i, count=20) for i in range(15)]
    store = SimpleNamespace(path=Path("world"), documents=documents)
    train, validation = (make_windows(store, part, 4) for part in (range(12), range(12, 15)))
    return SimpleNamespace(vectors=vectors, train=train, validation=validation)


@torch.inference_mode()
def test_a_ridge_of_too_many_numbers_uses_fewer_positions(
    world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "MAX_FEATURES", 2 * D + 1)
    model = registry.build("mlp", d_embed=D, hidden=8, residual="ridge", residual_context=4).eval()
    metadata = fit_residual(model, world.vectors, world.train, world.validation)
    evaluated = Ridge(4)
    evaluated.fit(world.vectors, world.train, world.validation)
    assert (metadata["positions"], metadata["lambda"]) == (2, evaluated.metadata["lambda"])
    assert len(metadata["weights"]) == 4
    contexts, _ = gather_contexts(world.vectors, world.validation, 4)
    raw = model(torch.from_numpy(contexts)).raw[:, -1].numpy()
    short, lengths = gather_contexts(world.vectors, world.validation, 2)
    np.testing.assert_allclose(raw, evaluated.predict(short, lengths)[0], atol=1e-4)


def test_what_needs_no_fit_is_left_alone(world: SimpleNamespace) -> None:
    model = registry.build("mlp", d_embed=D, hidden=8, residual="mean")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert fit_residual(model, world.vectors, world.train, None) == {}
    fit_standardiser(model, world.vectors, np.arange(300))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_normaliser_is_in_the_models_scale(world: SimpleNamespace) -> None:
    model = registry.build("mlp", d_embed=D, hidden=8, standardise=True)
    model.scale.fill_(2.0)
    fit_standardiser(model, world.vectors, np.arange(240))
    median = np.median(world.vectors[:240], axis=0) / 2
    np.testing.assert_allclose(model.standardiser.median, median, rtol=1e-6)
