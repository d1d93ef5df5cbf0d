"""The Large Concept Model: sizes, what learning and sampling owe, and the traps of the published code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from contract.test_architecture_options import assert_forms_agree
from nextvec.errors import ConfigError
from nextvec.models import registry
from nextvec.models.architectures.lcm import LCM
from nextvec.models.ops.parameters import count_parameters

D = 6
DIFFUSIONS = ("small_one_tower", "small_two_tower")
TINY = {"hidden": 16, "ffn": 24, "heads": 2, "dropout": 0.0}
every_diffusion = pytest.mark.parametrize("preset", DIFFUSIONS)


def tiny(preset: str, d_embed: int = D, **overrides: object) -> LCM:
    torch.manual_seed(0)
    model = registry.build("lcm", preset, d_embed, **{**TINY, **overrides})
    assert isinstance(model, LCM)
    return model


def stirred(preset: str, **overrides: object) -> LCM:
    """One whose gates are open: fresh, a Two-Tower's denoiser does not look at the context."""
    model = tiny(preset, **overrides)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    assert model.standardiser is not None
    model.standardiser.median.fill_(0.5)
    model.standardiser.spread.fill_(2.0)
    model.scale.fill_(1.5)
    return model.eval()


@pytest.mark.parametrize(
    ("preset", "count"), [("brief", 1.6476e9), ("one_tower", 1.6476e9), ("two_tower", 1.644e9), ("m20", 20e6)]
)
def test_parameters_on_the_meta_device(preset: str, count: float) -> None:
    with torch.device("meta"):
        model = registry.build("lcm", preset, 768)
    assert count_parameters(model) == pytest.approx(count, rel=0.03)


@pytest.mark.parametrize("preset", ["small", *DIFFUSIONS])
def test_small_ones_are_small(preset: str) -> None:
    assert count_parameters(registry.build("lcm", preset, 768)) < 3_000_000


@pytest.mark.parametrize(
    ("preset", "change", "message"),
    [
        ("small", {"heads": 3}, "multiple of 2 x 3 heads"),
        ("small", {"denoiser_layers": 2}, "goes with variant"),
        ("small_two_tower", {"denoiser_layers": None}, "goes with variant"),
        ("small_two_tower", {"standardise": False}, "needs standardise = true"),
        ("small_one_tower", {"head": "energy"}, "choose another head"),
        ("small_one_tower", {"levels": 10}, "more than there are levels"),
        ("small_one_tower", {"unconditional": 1.5}, "unconditional is 1.5; it must be between 0 and 1"),
        ("small_one_tower", {"guidance": -1.0}, "guidance is -1.0; it must be between 0 and 100"),
    ],
)
def test_a_configuration_that_cannot_be_meant(preset: str, change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        registry.build("lcm", preset, D, **change)


@every_diffusion
@torch.no_grad()
def test_the_point_is_one_estimate_from_the_same_noise(preset: str) -> None:
    model, x = stirred(preset), torch.randn(3, 5, D)
    raw = model(x).raw
    assert torch.equal(raw, model(x).raw)
    torch.manual_seed(5)
    assert torch.equal(raw, model.train()(x).raw)  # no dropout here: nothing else in it is random
    model.start.add_(1.0)
    assert not torch.allclose(raw, model(x).raw)


@every_diffusion
@pytest.mark.parametrize("T", [1, 3, 7, 40])
def test_guidance_drops_positions_at_its_rate_at_any_length(preset: str, T: int) -> None:
    model = tiny(preset, unconditional=0.15)
    read = model._read(torch.zeros(1, T, D))
    nothing = 0 if model.denoiser is None else 1
    torch.manual_seed(1)
    seen = torch.cat([model._visible(read, 50, T) for _ in range(1 + 4000 // (50 * T))])
    causal = torch.ones(T, T, dtype=torch.bool).tril()
    assert torch.equal(seen[:, :T, nothing:], causal.expand(len(seen), -1, -1))  # the point has all context
    noisy = seen[:, T:, nothing:]
    dropped = ~noisy.any(-1)
    assert torch.equal(noisy[~dropped], causal.expand_as(noisy)[~dropped])
    assert float(dropped.float().mean()) == pytest.approx(0.15, abs=0.025)
    assert dropped.float().mean(0) == pytest.approx([0.15] * T, abs=0.06 if T < 10 else 0.2)
    assert seen[..., :nothing].all()


@every_diffusion
@torch.no_grad()
def test_without_context_nothing_read_matters(preset: str) -> None:
    model = stirred(preset, residual="none")
    x = torch.randn(2, 6, D)
    options = {"n": 3, "guidance": 0.0, "fresh": 0.0}
    one = model.sample(x, generator=torch.Generator().manual_seed(0), **options)
    other = model.sample(10 * x[:, :6].flip(1), generator=torch.Generator().manual_seed(0), **options)
    torch.testing.assert_close(one, other)
    condition = model.sample(x, n=3, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(one, condition, atol=1e-2)


@every_diffusion
@pytest.mark.parametrize("residual", ["none", "ema"])
@torch.no_grad()
def test_samples_do_not_see_padding_or_each_other(preset: str, residual: str) -> None:
    model, lengths = stirred(preset, residual=residual), torch.tensor([3, 7, 1])
    x = torch.randn(3, 7, D)
    padding = torch.arange(7) >= lengths[:, None]
    padded = x.masked_fill(padding[..., None], float("nan"))
    start = torch.randn(3, 4, D)

    def drawn(x: Tensor, lengths: Tensor | None, rows: slice, monkeypatch: pytest.MonkeyPatch) -> Tensor:
        monkeypatch.setattr(torch, "randn", lambda *shape, **_: start[rows])
        return model.sample(x, 4, lengths, fresh=0.0, guidance=2.5)

    with pytest.MonkeyPatch.context() as patch:
        together = drawn(padded, lengths, slice(None), patch)
        for row, length in enumerate(lengths.tolist()):
            alone = drawn(x[row : row + 1, :length], None, slice(row, row + 1), patch)
            torch.testing.assert_close(together[:, row], alone[:, 0], rtol=0, atol=1e-4)
    # one step of the sampler from the noise that is saved is the point prediction
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", lambda *shape, **_: model.start.expand(3, 1, D))
        once = model.sample(padded, 1, lengths, steps=1)
    point = model(padded, lengths).raw[torch.arange(3), lengths - 1]
    torch.testing.assert_close(once[0], point, rtol=0, atol=1e-4)


@every_diffusion
def test_sampling_is_seeded(preset: str) -> None:
    model, x = stirred(preset), torch.randn(2, 4, D)
    draws = [model.sample(x, 3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert draws[0].shape == (3, 2, D)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0][0], draws[0][1])


@every_diffusion
def test_the_loss_of_what_is_not_meant_to_count(preset: str) -> None:
    model, x, lengths = tiny(preset), torch.randn(2, 5, D), torch.tensor([5, 2])
    mask = torch.arange(5) < lengths[:, None]
    target = torch.randn(2, 5, D).masked_fill(~mask[..., None], float("nan"))
    prediction, own = model.learn(x, lengths, target, mask)
    assert prediction.raw.shape == (2, 5, D)
    (own["generative"] + prediction.raw[mask].square().mean()).backward()
    assert own["generative"].isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    torch.manual_seed(3)
    first = model.learn(x, lengths, target, mask)[1]["generative"]
    torch.manual_seed(3)
    ahead = torch.stack((target, torch.zeros_like(target)), 2)
    assert torch.equal(
        first, model.learn(x, lengths, ahead, mask[..., None].expand(-1, -1, 2))[1]["generative"]
    )


@every_diffusion
def test_every_parameter_learns_from_the_loss_alone(preset: str) -> None:
    model = tiny(preset, residual="ema", gate=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    x = torch.randn(8, 12, D)
    mask = torch.ones(8, 11, dtype=torch.bool)
    for _ in range(4):
        optimizer.zero_grad()
        model.learn(x[:, :-1], None, x[:, 1:], mask)[1]["generative"].backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-9, name


def train(model: LCM, updates: int, batch: int, time: int) -> tuple[float, float]:
    """Train on: after a vector near +1 (all components) comes one near +1 or -1 (3 : 1), after -1 one near 0,
    after 0 one near +1. Returns the mean loss of the first and of the last tenth of the updates."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(updates):
        states = [torch.randint(-1, 2, (batch,))]
        for _ in range(time):
            before = states[-1]
            up = torch.where(torch.rand(batch) < 0.75, 1, -1)
            states.append(torch.where(before == 1, up, before + 1))
        x = torch.stack(states, 1)[..., None].float() + 0.1 * torch.randn(batch, time + 1, model.d_embed)
        mask = torch.ones(batch, time, dtype=torch.bool)
        prediction, own = model.learn(x[:, :-1], None, x[:, 1:], mask)
        loss = own["generative"] + (prediction.raw - x[:, 1:]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(own["generative"].item())
    tenth = max(1, updates // 10)
    return sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth


@every_diffusion
def test_training_reduces_the_loss(preset: str) -> None:
    first, last = train(tiny(preset, 2), 60, 16, 4)
    assert last < 0.75 * first


@pytest.mark.slow
@every_diffusion
def test_sampling_recovers_two_modes(preset: str) -> None:
    model = tiny(preset, 2, hidden=32, ffn=48)
    train(model, 700, 48, 4)
    model.eval()
    x = torch.tensor([[[0.0, 0.0], [1.0, 1.0]], [[1.0, 1.0], [-1.0, -1.0]]])
    drawn = model.sample(x, 1000, generator=torch.Generator().manual_seed(0)).mean(-1)
    up = drawn[:, 0]
    assert float(((up.abs() - 1).abs() < 0.35).float().mean()) > 0.9
    assert float((up > 0).float().mean()) == pytest.approx(0.75, abs=0.1)
    assert float((drawn[:, 1].abs() < 0.35).float().mean()) > 0.9
    point = model(x).raw[:, -1].mean(-1)
    assert point.tolist() == pytest.approx([0.5, 0.0], abs=0.2)  # between the modes, where no vector is


@torch.inference_mode()
def test_normalised_queries_and_keys() -> None:
    """The scores do not change with the length of queries and keys; a fresh layer adds nothing."""
    model = registry.build("lcm", "small", 8, qk_norm=True).eval().double()
    x = torch.randn(2, 7, 8, dtype=torch.float64)
    hidden = model.reader.embed(x)
    torch.testing.assert_close(model.encode(x), model.reader.norm(hidden))
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    assert_forms_agree(model, x)
    before = model(x).raw
    for layer in model.reader.layers:
        layer.attention.query.weight.mul_(3.0)
        layer.attention.key_value.weight[: model.config.hidden].mul_(0.5)
    torch.testing.assert_close(model(x).raw, before, rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match="qk_norm"):
        registry.build("lcm", "small_two_tower", 8, qk_norm=True)
