"""A trained run as a predictor: what it answers is what the model answers, whatever stands beside it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import nextvec
from by_hand import by_hand
from nextvec.corpus.store import Store
from nextvec.data.gather import gather_contexts
from nextvec.data.splits import SplitConfig, split_documents
from nextvec.data.trained import TrainedOn, chunk_keys, key, known
from nextvec.data.windows import make_windows
from nextvec.errors import ConfigError, ModelError, RunError, VectorError
from nextvec.evaluation.evaluation_set import EvaluationSet
from nextvec.evaluation.harness import EvaluationConfig, make_evaluation_set
from nextvec.evaluation.metrics import Scores
from nextvec.inference.predictor import ModelPredictor, RunPredictor
from nextvec.models.registry import names
from nextvec.vectors import require_raw, require_unit

D = 8


def contexts_of_all_lengths(width: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One context of every length from 1 to `width`, with noise in the padding."""
    lengths = np.arange(1, width + 1, dtype=np.int64)
    return rng.standard_normal((width, width, D)).astype(np.float32), lengths


@pytest.fixture(params=names())
def model(request: pytest.FixtureRequest) -> torch.nn.Module:
    torch.manual_seed(0)
    built = nextvec.build(request.param, d_embed=D, hidden=32)
    with torch.no_grad():
        built.scale.fill_(2.0)
    return built


def test_the_prediction_after_the_last_vector(model: torch.nn.Module) -> None:
    """Each context alone and unpadded, asked of the model itself, against all of them at once."""
    contexts, lengths = contexts_of_all_lengths(7, np.random.default_rng(0))
    predictor = ModelPredictor(model.train(), 7, "mine")
    assert not model.training
    raw, unit = predictor.predict(contexts, lengths)
    assert (raw.dtype, raw.shape, unit.shape) == (np.float32, (7, D), (7, D))
    for i, n in enumerate(lengths):
        with torch.no_grad():
            output = model(torch.from_numpy(contexts[i : i + 1, :n]))
        np.testing.assert_allclose(raw[i], output.raw[0, -1].numpy(), atol=1e-5)
        np.testing.assert_allclose(unit[i], output.unit[0, -1].numpy(), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-5)


def test_neither_the_padding_nor_the_neighbours_matter(model: torch.nn.Module) -> None:
    rng = np.random.default_rng(1)
    contexts, lengths = contexts_of_all_lengths(6, rng)
    predictor = ModelPredictor(model, 6, "mine")
    raw, _ = predictor.predict(contexts, lengths)
    spoiled = contexts.copy()
    for i, n in enumerate(lengths):
        spoiled[i, n:] = np.nan
    np.testing.assert_array_equal(predictor.predict(spoiled, lengths)[0], raw)
    order = rng.permutation(6)
    np.testing.assert_allclose(predictor.predict(contexts[order], lengths[order])[0], raw[order], atol=1e-5)
    alone = np.concatenate([predictor.predict(contexts[i : i + 1], lengths[i : i + 1])[0] for i in range(6)])
    np.testing.assert_allclose(alone, raw, atol=1e-5)


def test_what_a_model_predictor_tells_of_itself(model: torch.nn.Module) -> None:
    predictor = ModelPredictor(model, 5, "mine", encoder="abc")
    assert (predictor.name, predictor.kind, predictor.context) == ("mine", "model", 5)
    assert (predictor.dimension, predictor.encoder) == (D, "abc")
    assert predictor.metadata == {"parameters": sum(p.numel() for p in model.parameters())}


def test_load_gives_the_best_model_ready_to_predict(trained: Path, world: Store) -> None:
    model = nextvec.load(trained)
    assert not model.training
    assert model.architecture == "lstm"
    assert model.d_embed == world.dimension
    x = torch.from_numpy(world.vectors[:12])[None]
    first, again = model(x), nextvec.load(str(trained))(x)
    assert torch.equal(first.raw, again.raw)
    assert first.raw.shape == (1, 12, 16)


def test_load_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such folder; give the folder of a run"):
        nextvec.load(tmp_path / "nowhere")


def test_a_run_says_how_it_was_trained(trained: Path, world: Store) -> None:
    run = RunPredictor(trained)
    assert (run.name, run.kind, run.context) == ("small-lstm", "model", 32)
    assert run.encoder == "world"
    assert run.training["horizons"] == [1]
    assert (run.horizons, run.task) == ((1,), "next")
    assert run.training["store_fingerprint"] == world.fingerprint
    metrics = json.loads((trained / "metrics.json").read_text())
    assert run.metadata == {
        "parameters": metrics["parameters"],
        "bytes": (trained / "model.safetensors").stat().st_size,
        "seconds": metrics["seconds"],
        "epoch": metrics["epoch"],
        "validation_cosine": metrics["cosine"],
    }
    assert RunPredictor(trained, "another").name == "another"


def test_a_run_answers_as_its_model(trained: Path, world: Store) -> None:
    """Windows of a real store, padded to the widest, against one window at a time."""
    run, model = RunPredictor(trained), nextvec.load(trained)
    windows = make_windows(world, [0, 7], context=1)
    contexts, lengths = gather_contexts(world.vectors, windows, run.context)
    assert set(lengths) == set(range(1, 12))
    raw, _ = run.predict(contexts, lengths)
    for i in range(len(windows)):
        x = torch.from_numpy(world.vectors[windows.first[i] : windows.last[i] + 1])[None]
        with torch.no_grad():
            np.testing.assert_allclose(raw[i], model(x).raw[0, -1].numpy(), atol=1e-5)


def test_what_it_was_trained_on_comes_back(trained: Path, world: Store, tmp_path: Path) -> None:
    split = split_documents(world, SplitConfig())
    seen = RunPredictor(trained).trained_on
    rows = np.arange(len(world))
    documents = np.repeat([i in split.train for i in range(len(world.documents))], 12)
    np.testing.assert_array_equal(known(seen.chunks, chunk_keys(world, rows)), documents)
    for values, keys in (
        ([d.doc_id for d in world.documents], seen.ids),
        ([d.sha256 for d in world.documents], seen.documents),
    ):
        np.testing.assert_array_equal(known(keys, map(key, values)), documents[::12])
    seen.save(tmp_path / "keys.safetensors")
    again = TrainedOn.load(tmp_path / "keys.safetensors")
    for part in ("chunks", "documents", "ids"):
        np.testing.assert_array_equal(getattr(again, part), getattr(seen, part))


def test_an_unfinished_run_can_be_evaluated_and_tells_no_seconds(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    metadata = RunPredictor(tmp_path / "run").metadata
    assert metadata["seconds"] is None
    assert metadata.keys() == {"parameters", "bytes", "seconds"}


@pytest.mark.parametrize("missing", ["training", "encoder"])
def test_a_model_that_was_not_trained_by_nextvec(trained: Path, tmp_path: Path, missing: str) -> None:
    shutil.copytree(trained, tmp_path / "run")
    config = tmp_path / "run" / "config.json"
    held = json.loads(by_hand(config))
    del held[missing]
    config.write_text(json.dumps(held))
    assert nextvec.load(tmp_path / "run").architecture == "lstm"
    with pytest.raises(RunError, match="does not hold what it was trained on"):
        RunPredictor(tmp_path / "run")


def test_the_list_of_what_was_seen_is_needed(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "trained_on.safetensors").write_bytes(b"nothing")
    with pytest.raises(RunError, match=r"trained_on\.safetensors: does not list .* train it again"):
        _ = RunPredictor(tmp_path / "run").trained_on


def test_a_device_that_is_not_there(trained: Path) -> None:
    device = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(ConfigError, match=f"no {device} device here; give cpu"):
        RunPredictor(trained, device=device)


@pytest.mark.parametrize("options", [{"head": "energy"}, {"preset": "small_two_tower"}])
def test_samples_of_a_generative_model(options: dict[str, str]) -> None:
    torch.manual_seed(0)
    predictor = ModelPredictor(nextvec.build("lcm", d_embed=D, **options), 6, "mine")
    assert predictor.generative
    contexts, lengths = contexts_of_all_lengths(6, np.random.default_rng(1))
    drawn = predictor.sample(contexts, lengths, 3, seed=5)
    assert (drawn.dtype, drawn.shape) == (np.float32, (3, 6, D))
    assert np.array_equal(drawn, predictor.sample(contexts, lengths, 3, seed=5))
    assert not np.allclose(drawn, predictor.sample(contexts, lengths, 3, seed=6))
    assert not np.allclose(drawn[0], drawn[1])
    contexts[lengths < 6, -1] = 1e3  # padding
    np.testing.assert_allclose(drawn, predictor.sample(contexts, lengths, 3, seed=5), atol=1e-4)


def test_samples_around_points_that_are_known_are_those_of_sample() -> None:
    torch.manual_seed(0)
    model = nextvec.build("lstm", d_embed=D, resampled=5)
    model.misses.values.normal_()
    model.scale.fill_(0.5)
    predictor = ModelPredictor(model, 6, "mine")
    assert predictor.resamples
    contexts, lengths = contexts_of_all_lengths(6, np.random.default_rng(1))
    raw, _ = predictor.predict(contexts, lengths)
    drawn = predictor.sample(contexts, lengths, 3, seed=5)
    assert (drawn.dtype, drawn.shape) == (np.float32, (3, 6, D))
    np.testing.assert_array_equal(drawn, predictor.around(raw, contexts, lengths, 3, seed=5))
    missed = torch.from_numpy((drawn - raw) / 0.5).flatten(0, 1).double()
    missed = torch.cdist(missed, model.misses.values.double()).min(1).values
    assert missed.max() < 1e-5


def test_a_point_has_no_samples() -> None:
    predictor = ModelPredictor(nextvec.build("lstm", d_embed=D), 6, "mine")
    assert not predictor.generative
    with pytest.raises(ModelError, match="has no distribution to sample from"):
        predictor.sample(*contexts_of_all_lengths(3, np.random.default_rng(1)), 3, seed=5)


def test_raw_and_unit_answers_cannot_be_taken_for_each_other(trained: Path) -> None:
    run = RunPredictor(trained)
    contexts = np.random.default_rng(0).standard_normal((3, 4, 16)).astype(np.float32)
    raw, unit = run.answer(contexts, np.array([4, 2, 1]))
    assert raw.encoder == unit.encoder == run.encoder
    np.testing.assert_array_equal(raw.values, run.predict(contexts, np.array([4, 2, 1]))[0])
    np.testing.assert_allclose(np.linalg.norm(unit.values, axis=1), 1, atol=1e-5)
    assert require_raw(raw) is raw
    assert require_unit(unit) is unit
    with pytest.raises(VectorError, match="raw vectors are needed, not UnitVectors"):
        require_raw(unit)
    with pytest.raises(VectorError, match="unit vectors are needed, not RawVectors"):
        require_unit(raw)


def windows_of(world: Store) -> EvaluationSet:
    documents = range(6)
    return make_evaluation_set(world, make_windows(world, documents, 3), documents, EvaluationConfig(), None)


@pytest.mark.parametrize("name", names())
def test_windows_that_begin_together_are_answered_in_one_pass(
    name: str, world: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same answers as of each window alone; windows that read more than the context are asked alone."""
    torch.manual_seed(0)
    ranking = {} if nextvec.build(name, d_embed=world.dimension).generative else {"ranking": True}
    model = nextvec.build(name, d_embed=world.dimension, hidden=32, residual="last", **ranking)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    predictor = ModelPredictor(model, 8, "mine")
    passes = Scores.of(predictor, windows_of(world))
    requested = []
    monkeypatch.setattr(
        predictor,
        "predict_positions",
        lambda contexts: requested.append(contexts.shape),  # type: ignore[func-returns-value]
    )
    alone = Scores.of(predictor, windows_of(world))
    assert requested == [(6, 8, world.dimension)]
    np.testing.assert_allclose(passes.raw, alone.raw, atol=1e-4)
    np.testing.assert_allclose(passes.query, alone.query, atol=1e-4)
    assert (passes.ranks != passes.unit_ranks).any() == bool(ranking)


def test_a_model_that_sees_what_comes_is_not_given_it(world: Store) -> None:
    """Asked for all positions of a document at once, it would find the answers there."""

    class Leaky(ModelPredictor):
        def predict_positions(self, contexts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            following = np.concatenate([contexts[:, 1:], contexts[:, -1:]], axis=1)
            return following, following

    model = nextvec.build("gru", d_embed=world.dimension, hidden=32)
    honest = Scores.of(ModelPredictor(model, 20, "mine"), windows_of(world))
    np.testing.assert_allclose(
        Scores.of(Leaky(model, 20, "mine"), windows_of(world)).raw, honest.raw, atol=1e-5
    )
