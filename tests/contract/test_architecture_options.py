"""What every architecture takes from the base class: heads, residuals, gate, standardiser, horizons, queries,
confidence and samples. A new file in models/architectures/ is tested here without a line added."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from contract.lab import MODELS, D, every_architecture, fresh, make, vectors
from nextvec.data.batches import Batch, BatchSource
from nextvec.data.gather import gather_contexts
from nextvec.data.windows import Windows, make_windows
from nextvec.errors import ConfigError, ModelError
from nextvec.evaluation.baselines import BASELINES, Baseline
from nextvec.models.base import NextVectorModel, Prediction
from nextvec.models.heads import HEADS
from nextvec.models.residual import RESIDUALS
from nextvec.models.saving import load_model, save_model
from nextvec.training.build import fit_ranking, fit_residual, fit_standardiser
from nextvec.training.saved import keep_misses
from parity.operators import ema_reference, weights_reference

CONTEXT = 3
EVALUATED = {
    "mean": "linear average",
    "last": "copy-last",
    "ema": "exponential averages",
    "weights": "position weights",
    "ridge": "ridge",
    "averages": "ridge on averages",
}
EVERYTHING = {
    "head": "projection",
    "residual": "ridge",
    "residual_context": CONTEXT,
    "gate": True,
    "standardise": True,
    "horizons": 3,
    "conditional": True,
    "confidence": True,
    "averages": True,
}


@pytest.fixture(scope="module")
def world() -> SimpleNamespace:
    """Documents in which the next vector leans on the last two and on a fixed map of the last."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((D, D)))[0]
    rows: list[np.ndarray] = []
    documents: list[SimpleNamespace] = []
    for count in rng.integers(CONTEXT + 2, 30, 40).tolist():
        documents.append(SimpleNamespace(first=len(rows), count=count))
        own = [rng.standard_normal(D) for _ in range(2)]
        for _ in range(count):
            own.append(0.4 * own[-1] + 0.3 * own[-2] + 0.3 * own[-1] @ turn + 0.5 * rng.standard_normal(D))
        rows += own[2:]
    store = SimpleNamespace(path=Path("world"), documents=documents)
    train, validation = (make_windows(store, part, CONTEXT) for part in (range(30), range(30, 40)))
    found = np.stack(rows).astype(np.float32)
    evaluated = {name: BASELINES[EVALUATED[name]](CONTEXT) for name in EVALUATED}
    ranker = BASELINES["listwise averages"](CONTEXT)
    for baseline in (*evaluated.values(), ranker):
        baseline.fit(found, train, validation)
    ranking = fresh("mlp", ranking=True)
    ranking.scale.fill_(1.7)
    fit_ranking(ranking, found, train)
    parts = {"vectors": found, "train": train, "validation": validation, "ranking": ranking}
    return SimpleNamespace(**parts, evaluated=evaluated, ranker=ranker)


def answers(model: NextVectorModel, prediction: Prediction, candidate: Tensor) -> dict[str, Tensor]:
    """Everything that is predicted, by name."""
    found = {"ahead": prediction.ahead}
    if model.ranker is not None:
        assert prediction.query is not None
        found["query"] = prediction.query
    if model.confidence is not None:
        found["continuation"] = model.continuation(prediction, candidate)
    return found


def parallel(model: NextVectorModel, x: Tensor, query: Tensor | None = None) -> dict[str, Tensor]:
    return answers(model, model(x, query=query), x)


def assert_forms_agree(model: NextVectorModel, x: Tensor, query: Tensor | None = None) -> dict[str, Tensor]:
    """Steps and chunks of 3 say what the parallel form says of x [B, T, D]; returns that.

    In float64, as what is asked here is whether the options take part; how near the forms come in float32 is
    asked of each architecture by itself.
    """
    model, x = model.double(), x.double()
    query = None if query is None else query.double()
    whole = parallel(model, x, query)
    for size in (1, 3):
        state, parts = model.init_state(len(x), query=query), []
        for piece in x.split(size, 1):
            if size == 1:
                prediction, state = model.step(piece[:, 0], state)
                parts.append({k: v[:, None] for k, v in answers(model, prediction, piece[:, 0]).items()})
            else:
                prediction, state = model.extend(piece, state)
                parts.append(answers(model, prediction, piece))
        for name, expected in whole.items():
            got = torch.cat([part[name] for part in parts], 1)
            torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-7)
    return whole


def everything_for(name: str) -> dict[str, Any]:
    """All options at once; a model that draws samples by itself has no query for ranking."""
    return {**EVERYTHING, "ranking": not fresh(name).generative}


def heads_for(name: str) -> list[str]:
    """All heads, but for a model that draws samples by itself: it takes no head that does."""
    return [head for head in HEADS if head != "energy" or not fresh(name).generative]


def baseline_reference(model: NextVectorModel, x: Tensor) -> Tensor:
    """What the residual of a model gives for x [B, T, D], by the slow forms."""
    residual: Any = model.residual
    match model.config.residual:
        case "none":
            return torch.zeros_like(x)
        case "mean":
            return torch.stack([x[:, : t + 1].mean(1) for t in range(x.shape[1])], 1)
        case "last":
            return x
        case "ema":
            return ema_reference(x, residual.weights)
        case "averages":
            each = torch.eye(len(residual.weights), dtype=x.dtype)
            moved = [ema_reference(x, each[k]) @ residual.deviation[k] for k in range(len(each))]
            return ema_reference(x, residual.weights) + sum(moved)
        case "weights":
            return weights_reference(x, residual.weights)
        case "ridge":
            return weights_reference(x, residual.weights, residual.deviation)
        case other:
            raise AssertionError(f"no reference for {other}")


@every_architecture
@pytest.mark.parametrize("residual", RESIDUALS)
@torch.inference_mode()
def test_every_head_residual_and_gate_fit(name: str, residual: str) -> None:
    """Every architecture meets every head and every residual, and over all of them every head meets every
    residual, with the gate and without it."""
    x, heads = vectors(2, 5, torch.float64), heads_for(name)
    turn = MODELS.index(name) + RESIDUALS.index(residual)
    for head in {heads[turn % len(heads)], heads[(turn + len(heads) // 2) % len(heads)]}:
        gate = residual != "none" and (heads.index(head) + turn) % 2 == 0
        options = {"head": head, "residual": residual, "gate": gate, "residual_context": CONTEXT}
        model = make(name, torch.float64, **options)
        output = assert_forms_agree(model, x)["ahead"][..., 0, :]
        for parameter in model.head.parameters():
            parameter.zero_()  # now the residual's baseline alone is left
        baseline = baseline_reference(model, x)
        torch.testing.assert_close(model(x).raw, baseline, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(output, baseline, atol=1e-2)


@every_architecture
@torch.inference_mode()
def test_an_untrained_model_is_the_evaluated_baseline(name: str, world: SimpleNamespace) -> None:
    for residual, evaluated in world.evaluated.items():
        options = {"standardise": True} if residual in ("ridge", "last") else {}  # else the preset's own
        gate = residual in ("weights", "last")
        model = fresh(name, residual=residual, residual_context=CONTEXT, gate=gate, **options)
        model.scale.fill_(1.7)
        fit_residual(model, world.vectors, world.train, world.validation)
        fit_standardiser(model, world.vectors, np.arange(len(world.vectors)))
        raw, expected = output(model, evaluated, world.vectors, world.validation)
        if residual in model.random_init_residuals:
            assert np.abs(raw - expected).max() > 1e-3
        else:
            np.testing.assert_allclose(raw, expected, rtol=0, atol=1e-5)


@every_architecture
@torch.inference_mode()
def test_an_untrained_model_ranks_as_the_listwise_averages(name: str, world: SimpleNamespace) -> None:
    if fresh(name).generative:
        with pytest.raises(ConfigError, match="ranking"):
            fresh(name, ranking=True)
        return
    model, fitted = fresh(name, ranking=True), world.ranking.ranker
    assert model.ranker is not None
    assert fitted is not None
    model.scale.fill_(1.7)
    model.ranker.base.load_state_dict(fitted.base.state_dict())  # it does not depend on the architecture
    evaluated, validation = world.ranker, world.validation.select(slice(None, None, 4))
    contexts, lengths = gather_contexts(world.vectors, validation, evaluated.context)
    ends = torch.from_numpy(lengths)
    query = model.after(torch.from_numpy(contexts), ends).query
    assert query is not None
    np.testing.assert_allclose(query.numpy(), evaluated.predict(contexts, lengths)[1], rtol=0, atol=1e-5)
    assert_forms_agree(make(name, torch.float64, ranking=True), vectors(2, 7, torch.float64))


def output(
    model: NextVectorModel, evaluated: Baseline, rows: np.ndarray, windows: Windows
) -> tuple[np.ndarray, np.ndarray]:
    """What a model and a baseline say of the same contexts, [N, D] each."""
    contexts, lengths = gather_contexts(rows, windows, evaluated.context)
    ends = torch.from_numpy(lengths)
    raw = model(torch.from_numpy(contexts), ends).raw[torch.arange(len(ends)), ends - 1]
    return raw.numpy(), evaluated.predict(contexts, lengths)[0]


@every_architecture
@torch.inference_mode()
def test_a_fresh_gate_a_fresh_condition_and_fresh_averages_change_nothing(name: str) -> None:
    x, query = vectors(2, 7), vectors(2, 1, seed=5)[:, 0]
    plain = fresh(name, residual="last")
    extended = fresh(name, residual="last", gate=True, conditional=True, averages=True)
    weights = {**extended.state_dict(), **plain.state_dict()}
    head = [key for key in plain.state_dict() if key.startswith("head.")]
    weights |= {key: torch.randn_like(weights[key]) for key in head}
    for model in (plain, extended):
        model.load_state_dict({key: weights[key] for key in model.state_dict()})
    expected = plain(x).raw
    assert not torch.allclose(expected, x, atol=1e-2)
    torch.testing.assert_close(extended(x, query=query).raw, expected, rtol=0, atol=0)


@every_architecture
@torch.inference_mode()
def test_several_horizons(name: str) -> None:
    model, x = make(name, torch.float64, horizons=3, residual="mean"), vectors(2, 7, torch.float64)
    prediction = model(x)
    assert prediction.ahead.shape == (2, 7, 3, D)
    assert torch.equal(prediction.ahead[..., 0, :], prediction.raw)
    assert_forms_agree(model, x)
    one, other = prediction.ahead[..., 1, :], prediction.ahead[..., 2, :]
    assert not torch.allclose(one, other, atol=1e-2)  # each has its own head
    assert torch.equal(make(name)(x).ahead[..., 0, :], make(name)(x).raw)


@every_architecture
@torch.inference_mode()
def test_a_query_is_heard_and_a_zero_one_is_none(name: str) -> None:
    model, x = make(name, torch.float64, conditional=True), vectors(3, 7, torch.float64)
    query = vectors(3, 1, torch.float64, seed=5)[:, 0]
    query[1] = 0.0
    output, silent = assert_forms_agree(model, x, query)["ahead"], model(x).ahead
    assert torch.equal(model(x, query=torch.zeros(3, D)).ahead, silent)
    torch.testing.assert_close(output[1], silent[1], rtol=0, atol=1e-6)
    moved = (output - silent).abs().amax((1, 2, 3))
    assert (moved[[0, 2]] > 1e-3).all()
    lengths = torch.tensor([3, 7, 5])
    garbage = x.masked_fill((torch.arange(7) >= lengths[:, None])[..., None], float("nan"))
    torch.testing.assert_close(model(garbage, lengths, query).ahead[0, :3], output[0, :3], rtol=0, atol=1e-5)


@every_architecture
@torch.inference_mode()
def test_standardised_vectors(name: str, world: SimpleNamespace) -> None:
    rows = world.vectors * np.linspace(0.01, 30, D, dtype=np.float32) + 5
    rows[:, 3] = 5.0  # a dimension that never varies
    model = make(name, standardise=True)
    fit_standardiser(model, rows, np.arange(len(rows)))
    x = torch.from_numpy(rows[:14].reshape(2, 7, D))
    spread = model.standardiser.spread * model.scale  # type: ignore[union-attr]
    whole = assert_close_in(spread, model, x)
    # The network itself sees the same numbers whatever the dimensions' own units are.
    plain = make(name, standardise=True)  # the same weights; not fitted, it changes nothing
    seen = (x / model.scale - model.standardiser.median) / model.standardiser.spread  # type: ignore[union-attr]
    inside = plain(seen * plain.scale).raw / plain.scale
    back = (inside * model.standardiser.spread + model.standardiser.median) * model.scale  # type: ignore[union-attr]
    torch.testing.assert_close(whole, back, rtol=1e-4, atol=1e-3)


def assert_close_in(spread: Tensor, model: NextVectorModel, x: Tensor) -> Tensor:
    """Steps agree with the parallel form, measured in each dimension's own spread."""
    whole, state = model(x).raw, model.init_state(len(x))
    for t in range(x.shape[1]):
        prediction, state = model.step(x[:, t], state)
        assert ((prediction.raw - whole[:, t]) / spread).abs().max() < 1e-4
    assert whole.isfinite().all()
    return whole


@every_architecture
def test_confidence_is_a_logit_of_each_candidate(name: str) -> None:
    model, x = make(name, torch.float64, confidence=True, horizons=2), vectors(2, 7, torch.float64)
    with torch.inference_mode():
        assert_forms_agree(model, x)
    prediction = model(x)
    near, far = (model.continuation(prediction, sign * prediction.raw) for sign in (1, -1))
    assert near.shape == (2, 7)
    assert (near > far).all()
    several = model.continuation(prediction, prediction.ahead)
    assert several.shape == (2, 7, 2)
    torch.testing.assert_close(several[..., 0], near)
    with torch.no_grad():
        untrained = fresh(name, confidence=True).double()
        output = untrained(x)
        logit = untrained.continuation(output, output.raw)
        torch.testing.assert_close(logit, torch.full_like(logit, 5.0))


@every_architecture
def test_a_point_with_resampled_misses(name: str, tmp_path: Path) -> None:
    if fresh(name).generative:  # a diffusion draws by itself
        with pytest.raises(ConfigError, match="resampled need variant = 'base'"):
            make(name, resampled=6)
        return
    model, x = make(name, resampled=6), vectors(3, 7)
    assert model.can_sample
    assert model.misses is not None
    with torch.inference_mode():
        point = model.after(x).raw
        torch.testing.assert_close(model.sample(x, 4), point.expand(4, -1, -1))  # nothing was missed yet
        model.misses.values.copy_(torch.eye(6, D))
        model.scale.fill_(2.0)
        point = model.after(x).raw
        drawn = model.sample(x, 4, generator=torch.Generator().manual_seed(0))
        missed = (drawn - point) / 2
    assert sorted(missed.sum(-1).flatten().round(decimals=4).tolist()) == [1.0] * 12
    assert all(len({int(one) for one in row}) == 4 for row in missed.argmax(-1).T)  # no miss twice in a row
    save_model(tmp_path, model)
    torch.testing.assert_close(load_model(tmp_path)[0].misses.values, model.misses.values)
    assert not fresh(name).can_sample


@pytest.mark.parametrize("residual", RESIDUALS)
@every_architecture
def test_the_length_is_fitted_where_it_is_free(name: str, residual: str, tmp_path: Path) -> None:
    if fresh(name).generative:  # has no misses to keep, as the test above says
        return
    heads = [head for head in HEADS if head != "energy"]
    head = heads[(MODELS.index(name) + RESIDUALS.index(residual)) % len(heads)]
    options = {"residual": residual, "head": head, "horizons": 2, "residual_context": CONTEXT}
    model, x = make(name, resampled=4, **options), vectors(3, 7)
    with torch.inference_mode():
        ahead = model(x).ahead
    target = 2.5 * ahead + 0.1 * torch.randn(ahead.shape, generator=torch.Generator().manual_seed(0))
    mask, lengths = torch.ones(3, 7, 2, dtype=torch.bool), torch.full((3,), 7)
    batch = Batch(x, target, mask, lengths, np.arange(3), full=True, positions=42)
    save_model(tmp_path, model)
    keep_misses(tmp_path, cast(BatchSource, SimpleNamespace(fixed=lambda: [batch])))
    fitted, _ = load_model(tmp_path)
    with torch.inference_mode():
        after = fitted(x).ahead
    shifted = residual == "none" and model.standardiser is not None
    free = residual not in ("mean", "last") and head != "unit" and not shifted
    raw, goal = ahead[..., 0, :], target[..., 0, :]
    factor = float((raw * goal).sum() / raw.square().sum()) if free else 1.0
    torch.testing.assert_close(after, factor * ahead, rtol=1e-4, atol=1e-4)
    assert fitted.misses is not None
    left = (goal - after[..., 0, :]).flatten(0, 1) / fitted.scale
    assert torch.cdist(fitted.misses.values, left).min(1).values.max() < 1e-4


@every_architecture
def test_with_every_option_every_parameter_learns(name: str, tmp_path: Path) -> None:
    model, x = make(name, **everything_for(name)).train(), vectors(4, 12)
    query, broken = vectors(4, 1, seed=5)[:, 0], torch.arange(11) % 2 == 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(4):
        optimizer.zero_grad()
        prediction, own = model.learn(x[:, :-1], None, x[:, 1:], torch.ones(4, 11, dtype=torch.bool), query)
        logit = model.continuation(prediction, x[:, 1:])
        evaluated = torch.nn.functional.binary_cross_entropy_with_logits(logit, broken.float().expand(4, -1))
        wrong = (prediction.ahead - x[:, 1:, None]).square().mean()
        if prediction.query is not None:
            wrong = wrong - (prediction.query * x[:, 1:]).sum(-1).mean()
        (wrong + evaluated + sum(own.values())).backward()
        optimizer.step()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        if key not in model.no_gradient:
            assert parameter.grad.abs().max() > 1e-7, key
    model.eval()
    save_model(tmp_path, model)
    loaded, _ = load_model(tmp_path)
    with torch.inference_mode():
        output, again = (parallel(one, x, query) for one in (model, loaded))
        for key, value in output.items():
            torch.testing.assert_close(again[key], value, rtol=0, atol=1e-5)
        assert_forms_agree(loaded, x, query)


@every_architecture
@torch.inference_mode()
def test_what_can_be_sampled(name: str) -> None:
    x, lengths = vectors(2, 7), torch.tensor([7, 4])
    mask = torch.arange(7) < lengths[:, None]
    for head in heads_for(name):
        model = make(name, head=head, residual="last")
        prediction, own = model.learn(x, lengths, x.roll(-1, 1), mask)
        torch.testing.assert_close(prediction.raw[mask], model(x, lengths).raw[mask])
        assert own.keys() == ({"generative"} if model.generative else set())
        if not model.generative:
            with pytest.raises(ModelError, match="sample"):
                model.sample(x, 3, lengths)
            continue
        assert own["generative"].ndim == 0
        assert own["generative"].isfinite()
        drawn = [model.sample(x, 3, lengths, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
        assert drawn[0].shape == (3, 2, D)
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.allclose(drawn[0], drawn[2])
        assert not torch.allclose(drawn[0][0], drawn[0][1])
