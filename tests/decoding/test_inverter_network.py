"""The network: its cache, its loss, and what it may look at."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nextvec.decoding.inverter import train as rows_at_once
from nextvec.decoding.inverter.network import Network, NetworkConfig
from nextvec.decoding.inverter.train import cross_entropy

B, L, D, V = 3, 9, 12, 40
CONFIG = NetworkConfig(width=16, layers=2, heads=2, ffn=24, prefix=3, dropout=0.0)


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    made = Network(CONFIG, D, V).double().eval()
    for parameter in made.parameters():  # larger than at the start, so that everything has a say
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return made


@pytest.fixture
def settings() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(B, D, dtype=torch.float64), torch.randint(V, (B, L))


def test_token_by_token_as_all_at_once(network: Network, settings) -> None:
    seen, tokens = settings
    whole = network.log_probabilities(network(seen, tokens)[0])
    scores, cache = network.start(seen)
    steps = [scores]
    for t in range(L):
        scores, cache = network.step(tokens[:, t], cache)
        steps.append(scores)
    torch.testing.assert_close(torch.stack(steps, 1), whole, atol=1e-6, rtol=0)


def test_the_cache_follows_the_rows_chosen(network: Network, settings) -> None:
    seen, tokens = settings
    rows = torch.tensor([2, 0, 2])
    _, cache = network.start(seen)
    _, cache = network.step(tokens[:, 0], cache)
    scores, _ = network.step(tokens[rows, 1], cache.chosen(rows))
    whole = network.log_probabilities(network(seen[rows], tokens[rows, :2])[0][:, -1])
    torch.testing.assert_close(scores, whole, atol=1e-6, rtol=0)


def test_no_token_looks_ahead_and_all_see_the_vector(network: Network, settings) -> None:
    seen, tokens = settings
    before = network(seen, tokens)[0]
    later = tokens.clone()
    later[:, 5:] = (later[:, 5:] + 1) % V
    torch.testing.assert_close(network(seen, later)[0][:, :6], before[:, :6])
    assert not torch.allclose(network(seen, later)[0][:, 6:], before[:, 6:])
    moved = (network(seen + 1, tokens)[0] - before).abs().amax(-1)
    assert moved.min() > 1e-3


@pytest.mark.parametrize("rows", [4, 1000])
def test_cross_entropy_is_torchs(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_at_once, "ROWS", rows)
    torch.manual_seed(0)
    hidden = torch.randn(11, 8, requires_grad=True)
    weight = torch.randn(V, 8, requires_grad=True)
    target = torch.randint(V, (11,))
    ours, theirs = cross_entropy(hidden, weight, target), F.cross_entropy(hidden @ weight.T, target)
    torch.testing.assert_close(ours, theirs)
    for mine, wanted in zip(
        torch.autograd.grad(3 * ours, (hidden, weight)),
        torch.autograd.grad(3 * theirs, (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(mine, wanted)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"width": 0}, "between 1 and"),
        ({"width": 18, "heads": 4}, "does not divide"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_sizes_that_cannot_be_meant(sizes: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        NetworkConfig(**sizes)
