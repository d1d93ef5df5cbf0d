r"""Documents -> chunks, the steps of the sequence that models read.

Every chunker works the same way: the text is cut into paragraphs (at blank lines), these into sentences
(`sentencex`, and at list items), sentences too long for a chunk into even pieces at word boundaries; then
sentences are grouped. A chunk never crosses a document, keeps its offsets, and gives the text back:

    "".join(c.gap + c.text for c in chunks) == text        text[c.start:c.end] == c.text

for every text without white space at its end (what `normalise_text` gives); gaps are white space only.

A chunker that counts words or tokens can cut with a **phase**, 0 <= phase < 1: the first chunk of every
paragraph, where counting begins, is only 1 - phase of a chunk long, so that the boundaries after it move by
that part of a chunk. Sentences stay whole, sizes obey the same limits, and a paragraph too short to be cut
stays as it is. Chunkers whose boundaries are those of the text (sentence, paragraph) have no phase.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from nextvec.config import from_dict
from nextvec.corpus.spans import UNSHIFTED, Measure, group, sentences_by_paragraph, word_spans
from nextvec.errors import ConfigError, EncoderError

TokenOffsets = Callable[[str], Sequence[tuple[int, int]]]
"""text -> the character span of each of its tokens, in order, special tokens left out."""

MAX_TOKENIZER_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document.

    Attributes:
        text: never empty, no white space at either end.
        start, end: where it stands in the document, in characters.
        gap: the white space between the chunk before (or the document's start) and this one; may be empty.
    """

    text: str
    start: int
    end: int
    gap: str


class Chunker(Protocol):
    """What `ingest` asks of a chunker."""

    kind: ClassVar[str]

    def chunk(self, text: str, phase: Fraction = UNSHIFTED) -> list[Chunk]:
        """Cut one document. A text of white space gives no chunks.

        Raises ConfigError for a phase outside 0 <= phase < 1, and for any but 0 where there is none.
        """

    def describe(self) -> dict[str, Any]:
        """Kind and settings as JSON values; recorded in the store, which takes chunks of one chunker only."""


class _Cutter:
    kind: ClassVar[str]
    language: str

    def describe(self) -> dict[str, Any]:
        """Kind and settings as JSON values."""
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.repr}  # type: ignore[arg-type]
        return {"kind": self.kind, **settings}

    def _cut(self, text: str, phase: Fraction, measure: Measure, maximum: int, **how: int) -> list[Chunk]:
        """Sentences, none of over `maximum` words or tokens, as `spans.group` puts them together."""
        if not 0 <= phase < 1:
            message = f"phase {phase} is not a fraction of a chunk"
            raise ConfigError(message, where="chunker", remedy="give 0 <= phase < 1")
        units = sentences_by_paragraph(text, self.language, measure, maximum)
        chunks, before = [], 0
        for start, end, _ in group(units, maximum=maximum, phase=phase, **how):
            chunks.append(Chunk(text[start:end], start, end, text[before:start]))
            before = end
        return chunks


@dataclass(frozen=True)
class WordChunker(_Cutter):
    """About `words` words: sentences of a paragraph are added while there are fewer than `words`, unless the
    next would make it more than `max_words`.

    What is left at a paragraph's end, if under `min_words`, joins the chunk before, be it of another
    paragraph (the document's first chunk takes in the one after). So a chunk has less than `max_words` +
    `min_words` words, for certain: a sentence of over `max_words` is cut evenly at word boundaries, and a
    short rest that finds no room stays on its own.
    """

    kind: ClassVar[str] = "words"
    words: int = 50
    min_words: int = 20
    max_words: int = 80
    language: str = "en"

    def __post_init__(self) -> None:
        _check(0 <= self.min_words <= self.words <= self.max_words, "0 <= min_words <= words <= max_words")
        _check(self.words >= 1, "words >= 1")
        _check_language(self.language)

    def chunk(self, text: str, phase: Fraction = UNSHIFTED) -> list[Chunk]:
        """Cut one document into chunks.

        With `phase`, the first chunk of a paragraph is of (1 - phase) x `words` words and at most
        (1 - phase) x `max_words` where sentences allow it, and never of under `min_words`.
        """
        room = self.max_words + max(self.min_words - 1, 0)
        sizes = {"target": self.words, "minimum": self.min_words, "room": room}
        return self._cut(text, phase, word_spans, self.max_words, **sizes)


@dataclass(frozen=True)
class _OfSentences(_Cutter):
    """Sentences of a paragraph, added while there are fewer than `_target` words."""

    max_words: int
    language: str = "en"

    def __post_init__(self) -> None:
        _check(self.max_words >= 1, "max_words >= 1")
        _check_language(self.language)

    @property
    def _target(self) -> int:
        return self.max_words

    def chunk(self, text: str, phase: Fraction = UNSHIFTED) -> list[Chunk]:
        """Cut one document into chunks. Raises ConfigError for a phase: these boundaries are the text's."""
        if phase != UNSHIFTED:
            message = f"the {self.kind} chunker cuts where the text does: its boundaries cannot be shifted"
            remedy = "cut by words or tokens, or with a single phase"
            raise ConfigError(message, where="chunker", remedy=remedy)
        sizes = {"target": self._target, "minimum": 0, "room": self.max_words}
        return self._cut(text, phase, word_spans, self.max_words, **sizes)


@dataclass(frozen=True)
class SentenceChunker(_OfSentences):
    """One sentence a chunk; one of over `max_words` words is cut evenly at word boundaries."""

    kind: ClassVar[str] = "sentence"
    max_words: int = 120

    @property
    def _target(self) -> int:
        return 1


@dataclass(frozen=True)
class ParagraphChunker(_OfSentences):
    """One paragraph a chunk; one of over `max_words` words is cut between sentences."""

    kind: ClassVar[str] = "paragraph"
    max_words: int = 250


@dataclass(frozen=True)
class TokenChunker(_Cutter):
    """As many sentences of a paragraph as fit in `tokens` tokens of the encoder's tokenizer.

    Tokens are counted in place, in their paragraph, without special tokens. What is left under
    `min_tokens` at a paragraph's end joins the chunk before if both fit.

    Args:
        tokenizer: text -> character span of each token (see `tokenizer_from_file`).
        tokenizer_id: what `describe` records for it: a hash of the tokenizer's file.
    """

    kind: ClassVar[str] = "tokens"
    tokenizer: TokenOffsets = field(repr=False, compare=False)
    tokenizer_id: str
    tokens: int = 128
    min_tokens: int = 24
    language: str = "en"

    def __post_init__(self) -> None:
        _check(0 <= self.min_tokens <= self.tokens, "0 <= min_tokens <= tokens")
        _check(self.tokens >= 1, "tokens >= 1")
        _check_language(self.language)

    def chunk(self, text: str, phase: Fraction = UNSHIFTED) -> list[Chunk]:
        """Cut one document into chunks.

        With `phase`, the first chunk of a paragraph is as many sentences as fit in (1 - phase) x `tokens`,
        at least one, and never under `min_tokens` where the next sentence could be added.
        """
        sizes = {"target": self.tokens, "minimum": self.min_tokens, "room": self.tokens}
        return self._cut(text, phase, self._token_spans, self.tokens, **sizes)

    def _token_spans(self, text: str) -> list[tuple[int, int]]:
        """Token spans that follow one another and leave out nothing but white space.

        A byte-level tokenizer gives several tokens for one character: all but the last get empty spans.
        Characters that no token covers go with the token before them.
        """
        starts = [start for start, _ in self.tokenizer(text)]
        if any(b < a for a, b in pairwise(starts)):
            remedy = "use the words chunker, or a tokenizer that gives character offsets"
            raise EncoderError("token spans are not in order", where=self.tokenizer_id, remedy=remedy)
        if not starts:
            return [(0, len(text))]
        return list(zip([0, *starts[1:]], [*starts[1:], len(text)], strict=True))


CHUNKERS: dict[str, type[Any]] = {
    c.kind: c for c in (WordChunker, SentenceChunker, ParagraphChunker, TokenChunker)
}


def make_chunker(kind: str = "words", options: Mapping[str, Any] | None = None) -> Chunker:
    """The chunker of this name. Raises ConfigError for an unknown kind or an option it does not have.

    `tokens` needs the options `tokenizer` and `tokenizer_id` (see `tokenizer_from_file`).
    """
    if kind not in CHUNKERS:
        raise ConfigError(f"unknown chunker '{kind}'", remedy=f"choose one of: {', '.join(CHUNKERS)}")
    values = dict(options or {})
    if kind != TokenChunker.kind:
        built: Chunker = from_dict(CHUNKERS[kind], values, where=f"chunker {kind}")
        return built
    known = {f.name for f in fields(TokenChunker)}
    unknown, missing = values.keys() - known, {"tokenizer", "tokenizer_id"} - values.keys()
    if unknown or missing:
        wrong = [
            *(f"unknown option '{n}'" for n in sorted(unknown)),
            *(f"'{n}' missing" for n in sorted(missing)),
        ]
        remedy = f"it takes {', '.join(sorted(known))}"
        raise ConfigError(", ".join(wrong), where="chunker tokens", remedy=remedy)
    return TokenChunker(**values)


def fingerprint(chunker: Chunker) -> str:
    """16 hex digits of the sha256 of `describe()`: equal for chunkers that cut alike."""
    canonical = json.dumps(chunker.describe(), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def tokenizer_from_file(path: str | Path) -> tuple[TokenOffsets, str]:
    """A Hugging Face `tokenizer.json` as (`tokenizer`, `tokenizer_id`) of a TokenChunker.

    Its own truncation and padding are turned off. Raises EncoderError naming the file.
    """
    from tokenizers import Tokenizer

    path, remedy = Path(path), "name a tokenizer.json"
    try:
        if path.stat().st_size > MAX_TOKENIZER_BYTES:
            raise EncoderError(f"larger than {MAX_TOKENIZER_BYTES >> 20} MiB", where=path)
        content = path.read_bytes()
    except OSError as e:
        raise EncoderError(f"cannot be read ({e.strerror})", where=path, remedy=remedy) from None
    try:
        loaded = Tokenizer.from_str(content.decode("utf-8"))
    except Exception as e:  # noqa: BLE001 - tokenizers raises bare Exception
        raise EncoderError(f"is not a tokenizer ({e})", where=path, remedy=remedy) from None
    loaded.no_truncation()
    loaded.no_padding()

    def offsets(text: str) -> list[tuple[int, int]]:
        spans: list[tuple[int, int]] = loaded.encode(text, add_special_tokens=False).offsets
        return spans

    return offsets, f"sha256:{hashlib.sha256(content).hexdigest()}"


def _check(holds: bool, rule: str) -> None:
    if not holds:
        raise ConfigError(f"sizes break the rule {rule}", where="chunker", remedy="correct the sizes")


def _check_language(language: str) -> None:
    if not re.fullmatch(r"[a-z]{2,3}", language):
        message = f"'{language}' is not a language code"
        raise ConfigError(message, where="chunker", remedy="give ISO 639, such as en")


# Views: a document cut again with its chunk boundaries moved, to train on.
#
# A view is a document of its own in the store, with its own chunks and vectors, of the same text as its
# original. It is known by `Document.view_of`, which names the original, and by nothing else: the id `ID~1/4`
# (the original ID with its boundaries moved by a quarter of a chunk) is only a name. Whatever divides, counts
# or evaluates documents asks `Document.view_of` or `originals`, for which a document and its views are one.

MAX_PHASES = 16


class Viewed(Protocol):
    """As much of a store's `Document` as tells views."""

    @property
    def doc_id(self) -> str: ...

    @property
    def view_of(self) -> str | None: ...


def originals(documents: Sequence[Viewed]) -> NDArray[np.int64]:
    """[n] index of each document's original, which for an original is its own."""
    whose = np.arange(len(documents), dtype=np.int64)
    views = [i for i, document in enumerate(documents) if document.view_of is not None]
    if views:
        index = {d.doc_id: i for i, d in enumerate(documents) if d.view_of is None}
        whose[views] = [index[str(documents[i].view_of)] for i in views]
    return whose


def view_id(doc_id: str, phase: Fraction) -> str:
    """The id of a view. In lowest terms, so that 2/4 of a chunk is the view that 1/2 is."""
    return f"{doc_id}~{phase.numerator}/{phase.denominator}"


def shifts(chunker: Chunker, phases: int) -> tuple[Fraction, ...]:
    """The phases k / `phases` of the views, k = 1 .. phases - 1.

    Raises:
        ConfigError: less than 1 or more than 16 phases, or a chunker whose boundaries cannot be shifted.
    """
    if not 1 <= phases <= MAX_PHASES:
        raise ConfigError(f"{phases} phases", where="phases", remedy=f"give 1 to {MAX_PHASES}")
    found = tuple(Fraction(k, phases) for k in range(1, phases))
    for phase in found[:1]:
        chunker.chunk("", phase)  # asks the chunker whether it can
    return found


def new_views(
    chunker: Chunker,
    text: str,
    unshifted: Sequence[Chunk],
    wanted: Sequence[Fraction],
    stored: Callable[[Fraction], bool],
) -> tuple[list[tuple[Fraction, list[Chunk]]], int]:
    """The views of a document that are to be added, and how many are left out because they are cut like the
    original or like another view.

    Args:
        unshifted: the chunks of the original.
        stored: whether the store has the view of this phase already.
    """
    cuts = {phase: chunker.chunk(text, phase) for phase in wanted}
    seen = {_boundaries(unshifted)} | {_boundaries(cuts[phase]) for phase in wanted if stored(phase)}
    found, alike = [], 0
    for phase in (phase for phase in wanted if not stored(phase)):
        boundaries = _boundaries(cuts[phase])
        if boundaries in seen:
            alike += 1
        else:
            seen.add(boundaries)
            found.append((phase, cuts[phase]))
    return found, alike


def _boundaries(chunks: Sequence[Chunk]) -> tuple[tuple[int, int], ...]:
    return tuple((c.start, c.end) for c in chunks)
