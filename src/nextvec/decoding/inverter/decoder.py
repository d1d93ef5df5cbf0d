"""The inverter as a decoder: text written from a vector by a network trained on the user's own pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from nextvec.config import Checked, number
from nextvec.corpus.layout import FloatArray
from nextvec.corpus.reading import TextReader
from nextvec.data.trained import TRAINED_ON, TrainedOn
from nextvec.decoding.base import Decoded, Decoder, How
from nextvec.decoding.inverter.folder import load_saved
from nextvec.decoding.inverter.network import Network
from nextvec.errors import DecoderError, EncoderMismatchError, RunError
from nextvec.vectors import unit

# Writing texts token by token: beam search, and sampling from the nucleus.
#
# Shapes: B vectors, W beams, n samples, R = rows at work (B W or B n, fewer as texts end), t tokens written,
# V tokens known (the end included), D embedding.

MAX_WIDTH = 64
KEEP = 0.75
"""Ended samples are dropped when fewer than this share of the rows still write: dropping copies the cache."""


@dataclass(frozen=True)
class Writing(Checked):
    """How texts are written.

    Attributes:
        beam: W, texts carried along at once.
        alpha: exponent of the length that a beam's log-probability is divided by.
        no_repeat: no group of so many tokens stands in a text twice; 0 allows it.
        samples: n, drawn beside the beams where they are ranked by reading them again.
        temperature: of the samples; 0 always takes the likeliest token.
        top_p: samples are drawn from the likeliest tokens that together have this probability.
        seed: of the samples.
    """

    beam: int = number(4, least=1, most=MAX_WIDTH)
    alpha: float = number(1.0, least=0)
    no_repeat: int = number(3, least=0)
    samples: int = number(12, least=0, most=MAX_WIDTH)
    temperature: float = number(0.7, least=0)
    top_p: float = number(0.9, above=0, most=1)
    seed: int = number(0, least=0)


@dataclass(frozen=True)
class Text:
    """Tokens of one text, without the end, and its log-probability over its length to the power of alpha."""

    tokens: tuple[int, ...]
    score: float


@torch.inference_mode()
def beam_search(
    network: Network, seen: Tensor, how: Writing, length: int, bad_first: Tensor
) -> list[list[Text]]:
    """For each of the standardised vectors [B, D] at most W texts, the best that are found, the best first.

    A text counts by its log-probability over (its number of tokens)^alpha, the end counted: equation 14 of Wu
    et al., Google's Neural Machine Translation System, 2016, without the 5 that it adds to lengths, so that
    alpha 1 gives the mean log-probability of a token. A vector is done with when W texts have ended.

    Args:
        length: tokens of a text at most.
        bad_first: [V] True for tokens that no text may begin with.
    """
    B, W = len(seen), how.beam
    scores, cache = network.start(seen)
    totals, tokens = scores.masked_fill(bad_first, -math.inf).topk(W)
    cache = cache.chosen(torch.arange(B, device=seen.device).repeat_interleave(W))
    written = tokens[..., None]
    found: list[list[Text]] = [[] for _ in range(B)]
    alive = list(range(B))
    for t in range(2, length + 2):
        scores, cache = network.step(tokens.flatten(), cache)
        scores = without_repeats(scores, written.flatten(0, 1), how.no_repeat, network.end)
        if t == length + 1:  # room for the end and nothing else
            _take_rest(found, alive, totals + scores[:, network.end].view_as(totals), written, t**how.alpha)
            break
        best, at = (totals[..., None] + scores.view(len(alive), W, -1)).flatten(1).topk(2 * W)
        parents, tokens = at // scores.shape[1], at % scores.shape[1]
        _take_ended(found, alive, (best, parents, tokens), written, network.end, t**how.alpha)
        # The W best that go on; of 2 W candidates at most W have ended, one a beam.
        order = (tokens == network.end).int().sort(dim=1, stable=True).indices[:, :W]
        totals, parents, tokens = (part.gather(1, order) for part in (best, parents, tokens))
        open_ = torch.tensor([i for i, b in enumerate(alive) if len(found[b]) < W], device=seen.device)
        alive = [alive[i] for i in open_.tolist()]
        if not alive:
            break
        totals, parents, tokens = totals[open_], parents[open_], tokens[open_]
        rows = open_[:, None] * W + parents
        written = torch.cat((written.flatten(0, 1)[rows], tokens[..., None]), -1)
        cache = cache.chosen(rows.flatten())
    return [sorted(texts, key=lambda text: -text.score)[:W] for texts in found]


def _take_ended(
    found: list[list[Text]],
    alive: list[int],
    candidates: tuple[Tensor, Tensor, Tensor],
    written: Tensor,
    end: int,
    divisor: float,
) -> None:
    """Keep the texts that end here and are among the W best of their vector's candidates."""
    best, parents, tokens = candidates
    for i, rank in torch.nonzero(tokens[:, : written.shape[1]] == end).tolist():
        _take(found[alive[i]], float(best[i, rank]) / divisor, written[i, int(parents[i, rank])])


def _take_rest(
    found: list[list[Text]], alive: list[int], totals: Tensor, written: Tensor, divisor: float
) -> None:
    """Keep what has come to the greatest length, as if it ended there."""
    for i, b in enumerate(alive):
        for w in range(written.shape[1]):
            _take(found[b], float(totals[i, w]) / divisor, written[i, w])


def _take(found: list[Text], score: float, tokens: Tensor) -> None:
    if math.isfinite(score):
        found.append(Text(tuple(tokens.tolist()), score))


@torch.inference_mode()
def sample(network: Network, seen: Tensor, how: Writing, length: int, bad_first: Tensor) -> list[list[Text]]:
    """For each of the standardised vectors [B, D] n texts drawn token by token, in the order drawn.

    From the nucleus: the likeliest tokens that together have the probability top_p, after the temperature
    (Holtzman et al., The Curious Case of Neural Text Degeneration, 2020, section 3.1). The i-th text of every
    vector is drawn by the same random numbers, so that it does not depend on what else is decoded. Scores are
    as in `beam_search`. Arguments as there.
    """
    B, n = len(seen), how.samples
    generator = torch.Generator().manual_seed(how.seed)
    luck = torch.rand(n, length + 1, generator=generator).repeat(B, 1).to(seen.device)
    scores, cache = network.start(seen)
    each = torch.arange(B, device=seen.device).repeat_interleave(n)
    scores, cache = scores.masked_fill(bad_first, -math.inf)[each], cache.chosen(each)
    alive = torch.arange(B * n, device=seen.device)
    written = torch.full((B * n, length + 1), network.end, device=seen.device)
    totals = torch.zeros(B * n, device=seen.device)
    lengths = torch.full((B * n,), length, device=seen.device)
    for t in range(length + 1):
        drawn = _draw(scores, luck[alive, t], how)
        tokens = drawn if t < length else torch.full_like(drawn, network.end)  # no room for more
        writing = written[alive, t - 1] != network.end if t else torch.ones_like(alive, dtype=torch.bool)
        tokens = torch.where(writing, tokens, network.end)
        totals[alive] += torch.where(writing, scores.gather(1, tokens[:, None])[:, 0], 0.0)
        written[alive, t] = tokens
        lengths[alive[writing & (tokens == network.end)]] = t
        going = torch.nonzero(tokens != network.end)[:, 0]
        if not len(going):
            break
        if len(going) < KEEP * len(alive):
            alive, tokens, cache = alive[going], tokens[going], cache.chosen(going)
        scores, cache = network.step(tokens, cache)
        scores = without_repeats(scores, written[alive, : t + 1], how.no_repeat, network.end)
    texts = [
        Text(tuple(row[:size]), total / (size + 1) ** how.alpha)
        for row, size, total in zip(written.tolist(), lengths.tolist(), totals.tolist(), strict=True)
    ]
    return [texts[i * n : (i + 1) * n] for i in range(B)]


def _draw(scores: Tensor, luck: Tensor, how: Writing) -> Tensor:
    """A token [R] for each row of log-probabilities [R, V], by numbers [R] in [0, 1)."""
    if how.temperature == 0:
        return scores.argmax(-1)
    probability, tokens = torch.softmax(scores / how.temperature, -1).sort(dim=-1, descending=True)
    before = probability.cumsum(-1) - probability
    inside = probability * (before < how.top_p)  # the first always is
    reached = inside.cumsum(-1)
    chosen = (reached <= luck[:, None] * reached[:, -1:]).sum(-1, keepdim=True)
    return tokens.gather(1, chosen.clamp(max=scores.shape[1] - 1))[:, 0]


def without_repeats(scores: Tensor, written: Tensor, size: int, end: int) -> Tensor:
    """Log-probabilities [R, V] without the tokens that would make `size` tokens of written [R, t] stand there
    again. The end is never taken out."""
    if not size or written.shape[1] < size:
        return scores
    groups = written.unfold(1, size, 1)  # [R, t - size + 1, size]
    last = written[:, written.shape[1] - size + 1 :]
    again = (groups[..., :-1] == last[:, None]).all(-1)
    rows, at = torch.nonzero(again, as_tuple=True)
    tokens = groups[rows, at, -1]
    scores = scores.clone()
    kept = scores[:, end].clone()
    scores[rows, tokens] = -math.inf
    scores[:, end] = kept
    return scores


ROWS = 256
"""Texts written at once: what bounds the memory of the caches."""


class Inverter(Decoder):
    """Writes a text for a vector: a network conditioned on it, trained on a store's own (vector, text) pairs.

    After Morris et al., Text Embeddings Reveal (Almost) As Much As Text, 2023 (the hypothesis model of
    section 3.1), small, and conditioned by a prefix (Li and Liang, Prefix-Tuning, 2021). Nothing is looked
    up: what it writes, no one wrote. The score is the mean log-probability of a token (see `beam_search`);
    with a reader, the cosine of the text, read again, with the vector that was given.

    Attributes:
        space: whose vectors it was trained on, and how their texts were cut.
        training: store, split and sources it was trained on.
        writing: how texts are written.
        reader: what texts are read again with; None ranks them by probability.
    Raises:
        DecoderError: a file of the folder, which `train_inverter` made, that is missing or damaged, or code
            that answers otherwise than it did when the folder was saved; the message names the file.
    """

    how: ClassVar[How] = "generated"

    def __init__(self, folder: str | Path, writing: Writing | None = None, device: str = "cpu") -> None:
        saved = load_saved(folder)
        self.folder, self.name = Path(folder), "inverter"
        self.space, self.encoder = saved.space, saved.space.fingerprint
        self.normalised = saved.space.normalised
        self.training: dict[str, Any] = saved.info.get("training", {})
        self.trained_on = _trained_on(self.folder / TRAINED_ON)
        self.network = saved.network.to(device)
        self.dimension = saved.network.mean.numel()
        self.tokens, self.length = saved.tokens, saved.length
        self.writing = writing or Writing()
        self.reader: TextReader | None = None
        self._bad_first = torch.from_numpy(np.append(self.tokens.blank(), True)).to(device)

    def with_reader(self, reader: TextReader) -> Self:
        """The same, but of beams and samples the one is the best whose text, read again, comes closest.

        Raises:
            EncoderMismatchError: a reader of another encoder.
        """
        if reader.fingerprint != self.encoder:
            message = "the reader's vectors are not of the encoder that the inverter was trained on"
            raise EncoderMismatchError(message, where=self.folder, remedy="give TextReader(inverter.space)")
        other = copy(self)
        other.reader = reader
        return other

    def texts_of(self, values: FloatArray, n: int) -> list[list[Decoded]]:
        """See `Decoder`: at most n texts a vector, fewer where the beams and samples do not differ."""
        found: list[list[Decoded]] = []
        how = replace(self.writing, beam=max(self.writing.beam, n))
        size = max(1, ROWS // max(how.beam, how.samples if self.reader else 0))
        for start in range(0, len(values), size):
            found += self._block(values[start : start + size], how, n)
        return found

    def _block(self, values: FloatArray, how: Writing, n: int) -> list[list[Decoded]]:
        seen = self.network.standardised(torch.tensor(values, device=self._bad_first.device))
        texts = self._write(beam_search, seen, how)
        if self.reader is None:
            return [_ranked(of_one, n) for of_one in texts]
        if how.samples:
            drawn = self._write(sample, seen, how)
            texts = [{**more, **of_one} for of_one, more in zip(texts, drawn, strict=True)]
        return [_ranked(of_one, n) for of_one in self._read_again(self.reader, values, texts)]

    def _write(
        self, way: Callable[..., list[list[Text]]], seen: Tensor, how: Writing
    ) -> list[dict[str, float]]:
        """Text -> score, for each vector."""
        written = way(self.network, seen, how, self.length, self._bad_first)
        return [
            {
                text.strip(): one.score
                for text, one in zip(self.tokens.decode([t.tokens for t in of_one]), of_one, strict=True)
            }
            for of_one in written
        ]

    def _read_again(
        self, reader: TextReader, values: FloatArray, texts: Sequence[dict[str, float]]
    ) -> list[dict[str, float]]:
        """Text -> cosine with the vector it was written for."""
        flat = list(dict.fromkeys(text for of_one in texts for text in of_one))
        vectors = dict(zip(flat, reader.encode(flat).unit().values, strict=True))
        return [
            {text: float(vectors[text] @ wanted) for text in of_one}
            for of_one, wanted in zip(texts, unit(values), strict=True)
        ]


def _trained_on(path: Path) -> TrainedOn:
    try:
        return TrainedOn.load(path)
    except RunError as e:
        raise DecoderError(e.message, where=e.where, remedy=e.remedy) from None


def _ranked(texts: dict[str, float], n: int) -> list[Decoded]:
    ordered = sorted(texts.items(), key=lambda pair: -pair[1])[:n]
    return [Decoded(text, score, "generated") for text, score in ordered]
