"""Beam search and sampling, on a network that knows nothing yet."""

from __future__ import annotations

import pytest
import torch

from nextvec.decoding.inverter.decoder import Writing, beam_search, sample, without_repeats
from nextvec.decoding.inverter.network import Network, NetworkConfig

B, D, V, LENGTH = 5, 8, 30, 12
END = V


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(3)
    made = Network(NetworkConfig(width=16, layers=2, heads=2, ffn=24, prefix=2, dropout=0.0), D, V).eval()
    for parameter in made.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    made.tokens.weight.data[END] *= 1.7  # so that some texts end, and some do not
    return made.requires_grad_(False)


@pytest.fixture(scope="module")
def seen() -> torch.Tensor:
    return torch.randn(B, D, generator=torch.Generator().manual_seed(0))


BAD_FIRST = torch.zeros(V + 1, dtype=torch.bool)
BAD_FIRST[[0, 1, END]] = True
GREEDY = Writing(beam=1, samples=1, temperature=0.0, no_repeat=0)


def write(way, network, seen, how: Writing = GREEDY):
    return way(network, seen, how, LENGTH, BAD_FIRST)


@pytest.mark.parametrize("no_repeat", [0, 2])
def test_one_beam_is_greedy(network: Network, no_repeat: int) -> None:
    seen = torch.randn(40, D, generator=torch.Generator().manual_seed(1))
    how = Writing(beam=1, samples=1, temperature=0.0, no_repeat=no_repeat)
    beams, greedy = write(beam_search, network, seen, how), write(sample, network, seen, how)
    assert [b[0].tokens for b in beams] == [g[0].tokens for g in greedy]
    ended = [len(g[0].tokens) < LENGTH for g in greedy]
    assert set(ended) == {True, False}, "one kind has no case"
    assert [b[0].score for b in beams] == pytest.approx([g[0].score for g in greedy], abs=1e-5)


def test_the_score_is_the_mean_log_probability(network: Network, seen: torch.Tensor) -> None:
    for i, texts in enumerate(write(beam_search, network, seen, Writing(beam=4, no_repeat=0))):
        assert [t.score for t in texts] == sorted((t.score for t in texts), reverse=True)
        assert len({t.tokens for t in texts}) == len(texts) == 4
        for text in texts:
            tokens = torch.tensor([[*text.tokens, END]])
            scores = network.log_probabilities(network(seen[i : i + 1], tokens[:, :-1])[0])
            mean = scores.gather(-1, tokens[..., None]).mean()
            assert text.score == pytest.approx(float(mean), abs=1e-5)


def test_more_beams_find_no_worse(network: Network, seen: torch.Tensor) -> None:
    """Of sums, not means: where lengths count for nothing, and on average over the vectors."""
    one, eight = (
        write(beam_search, network, seen, Writing(beam=width, alpha=0.0, no_repeat=0)) for width in (1, 8)
    )
    better = [wide[0].score - narrow[0].score for wide, narrow in zip(eight, one, strict=True)]
    assert min(better) > -1e-5
    assert max(better) > 0.1


def test_no_text_begins_with_what_it_must_not(network: Network, seen: torch.Tensor) -> None:
    how = Writing(beam=4, samples=20, temperature=3.0, top_p=1.0, no_repeat=0)
    for way in (beam_search, sample):
        first = {text.tokens[0] for texts in write(way, network, seen, how) for text in texts}
        assert not first & {0, 1, END}
        assert len(first) > 4


def test_samples_do_not_depend_on_what_else_is_decoded(network: Network, seen: torch.Tensor) -> None:
    how = Writing(samples=6, temperature=1.0, top_p=0.95)
    together = write(sample, network, seen, how)
    alone = [write(sample, network, row[None], how)[0] for row in seen]
    assert [[t.tokens for t in texts] for texts in together] == [[t.tokens for t in texts] for texts in alone]
    assert len({t.tokens for t in together[0]}) > 3
    again = write(sample, network, seen, Writing(samples=6, temperature=1.0, top_p=0.95, seed=1))
    assert [t.tokens for t in again[0]] != [t.tokens for t in together[0]]


def test_a_narrow_nucleus_is_greedy(network: Network, seen: torch.Tensor) -> None:
    narrow = write(sample, network, seen, Writing(samples=3, temperature=1.0, top_p=1e-9, no_repeat=0))
    greedy = write(sample, network, seen)
    assert [{t.tokens for t in texts} for texts in narrow] == [{texts[0].tokens} for texts in greedy]


def test_draws_follow_the_probabilities(network: Network, seen: torch.Tensor) -> None:
    many = Writing(samples=64, temperature=1.0, top_p=1.0, no_repeat=0)
    scores = network.start(seen)[0].masked_fill(BAD_FIRST, -torch.inf)
    likeliest = scores.softmax(-1)
    drawn = torch.zeros(B, V + 1)
    for seed in range(6):
        for i, texts in enumerate(write(sample, network, seen, Writing(**{**vars(many), "seed": seed}))):
            for text in texts:
                drawn[i, text.tokens[0]] += 1 / (64 * 6)
    assert (drawn - likeliest).abs().max() < 0.08


def test_groups_of_tokens_do_not_come_back(network: Network, seen: torch.Tensor) -> None:
    how = Writing(beam=3, samples=8, temperature=1.5, no_repeat=2)
    for way in (beam_search, sample):
        for text in (t for texts in write(way, network, seen, how) for t in texts):
            pairs = list(zip(text.tokens, text.tokens[1:], strict=False))
            assert len(pairs) == len(set(pairs))


def test_only_what_would_repeat_is_taken_out() -> None:
    scores, written = torch.zeros(1, 10), torch.tensor([[1, 2, 3, 1, 2]])
    assert torch.nonzero(without_repeats(scores, written, 3, 9).isinf()).tolist() == [[0, 3]]
    assert torch.nonzero(without_repeats(scores, written, 1, 9).isinf())[:, 1].tolist() == [1, 2, 3]
    assert torch.equal(without_repeats(scores, written, 0, 9), scores)
    assert torch.equal(without_repeats(scores, torch.tensor([[9, 4, 9, 4]]), 2, 9), scores)


@pytest.mark.parametrize("wrong", [{"beam": 0}, {"beam": 65}, {"samples": -1}, {"top_p": 0.0}, {"alpha": -1}])
def test_ways_that_cannot_be_meant(wrong: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        Writing(**wrong)
