"""The inverter as a decoder: text written from a vector by a network trained on the user's own pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from nextvec.corpus.layout import FloatArray
from nextvec.corpus.reading import TextReader
from nextvec.data.trained import TRAINED_ON, TrainedOn
from nextvec.decoding.base import Decoded, Decoder, How
from nextvec.decoding.inverter.decoder import Text, Writing, beam_search, sample
from nextvec.decoding.inverter.saving import load_saved
from nextvec.errors import DecoderError, EncoderMismatchError, RunError
from nextvec.vectors import unit

ROWS = 256
"""Texts written at once: what bounds the memory of the caches."""


class Inverter(Decoder):
    """Writes a text for a vector: a network conditioned on it, trained on a store's own (vector, text) pairs.

    After Morris et al., Text Embeddings Reveal (Almost) As Much As Text, 2023 (the hypothesis model of
    section 3.1), small, and conditioned by a prefix (Li and Liang, Prefix-Tuning, 2021). Nothing is looked
    up: what it writes, nobody wrote. The score is the mean log-probability of a token (see `beam_search`);
    with a reader, the cosine of the text, read again, with the vector that was given.

    Attributes:
        space: whose vectors it was trained on, and how their texts were cut.
        training: store, split and sources it was trained on.
        writing: how texts are written.
        reader: what texts are read again with; None ranks them by probability.
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
            raise EncoderMismatchError(
                "the reader's vectors are not of the encoder that the inverter was trained on",
                where=self.folder,
                remedy="give TextReader(inverter.space)",
            )
        other = copy(self)
        other.reader = reader
        return other

    def texts_of(self, values: FloatArray, n: int) -> list[list[Decoded]]:
        """See `Decoder`: at most n texts a vector, fewer where the beams and samples do not differ."""
        found: list[list[Decoded]] = []
        how = self._wide(n)
        size = max(1, ROWS // max(how.beam, how.samples if self.reader else 0))
        for start in range(0, len(values), size):
            found += self._block(values[start : start + size], how, n)
        return found

    def _wide(self, n: int) -> Writing:
        """As many beams as texts are asked for, at least."""
        fields = {**vars(self.writing), "beam": max(self.writing.beam, n)}
        return Writing(**fields)

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


def load_inverter(folder: str | Path, writing: Writing | None = None, device: str = "cpu") -> Inverter:
    """The inverter of a folder that `train_inverter` made.

    Raises:
        DecoderError: a file that is missing or damaged, or code that answers otherwise than it did when the
            folder was saved; the message names the file.
    """
    return Inverter(folder, writing, device)
